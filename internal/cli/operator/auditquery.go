package operator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const auditQueryHelp = `Find events in audit logs: who read a secret, or which secrets a runtime received.

--secret accepts a reference, or its beginning STORE::NAME, in any spelling. With a
JSON key it finds the reads of that key and of the whole secret, which contains it;
with a version it finds only the reads of that version. --principal accepts the
patterns of grants. A time is RFC 3339, a date (UTC), or a duration before now: 7d.

--distinct prints one line per principal, secret and outcome, with a count. A
runtime received a value only if the outcome is "served"; "checked" means that the
broker read the value and did not send it.

The jsonl output has the unchanged lines of the log. The command does not verify the
chain: run "secretbroker audit verify" first.

Exit codes: 0 success, also if nothing was found; 1 a file cannot be read; 2 the
command line is invalid.`

// auditQuestion has the flags of "secretbroker audit query".
type auditQuestion struct {
	filter                    logread.Filter
	reference, from, to       string
	principals, outcomeFilter []string
	typeFilter                []string
	distinct                  bool
	output                    string
}

func newAuditQueryCommand() *cobra.Command {
	var q auditQuestion
	cmd := &cobra.Command{
		Use:   "query [flags] FILE...",
		Short: "Find who read a secret, or which secrets a runtime received",
		Long:  auditQueryHelp,
		Example: `  secretbroker audit query --secret https://my-vault.vault.azure.net::db-secret --outcome served \
      --from 2027-01-10T00:00:00Z --to 2027-01-11T00:00:00Z audit.jsonl.1 audit.jsonl
  secretbroker audit query --principal spiffe://example.org/connect/worker-1 --distinct --from 3d audit.jsonl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := q.parse(time.Now()); err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			unreadable, err := q.answer(cmd, files)
			if err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			if unreadable > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d line(s) are not records and were skipped; \"secretbroker audit verify\" reports the first one\n", unreadable)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.reference, "secret", "", "events of this secret: a reference")
	f.StringArrayVar(&q.principals, "principal", nil, "events of this caller, or of callers that match a pattern (repeatable)")
	f.StringVar(&q.filter.IntegrationID, "integration", "", "events of this integration")
	f.StringVar(&q.filter.GrantID, "grant-id", "", "reads that the grant with this id allowed")
	f.StringVar(&q.filter.CertificateSHA256, "certificate-sha256", "", "events of callers with the certificate that has this hash")
	f.StringVar(&q.filter.Method, "method", "", "events of this method, such as Resolve or UpdateIntegration")
	f.StringSliceVar(&q.typeFilter, "type", nil, "events of one of these types: access, management, refusals, restore")
	f.StringVar(&q.filter.Connector, "connector", "", "events of this connector, as the callers named it")
	f.StringVar(&q.filter.RequestID, "request-id", "", "events of this request")
	f.StringSliceVar(&q.outcomeFilter, "outcome", nil, "events with one of these outcomes: served, withheld, checked, answered, attempted, changed, denied, failed, rejected, counted")
	f.StringVar(&q.from, "from", "", "events at this time or later")
	f.StringVar(&q.to, "to", "", "events before this time")
	f.BoolVar(&q.distinct, "distinct", false, "count events: one line for each principal, secret and outcome")
	terminal.CompleteWords(cmd, "type", "access", "management", "refusals", "restore")
	terminal.CompleteWords(cmd, "outcome", "served", "withheld", "checked", "answered", "attempted", "changed", "denied", "failed", "rejected", "counted")
	for _, flag := range []string{"secret", "principal", "integration", "grant-id", "certificate-sha256", "method", "connector", "request-id", "from", "to"} {
		terminal.CompleteWords(cmd, flag)
	}
	terminal.RegisterOutput(cmd, &q.output, "table", "jsonl")
	return cmd
}

// parse sets the filter from the flags.
func (q *auditQuestion) parse(now time.Time) (err error) {
	if q.reference != "" {
		if q.filter.Secret, err = secret.ParseRef(q.reference); err != nil {
			return fmt.Errorf("--secret: %w", err)
		}
	}
	if len(q.principals) > 0 {
		if q.filter.Principals, err = authz.NewPrincipals(q.principals); err != nil {
			return fmt.Errorf("--principal: %w", err)
		}
	}
	for _, s := range q.outcomeFilter {
		outcome, err := audit.ParseOutcome(s)
		if err != nil {
			return fmt.Errorf("--outcome: %w", err)
		}
		q.filter.Outcomes = append(q.filter.Outcomes, outcome)
	}
	for _, s := range q.typeFilter {
		t, err := audit.ParseType(s)
		if err != nil {
			return fmt.Errorf("--type: %w", err)
		}
		q.filter.Types = append(q.filter.Types, t)
	}
	if s := strings.ToLower(strings.ReplaceAll(q.filter.CertificateSHA256, ":", "")); s != "" { // openssl prints AB:CD:...
		if sum, err := hex.DecodeString(s); err != nil || len(sum) != sha256.Size {
			return errors.New("--certificate-sha256: expected 64 hexadecimal digits")
		}
		q.filter.CertificateSHA256 = s
	}
	if q.filter.From, err = parseTime(q.from, now); err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	if q.filter.To, err = parseTime(q.to, now); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if !q.filter.To.IsZero() && !q.filter.From.Before(q.filter.To) {
		return errors.New("--from must be before --to")
	}
	return nil
}

// parseTime parses a time flag. It returns the zero time for "".
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	d, err := integration.ParseDuration(strings.TrimSuffix(s, " ago"))
	if err != nil || d < 0 {
		return time.Time{}, errors.New("expected a time such as 2027-01-10T08:00:00Z or 2027-01-10, or a duration before now such as 90m or 7d")
	}
	return now.Add(-d), nil
}

// answer prints the events and returns the number of lines that could not be parsed.
func (q *auditQuestion) answer(cmd *cobra.Command, files []string) (unreadable int, err error) {
	out := cmd.OutOrStdout()
	if q.distinct {
		all, unreadable, err := logread.Distinct(cmd.Context(), &q.filter, files)
		if err != nil {
			return 0, err
		}
		return unreadable, printAccesses(out, q.output, all)
	}
	if q.output == "jsonl" {
		return logread.Query(cmd.Context(), &q.filter, files, func(r *logread.Record) error {
			_, err := out.Write(append(r.Line, '\n'))
			return err
		})
	}
	table := eventTable{w: tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)}
	unreadable, err = logread.Query(cmd.Context(), &q.filter, files, table.add)
	return unreadable, errors.Join(err, table.w.Flush())
}

// eventTable prints events. It aligns the columns per 1000 rows, so that it needs memory
// for these only.
type eventTable struct {
	w    *tabwriter.Writer
	rows int
}

func (t *eventTable) add(r *logread.Record) error {
	if t.rows == 0 {
		fmt.Fprintln(t.w, "TIME\tOUTCOME\tREASON\tPRINCIPAL\tINTEGRATION\tCONNECTOR\tREFERENCE\tVERSION\tREQUEST")
	}
	for i, cell := range []string{
		r.Time.UTC().Format(time.RFC3339), string(r.Outcome), string(r.Reason), string(r.Principal), r.IntegrationID, r.Connector,
		subjectOf(r), r.Version, r.RequestID,
	} {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, terminal.OrDash(cell))
	}
	fmt.Fprintln(t.w)
	if t.rows++; t.rows%1000 == 0 {
		return t.w.Flush()
	}
	return nil
}

// subjectOf describes the subject of an event: the reference of a config, or a call with what
// it was about.
func subjectOf(r *logread.Record) string {
	if r.Count != nil {
		return countOf(r.Count)
	}
	if r.Type == audit.TypeAccess && r.Reference != "" {
		return r.Reference
	}
	var parts []string
	if r.Reference != "" {
		parts = append(parts, r.Reference)
	}
	if r.Subject != "" {
		parts = append(parts, "for "+string(r.Subject))
	}
	if r.Change != nil {
		parts = append(parts, slices.Concat(r.Change.Fields, r.Change.Credentials)...)
	}
	if w := r.Watched; w != nil {
		parts = append(parts, w.Secrets...)
		if w.Omitted > 0 {
			parts = append(parts, fmt.Sprintf("%d more", w.Omitted))
		}
	}
	if r.Note != "" {
		parts = append(parts, r.Note)
	}
	return strings.TrimSpace(r.Method + " " + strings.Join(parts, ", "))
}

// countOf describes a Count, with the number of refusals per reason.
func countOf(c *audit.Count) string {
	parts := make([]string, 0, len(c.Reasons))
	for _, reason := range slices.Sorted(maps.Keys(c.Reasons)) {
		parts = append(parts, fmt.Sprintf("%s %d", reason, c.Reasons[reason]))
	}
	text := fmt.Sprintf("%d more refusals since %s", c.Total, c.Since.UTC().Format(time.RFC3339))
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}

// secretOf returns the store and the name of a secret as a reference begins with them.
func secretOf(a *logread.Access) string {
	if a.Secret == "" {
		return ""
	}
	return a.Store + "::" + a.Secret
}

func printAccesses(w io.Writer, output string, all []logread.Access) error {
	if output == "jsonl" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for i := range all {
			if err := enc.Encode(&all[i]); err != nil { //nolint:gosec // G117: the name of a secret
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "PRINCIPAL\tINTEGRATION\tSECRET\tOUTCOME\tCOUNT\tFIRST\tLAST")
	for i := range all {
		a := &all[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", terminal.OrDash(string(a.Principal)), terminal.OrDash(a.IntegrationID), terminal.OrDash(secretOf(a)), terminal.OrDash(string(a.Outcome)),
			a.Count, a.FirstTime.UTC().Format(time.RFC3339), a.LastTime.UTC().Format(time.RFC3339))
	}
	return t.Flush()
}
