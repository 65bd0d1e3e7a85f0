package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

func printIntegrations(w io.Writer, kinds *integration.Kinds, output string, all []*client.Integration, now time.Time) error {
	if output != "table" {
		list := make([]IntegrationJSON, len(all))
		for i, in := range all {
			var err error
			if list[i], err = structuredIntegration(kinds, in, nil); err != nil {
				return err
			}
		}
		return printStructured(w, output, map[string]any{"integrations": list})
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tKIND\tREGION\tGRANTS\tLAST USED\tSTATE")
	replica := false
	for _, in := range all {
		used := notUsedText(in.UsageRecording)
		if !in.LastUseTime.IsZero() {
			used = now.Sub(in.LastUseTime).Round(time.Second).String() + " ago"
		}
		state := stateOf(in)
		if len(in.Problems) > 0 {
			state += ": " + shortened(terminal.Printable(in.Problems[0].Message), 100)
		}
		grants := strconv.Itoa(len(in.Grants))
		if in.State == client.IntegrationInactive && in.Kind == "" { // the grants are unknown
			grants = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", in.ID, terminal.OrDash(in.DisplayName), terminal.OrDash(in.Kind), terminal.OrDash(in.Placement.Region), grants, used, state)
		replica = replica || in.UsageRecording.ReplicaOnly
	}
	if err := t.Flush(); err != nil || !replica {
		return err
	}
	_, err := fmt.Fprintln(w, replicaText)
	return err
}

// replicaText says that the usage above is not that of all replicas.
const replicaText = "\nUsage is that of the replica that answered; other replicas record their own."

// notUsedText describes that no use is recorded.
func notUsedText(r client.UsageRecording) string {
	if r.RecordedSince.IsZero() {
		return "not recorded"
	}
	return "not since " + momentText(r.RecordedSince)
}

// shortened returns s, cut to about max bytes.
func shortened(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return strings.ToValidUTF8(s[:max], "") + "..."
}

func stateOf(in *client.Integration) string {
	switch {
	case in.State == client.IntegrationDegraded:
		return "faulty, the last valid version is in effect"
	case len(in.Problems) > 0:
		return "faulty"
	case in.ReadOnly:
		return "read-only"
	default:
		return "ok"
	}
}

// printRecording says since when the usage above is recorded.
func printRecording(w io.Writer, in *client.Integration) error {
	return printRecordingText(w, in.UsageRecording, len(in.Grants) > 0)
}

func printRecordingText(w io.Writer, r client.UsageRecording, grants bool) error {
	if !r.RecordedSince.IsZero() {
		fmt.Fprintf(w, "\nUses are recorded since %s", momentText(r.RecordedSince))
		if r.GrantsRecordedSince.After(r.RecordedSince) && grants {
			fmt.Fprintf(w, ", those of the grants as they are now since %s", momentText(r.GrantsRecordedSince))
		}
		fmt.Fprintln(w, ".")
	}
	if r.ReplicaOnly {
		_, err := fmt.Fprintln(w, replicaText)
		return err
	}
	return nil
}
