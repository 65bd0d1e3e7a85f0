package cli

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/campaign"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

type (
	// RotationJSON is the JSON output of connect rotate.
	RotationJSON struct {
		ID         string    `json:"id"`
		State      string    `json:"state"`
		Reason     string    `json:"reason,omitempty"`
		CreateTime time.Time `json:"create_time"`
		EndTime    time.Time `json:"end_time,omitzero"`
		// Summary is the output as one line.
		Summary string `json:"summary"`
		// Rollback says what going back would take.
		Rollback   string                 `json:"rollback,omitempty"`
		Connectors []RotatedConnectorJSON `json:"connectors"`
	}
	// RotatedConnectorJSON is one connector, in the order of the restarts.
	RotatedConnectorJSON struct {
		Cluster      string                 `json:"cluster"`
		Connector    string                 `json:"connector"`
		State        string                 `json:"state"`
		Reason       string                 `json:"reason,omitempty"`
		Canary       bool                   `json:"canary,omitempty"`
		FailedBefore bool                   `json:"failed_before,omitempty"`
		AcceptTime   time.Time              `json:"accept_time,omitzero"`
		VerifyTime   time.Time              `json:"verify_time,omitzero"`
		References   []RotatedReferenceJSON `json:"references"`
		// Proof are the reads of the new versions, and Weak says that they may be of other
		// connectors of the same identity.
		Proof   []ProofJSON `json:"proof,omitempty"`
		Weak    bool        `json:"weak,omitempty"`
		Missing []string    `json:"missing,omitempty"`
	}
	// RotatedReferenceJSON is a reference and the version that the connector must have.
	RotatedReferenceJSON struct {
		Property    string `json:"property"`
		Integration string `json:"integration"`
		Reference   string `json:"reference"`
		Version     string `json:"version,omitempty"`
	}
	// ProofJSON is a read of the new version. RequestID and AuditSequence are of the first
	// read of the version.
	ProofJSON struct {
		Principal     string    `json:"principal"`
		Connector     string    `json:"connector,omitempty"`
		Version       string    `json:"version"`
		LastUseTime   time.Time `json:"last_use_time"`
		RequestID     string    `json:"request_id,omitempty"`
		AuditSequence int64     `json:"audit_sequence,omitempty"`
		Replica       string    `json:"replica,omitempty"`
	}
)

func newRotationJSON(c *campaign.Campaign) RotationJSON {
	out := RotationJSON{
		ID: c.ID, State: string(c.State), Reason: c.Reason, CreateTime: c.CreateTime, EndTime: c.EndTime, Summary: summaryOf(c), Rollback: rollbackOf(c),
		Connectors: []RotatedConnectorJSON{},
	}
	for _, it := range c.Connectors {
		j := RotatedConnectorJSON{
			Cluster: it.Cluster, Connector: it.Name, State: string(it.State), Reason: it.Reason, Canary: it.Canary, FailedBefore: it.FailedBefore,
			AcceptTime: it.AcceptTime, VerifyTime: it.VerifyTime, References: []RotatedReferenceJSON{}, Weak: it.Weak, Missing: it.Missing,
		}
		for _, r := range it.References {
			j.References = append(j.References, RotatedReferenceJSON{r.Property, r.Integration, r.Reference, r.Version})
		}
		for _, p := range it.Proof {
			j.Proof = append(j.Proof, ProofJSON{p.Principal, p.Connector, p.Version, p.LastTime, p.RequestID, p.AuditSequence, p.Replica})
		}
		out.Connectors = append(out.Connectors, j)
	}
	return out
}

// summaryOf is one line for a chat.
func summaryOf(c *campaign.Campaign) string {
	count := make(map[campaign.State]int)
	for _, it := range c.Connectors {
		count[it.State]++
	}
	text := "rotation " + string(c.State) + ":"
	for _, s := range []campaign.State{campaign.Verified, campaign.Failed, campaign.Stalled, campaign.Running, campaign.Pending, campaign.Skipped} {
		if count[s] > 0 {
			text += fmt.Sprintf(" %d %s,", count[s], strings.ToLower(string(s)))
		}
	}
	if len(c.Connectors) == 0 {
		return text + " no connector uses the secret"
	}
	text = strings.TrimSuffix(text, ",") + " of " + fmt.Sprint(len(c.Connectors)) + " connectors"
	if !c.EndTime.IsZero() {
		text += " in " + c.EndTime.Sub(c.CreateTime).Round(time.Second).String()
	}
	if c.Reason != "" {
		text += "; " + c.Reason
	}
	return terminal.Printable(text)
}

// rollbackOf says what going back to the previous version would take.
func rollbackOf(c *campaign.Campaign) string {
	var names []string
	for _, it := range c.Connectors {
		if !it.AcceptTime.IsZero() {
			names = append(names, it.Cluster+"/"+it.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("to go back, make the previous version the current one in the store, if its login is still valid, and run the same command again; it restarts the connectors that have the new version: %s", strings.Join(names, ", "))
}

// report prints the result of a campaign. ended is why it did not reach a final state.
func (r *rotation) report(cmd *cobra.Command, c *campaign.Campaign, ended error) error {
	var err error
	switch r.output {
	case "json":
		err = terminal.PrintJSON(cmd.OutOrStdout(), newRotationJSON(c))
	case "line":
		_, err = fmt.Fprintln(cmd.OutOrStdout(), summaryOf(c))
	default:
		err = printRotation(cmd, c)
	}
	switch {
	case err != nil:
		return &exit.Error{Code: exit.Failure, Err: err}
	case ended != nil:
		return &exit.Error{Code: exit.Failure, Err: fmt.Errorf("the command ended before the rotation did: %w; connectors in the state RUNNING were restarted and are not proved; run it again", ended)}
	}
	switch c.State {
	case campaign.Verified:
		return nil
	case campaign.Stalled:
		return &exit.Error{Code: exit.Findings}
	case campaign.Halted:
		return &exit.Error{Code: exit.Precondition}
	default:
		return &exit.Error{Code: exit.Failure}
	}
}

func printRotation(cmd *cobra.Command, c *campaign.Campaign) error {
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	if len(c.Connectors) > 0 {
		fmt.Fprintln(t, "CLUSTER\tCONNECTOR\tSTATE\tRESTARTED\tPROVED AFTER\tVERSION\tREQUEST\tAUDIT")
	}
	weak := 0
	for _, it := range c.Connectors {
		restarted, after, version, request, sequence := "-", "-", "-", "-", "-"
		if !it.AcceptTime.IsZero() {
			restarted = it.AcceptTime.UTC().Format(time.RFC3339)
		}
		if it.State == campaign.Verified {
			after = it.VerifyTime.Sub(it.AcceptTime).Round(time.Second).String()
		}
		if len(it.Proof) > 0 {
			version, request, sequence = it.Proof[0].Version, terminal.OrDash(it.Proof[0].RequestID), fmt.Sprint(it.Proof[0].AuditSequence)
		}
		if it.Weak {
			weak++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", terminal.Printable(it.Cluster), terminal.Printable(it.Name), it.State, restarted, after, terminal.Printable(version), request, sequence)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	for _, it := range c.Connectors {
		for _, text := range slices.Concat([]string{it.Reason}, it.Missing) {
			if text != "" && it.State != campaign.Verified {
				fmt.Fprintf(w, "%s/%s: %s\n", terminal.Printable(it.Cluster), terminal.Printable(it.Name), terminal.Printable(text))
			}
		}
	}
	if weak > 0 {
		fmt.Fprintf(w, "weaker proof for %d connectors: their placeholders name no connector, so reads of other connectors of the same worker count; write ${secretbroker:INTEGRATION/CONNECTOR:REFERENCE}\n", weak)
	}
	if text := rollbackOf(c); text != "" {
		fmt.Fprintln(w, terminal.Printable(text))
	}
	_, err := fmt.Fprintln(w, summaryOf(c))
	return err
}

// printOrder prints what a campaign would do.
func (r *rotation) printOrder(cmd *cobra.Command, c *campaign.Campaign) error {
	var err error
	switch r.output {
	case "json":
		err = terminal.PrintJSON(cmd.OutOrStdout(), newRotationJSON(c))
	case "line":
		_, err = fmt.Fprintln(cmd.OutOrStdout(), summaryOf(c))
	default:
		t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "CLUSTER\tCONNECTOR\tTASKS\tACTION")
		canary := true
		for _, it := range c.Connectors {
			action := "restart"
			switch {
			case it.State == campaign.Skipped:
				action = "leave alone: " + it.Reason
			case canary:
				action, canary = "restart first (canary)", false
			case it.FailedBefore:
				action = "restart (has FAILED)"
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", terminal.Printable(it.Cluster), terminal.Printable(it.Name), it.Tasks, terminal.Printable(action))
		}
		if err = t.Flush(); err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), "nothing was restarted (--dry-run)")
		}
	}
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	return nil
}
