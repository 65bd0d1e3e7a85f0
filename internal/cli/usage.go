package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const usageHelp = `List which principals and connectors use which secrets, and in which version, over
all integrations on which this caller has a role.

The current version of a secret is the one that the broker found when it last read
the secret from its store: for a call, or because the secret is watched or was
refreshed. It is unknown for stores without versions if the broker has no version
key, and for credentials that a read generates. A use is outdated if the version
that it read last is another one. That a use has read the current version does not
prove that the old one is no longer in use: see ATTRIBUTION.

ATTRIBUTION is "connector" if the caller named its connector; in Kafka Connect, a
label in the placeholder does that. Otherwise it is "principal": the entry has the
reads of all connectors of the principal that are not named, and each of them may
still use any of the versions. This is weaker evidence.

With --output json, each of the last four versions has the times of the first and the
last read, and the request id, the replica and the audit sequence of the first one,
by which "secretbroker audit query" finds its record.

Exit codes: 0 success, also if there are no entries; 1 other failure; 2 the command
line is invalid; 3 no role on the integration; 4 the filter is invalid; 5 the
integration does not exist; 7 no trusted broker answers at the address; 8 try again
later.`

// usageQuestion is what the usage command asks for.
type usageQuestion struct {
	secret, version, connector, principal, filter string
	outdated                                      bool
}

// UsageListJSON is the JSON output of usage.
type UsageListJSON struct {
	Usage     []UsageJSON    `json:"usage"`
	Recording *RecordingJSON `json:"usage_recording,omitempty"`
}

func newUsageCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m  = managing{kinds: kinds}
		q  usageQuestion
		id string
	)
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "List who uses which secret in which version",
		Long:  usageHelp,
		Example: `  secretbroker usage --outdated
  secretbroker usage --secret 'https://my-vault.vault.azure.net::orders-db' --version 338c30a5994ef82b019e3d455371cf78
  secretbroker usage --integration cspi-sqlserver --connector orders-sink -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := client.ListUsageRequest{IntegrationID: client.AllIntegrations}
			if id != "" {
				if err := checkID("--integration", id); err != nil {
					return &exit.Error{Code: exit.Usage, Err: err}
				}
				req.IntegrationID = id
			}
			var err error
			if req.Filter, err = q.terms(); err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				all := client.ListUsageResponse{}
				for page, err := range cl.ListUsage(ctx, req) {
					if err != nil {
						return err
					}
					all.Usage = append(all.Usage, page.Usage...)
					all.Recording = page.Recording
				}
				return printed(printUsage(cmd.OutOrStdout(), m.output, &all))
			})
		},
	}
	m.register(cmd)
	cmd.Flags().StringVar(&q.secret, "secret", "", "only this secret: its reference or its name, which may end with *")
	cmd.Flags().StringVar(&q.version, "version", "", "only uses that read this version last")
	cmd.Flags().BoolVar(&q.outdated, "outdated", false, "only uses that have not read the current version")
	cmd.Flags().StringVar(&id, "integration", "", "only this integration (default: all on which this caller has a role)")
	cmd.Flags().StringVar(&q.connector, "connector", "", "only this connector, which may end with *")
	cmd.Flags().StringVar(&q.principal, "principal", "", "only this principal, which may end with *")
	cmd.Flags().StringVar(&q.filter, "filter", "", "only uses that match this filter of the API")
	_ = cmd.RegisterFlagCompletionFunc("integration", m.completeOneID) // the flag exists
	for _, flag := range []string{"secret", "version", "connector", "principal", "filter"} {
		terminal.CompleteWords(cmd, flag)
	}
	return cmd
}

// terms returns the filter.
func (q *usageQuestion) terms() (string, error) {
	var terms []string
	var faults []error
	add := func(flag, field, value string) {
		switch {
		case value == "":
		case strings.Contains(value, `"`):
			faults = append(faults, fmt.Errorf(`--%s: a filter cannot have quotes; use the text before them with * at its end`, flag))
		default:
			terms = append(terms, field+` = "`+value+`"`)
		}
	}
	name := q.secret
	if strings.Contains(name, "::") {
		ref, err := secret.ParseRef(name)
		if err != nil {
			return "", fmt.Errorf("--secret: %w", faultOfReference(err))
		}
		if ref.Version != "" {
			return "", errors.New("--secret: leave out the version of the reference, and use --version")
		}
		add("secret", "store", ref.Store)
		add("secret", "json_key", ref.Key)
		name = ref.Name
	}
	add("secret", "secret", name)
	add("version", "version", q.version)
	add("connector", "connector", q.connector)
	add("principal", "principal", q.principal)
	if q.outdated {
		terms = append(terms, "outdated")
	}
	if q.filter != "" {
		terms = append(terms, q.filter)
	}
	return strings.Join(terms, " AND "), errors.Join(faults...)
}

func usageJSON(u *client.Usage) UsageJSON {
	out := UsageJSON{
		IntegrationID: u.IntegrationID, Principal: u.Principal, Connector: u.Connector, Attribution: string(u.Attribution),
		Store: u.Store, Secret: u.Secret, JSONKey: u.JSONKey, Version: u.Version,
		FirstUseTime: timeOrNil(u.FirstUseTime), LastUseTime: timeOrNil(u.LastUseTime), GrantID: u.GrantID,
		CurrentVersion: u.CurrentVersion, State: string(u.State),
	}
	for _, v := range u.Versions {
		out.Versions = append(out.Versions, VersionUseJSON{v.Version, timeOrNil(v.FirstUseTime), timeOrNil(v.LastUseTime), v.RequestID, v.AuditSequence, v.Replica})
	}
	return out
}

func printUsage(w io.Writer, output string, all *client.ListUsageResponse) error {
	if output != "table" {
		out := UsageListJSON{Usage: make([]UsageJSON, len(all.Usage))}
		for i := range all.Usage {
			out.Usage[i] = usageJSON(&all.Usage[i])
		}
		if r := all.Recording; r != (client.UsageRecording{}) {
			out.Recording = &RecordingJSON{timeOrNil(r.RecordedSince), timeOrNil(r.GrantsRecordedSince), r.ReplicaOnly}
		}
		return printStructured(w, output, out)
	}
	if len(all.Usage) == 0 {
		fmt.Fprintln(w, "no uses match")
		return printRecordingText(w, all.Recording, false)
	}
	slices.SortStableFunc(all.Usage, func(a, b client.Usage) int {
		return cmp.Or(strings.Compare(secretText(&a), secretText(&b)), strings.Compare(a.IntegrationID, b.IntegrationID), strings.Compare(a.Principal, b.Principal), strings.Compare(a.Connector, b.Connector))
	})
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SECRET\tINTEGRATION\tPRINCIPAL\tCONNECTOR\tVERSION\tSTATE\tFIRST READ\tLAST READ\tATTRIBUTION")
	for i := range all.Usage {
		u := &all.Usage[i]
		first := "" // of the version
		if len(u.Versions) > 0 {
			first = momentText(u.Versions[0].FirstUseTime)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", terminal.OrDash(secretText(u)), terminal.OrDash(u.IntegrationID), terminal.OrDash(u.Principal), terminal.OrDash(u.Connector),
			terminal.OrDash(u.Version), stateText(u), terminal.OrDash(first), terminal.OrDash(momentText(u.LastUseTime)), terminal.OrDash(strings.ToLower(string(u.Attribution))))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printRecordingText(w, all.Recording, false)
}

// secretText returns the reference of a used secret.
func secretText(u *client.Usage) string {
	if u.Secret == "" {
		return ""
	}
	text := u.Store + "::" + u.Secret
	if u.JSONKey != "" {
		text += "::" + u.JSONKey
	}
	return text
}

// stateText says whether a use has read the current version, and which one that is.
func stateText(u *client.Usage) string {
	switch {
	case u.State == client.VersionOutdated:
		return "outdated, current is " + terminal.Printable(u.CurrentVersion)
	case u.State == client.VersionCurrent:
		return "current"
	case u.Secret == "":
		return "-"
	default:
		return "unknown"
	}
}
