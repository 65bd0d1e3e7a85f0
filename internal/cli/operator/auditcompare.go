package operator

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage/history"
)

const auditCompareHelp = `Compare the database of integrations with the last changes in audit logs. After you
have restored a backup, the command lists what the restore has undone: grants and
integrations that are back although they were revoked or deleted since, grants and
integrations that are missing, and other settings and credentials that are older
than the last recorded change.

Give the logs of all replicas, including rotated ones, that begin before the time
of the backup. The command only counts integrations that no log mentions. If the
log does not have the result of a change, because the broker stopped during it,
both results are accepted.

The command reads the database and changes nothing. Run "secretbroker audit verify" on
the logs first.

Exit codes: 0 no difference; 1 a file or the database cannot be read; 2 the command
line or the configuration is invalid; 9 there are differences.`

func newAuditCompareCommand(kinds *integration.Kinds) *cobra.Command {
	var configFile, output string
	cmd := &cobra.Command{
		Use:     "compare --config secretbroker.yaml FILE...",
		Short:   "Find what a restored database has undone",
		Long:    auditCompareHelp,
		Example: "  secretbroker audit compare --config /etc/secretbroker/secretbroker.yaml audit.jsonl.2.gz audit.jsonl.1 audit.jsonl",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			cfg, err := config.Load(configFile)
			if err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			kept, err := readKept(cmd.Context(), cfg, configFile)
			if err != nil {
				return err
			}
			h, err := history.Read(cmd.Context(), files)
			if err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			report := h.Compare(kinds, kept)
			if err := printComparison(cmd.OutOrStdout(), output, h, len(kept), &report); err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			if len(report.Findings) > 0 {
				return &exit.Error{Code: exit.Findings}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file, whose registry is compared (required)")
	_ = cmd.MarkFlagRequired("config") // the flag exists
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	terminal.RegisterOutput(cmd, &output, "table", "json")
	return cmd
}

func readKept(ctx context.Context, cfg *config.Config, configFile string) (map[string]history.Kept, error) {
	db, err := readRegistry(ctx, cfg, configFile)
	if err != nil {
		return nil, err
	}
	defer db.Close() // opened for reading
	rows, err := db.Integrations(ctx)
	if err != nil {
		return nil, &exit.Error{Code: exit.Failure, Err: err}
	}
	kept := make(map[string]history.Kept, len(rows))
	for _, r := range rows {
		kept[r.ID] = history.Kept{Document: r.Document, UpdatedAt: r.UpdatedAt}
	}
	return kept, nil
}

// comparisonJSON is the JSON output. The names are a stable interface.
type comparisonJSON struct {
	OK           bool              `json:"ok"`
	Integrations int               `json:"integrations"`
	Changes      int               `json:"changes"`
	Unreadable   int               `json:"unreadable_lines"`
	Findings     []history.Finding `json:"findings"`
	Unrecorded   []string          `json:"unrecorded"`
}

// kindWords describe the kinds of differences in the table.
var kindWords = map[history.Kind]string{
	history.GrantReturned:       "grant is back",
	history.GrantLost:           "grant is missing",
	history.IntegrationReturned: "is back although it was deleted",
	history.IntegrationLost:     "is missing",
	history.SettingDiffers:      "setting differs",
	history.CredentialOld:       "credential is older than its last replacement",
}

func printComparison(w io.Writer, output string, h *history.History, integrations int, r *history.Report) error {
	if output == "json" {
		out := comparisonJSON{OK: len(r.Findings) == 0, Integrations: integrations, Changes: h.Changes, Unreadable: h.Unreadable, Findings: r.Findings, Unrecorded: r.Unrecorded}
		if out.Findings == nil {
			out.Findings = []history.Finding{}
		}
		if out.Unrecorded == nil {
			out.Unrecorded = []string{}
		}
		return terminal.PrintJSON(w, out)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(r.Findings) > 0 {
		fmt.Fprintln(t, "INTEGRATION\tDIFFERENCE\tSETTING\tRECORDED\tDATABASE\tLAST RECORDED CHANGE")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", terminal.Printable(f.IntegrationID), kindWords[f.Kind], terminal.Printable(terminal.OrDash(f.Setting)),
			terminal.OneLine(f.Recorded), terminal.OneLine(f.Database), terminal.Printable(f.Last.String()))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	verdict := "no differences"
	if n := len(r.Findings); n > 0 {
		verdict = fmt.Sprintf("%d difference(s)", n)
	}
	fmt.Fprintf(w, "%s: %d integration(s) compared with %d recorded change(s)\n", verdict, integrations, h.Changes)
	if n := len(r.Unrecorded); n > 0 {
		fmt.Fprintf(w, "no record of %d integration(s): %s\n", n, firstOf(r.Unrecorded))
	}
	if h.Unreadable > 0 {
		fmt.Fprintf(w, "%d line(s) are not records\n", h.Unreadable)
	}
	return nil
}
