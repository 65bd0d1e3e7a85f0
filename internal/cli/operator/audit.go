package operator

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

func newAuditCommand(kinds *integration.Kinds) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify and query audit logs, and compare a database with them",
		Long: `Verify and query audit logs, and compare the database of integrations with them.
These commands read files and contact no broker. Give the files in the order in
which they were written, the oldest first. Files may be compressed with gzip, and -
is standard input.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditVerifyCommand(), newAuditQueryCommand(), newAuditCompareCommand(kinds))
	return cmd
}

const auditVerifyHelp = `Check that no record was changed, removed, inserted or moved since it was written,
and that each file continues the one before it. The command prints up to where the
log is intact and, if it is not, the first break: file, line, kind and byte offset. It
does not look beyond the break, because the chain proves nothing from there on.

Without a key and an expected head, the command finds only accidents and careless
changes: anyone who can write the file can compute a new chain. With --key-file, an
attacker also needs the key (audit.key_file). --expect-head compares the log with a
head that was stored elsewhere; the broker logs one every minute ("audit head"). It
proves that no record up to this head was changed or removed.

A file that the broker is writing may end within a line, which is reported as torn.

Standard input (-) is read as a stream, and with --stream files are too: standard
output of brokers, as "kubectl logs", files of a container runtime or a collector
have it. Of such an input, the command looks only at the lines that are audit records,
also after a prefix, and follows the chain of each run of a broker by itself. It
accepts that the records before the first one of a run are missing, and says so, and
that unchanged records occur twice. --stream=false reads standard input as a file.

Exit codes: 0 the log is intact; 1 a file cannot be read; 2 the command line is
invalid; 9 the log is not intact.`

func newAuditVerifyCommand() *cobra.Command {
	var (
		keyFiles, heads []string
		output          string
		stream          bool
	)
	cmd := &cobra.Command{
		Use:     "verify [flags] FILE...",
		Short:   "Check that audit logs were not changed",
		Long:    auditVerifyHelp,
		Example: "  secretbroker audit verify --key-file audit.key audit.jsonl.2.gz audit.jsonl.1 audit.jsonl\n  kubectl logs --prefix -l app=secretbroker --tail=-1 | secretbroker audit verify -",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			cfg, err := verifyConfig(keyFiles, heads)
			if err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			if !cmd.Flags().Changed("stream") {
				stream = slices.Contains(files, logread.Stdin)
			}
			if stream {
				return verifyStream(cmd, cfg, output, files)
			}
			report, err := logread.Verify(cmd.Context(), cfg, files)
			if err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			if err := printReport(cmd.OutOrStdout(), output, report); err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			if report.Break != nil {
				return &exit.Error{Code: exit.Findings}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&keyFiles, "key-file", nil, "file with the key that the logs were written with (repeatable)")
	cmd.Flags().StringArrayVar(&heads, "expect-head", nil, "SEQ:CHAIN of a record that the logs must contain (repeatable)")
	cmd.Flags().BoolVar(&stream, "stream", false, "the input is standard output of brokers, which has other lines too (default for -)")
	_ = cmd.MarkFlagFilename("key-file") // the flag exists
	terminal.CompleteWords(cmd, "expect-head")
	terminal.RegisterOutput(cmd, &output, "table", "json")
	return cmd
}

func verifyConfig(keyFiles, heads []string) (logread.VerifyConfig, error) {
	var cfg logread.VerifyConfig
	for _, file := range keyFiles {
		key, err := chain.ReadKey(file)
		if err != nil {
			return cfg, fmt.Errorf("--key-file: %w", err)
		}
		cfg.Keys = append(cfg.Keys, key)
	}
	for _, s := range heads {
		head, err := chain.ParseHead(s)
		if err != nil {
			return cfg, fmt.Errorf("--expect-head: %w", err)
		}
		cfg.Heads = append(cfg.Heads, head)
	}
	return cfg, nil
}

// VerificationJSON is the JSON output of audit verify. The names are a stable interface.
type VerificationJSON struct {
	// OK: all of the log is intact. Otherwise Break is the first break.
	OK    bool           `json:"ok"`
	Break *logread.Break `json:"break,omitempty"`
	// Records is the number of intact records, and First the seq of the first of them.
	Records int    `json:"records"`
	First   uint64 `json:"first_seq,omitempty"`
	// Head is the last intact record in the form of --expect-head. Previous is the record
	// before First, if it is in an earlier file that was not given.
	Head     string `json:"head,omitempty"`
	Previous string `json:"previous_head,omitempty"`
	// UnchainedBytes is the number of bytes that are not records and that a segment header
	// declares.
	UnchainedBytes int64 `json:"unchained_bytes,omitempty"`
	// Runs are the runs of a stream, which has no First, Head and Previous of its own.
	// OtherLines is the number of its lines that are not records.
	Runs       []RunJSON `json:"runs,omitempty"`
	OtherLines int       `json:"other_lines,omitempty"`
}

// headText returns the form of --expect-head, "" for the head of an empty log.
func headText(h chain.Head) string {
	if h.Seq == 0 {
		return ""
	}
	return h.String()
}

func printReport(w io.Writer, output string, r *logread.Report) error {
	out := VerificationJSON{
		OK: r.Break == nil, Break: r.Break, Records: r.Records, First: r.First.Seq,
		Head: headText(r.Last), Previous: headText(r.Previous), UnchainedBytes: r.UnchainedBytes,
	}
	if output == "json" {
		return terminal.PrintJSON(w, out)
	}
	var b strings.Builder
	b.WriteString("intact")
	if !out.OK {
		b.Reset()
		fmt.Fprintf(&b, "%s\nintact before that", terminal.Printable(r.Break.String()))
	}
	fmt.Fprintf(&b, ": %d record(s)", out.Records)
	if out.Records > 0 {
		fmt.Fprintf(&b, ", %d to %d, head %s", out.First, r.Last.Seq, out.Head)
	}
	if out.Break != nil && out.Break.Kind == logread.BreakUnchained {
		b.WriteString("\nif the file is standard output, which has other lines too, verify it with --stream")
	}
	if out.Previous != "" {
		fmt.Fprintf(&b, "\nthe log continues an earlier file with the head %s, which was not given", out.Previous)
	}
	if out.UnchainedBytes > 0 {
		fmt.Fprintf(&b, "\n%d byte(s) are not records, as a later record declares: lines that were cut off, or that are older than the chain", out.UnchainedBytes)
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}
