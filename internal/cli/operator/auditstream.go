package operator

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

// RunJSON is the result for one run of a broker in a stream. The names are a stable interface.
type RunJSON struct {
	// Run is the member run of the records, absent if they have none.
	Run   string         `json:"run,omitempty"`
	OK    bool           `json:"ok"`
	Break *logread.Break `json:"break,omitempty"`
	// Records is the number of intact records, First the seq of the first record, and Head the
	// last one, in the form of --expect-head.
	Records int    `json:"records"`
	First   uint64 `json:"first_seq,omitempty"`
	Head    string `json:"head,omitempty"`
	// FirstUnverified: the input has no records before First, so First itself cannot be
	// verified and is not in Records.
	FirstUnverified bool `json:"first_unverified,omitempty"`
	Repeated        int  `json:"repeated_records,omitempty"`
}

// verifyStream verifies files as the standard output of brokers.
func verifyStream(cmd *cobra.Command, cfg logread.VerifyConfig, output string, files []string) error {
	report, err := logread.VerifyStream(cmd.Context(), cfg, files)
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	if len(report.Runs) == 0 && report.Break == nil {
		return &exit.Error{Code: exit.Failure, Err: errors.New("the input has no audit record; check that it is the standard output of a broker with audit.file: stdout")}
	}
	if err := printStreamReport(cmd.OutOrStdout(), output, report); err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	if report.Break != nil {
		return &exit.Error{Code: exit.Findings}
	}
	return nil
}

func printStreamReport(w io.Writer, output string, r *logread.StreamReport) error {
	out := VerificationJSON{OK: r.Break == nil, Break: r.Break, OtherLines: r.OtherLines}
	for _, run := range r.Runs {
		out.Records += run.Records
		out.Runs = append(out.Runs, RunJSON{
			Run: run.Run, OK: run.Break == nil, Break: run.Break, Records: run.Records, First: run.First.Seq, Head: headText(run.Last),
			FirstUnverified: run.Anchored, Repeated: run.Repeated,
		})
	}
	if output == "json" {
		return terminal.PrintJSON(w, out)
	}
	var b strings.Builder
	b.WriteString("intact")
	if !out.OK {
		b.Reset()
		fmt.Fprintf(&b, "%s\nintact, up to the first break of each run", terminal.Printable(r.Break.String()))
	}
	fmt.Fprintf(&b, ": %d record(s) of %d run(s)\n", out.Records, len(out.Runs))
	for i := range out.Runs {
		writeRun(&b, &out.Runs[i])
	}
	if r.OtherLines > 0 {
		fmt.Fprintf(&b, "%d other line(s) were skipped\n", r.OtherLines)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeRun(b *strings.Builder, r *RunJSON) {
	name := "run " + r.Run
	if r.Run == "" {
		name = "records without a run"
	}
	fmt.Fprintf(b, "%s: ", name)
	if r.First == 0 {
		b.WriteString("no intact record")
	} else {
		fmt.Fprintf(b, "%d to %s", r.First, r.Head)
	}
	if r.FirstUnverified {
		fmt.Fprintf(b, "; begins at record %d, which cannot be verified because the records before it are not in the input", r.First)
	}
	if r.Repeated > 0 {
		fmt.Fprintf(b, "; %d record(s) occur again, unchanged", r.Repeated)
	}
	if r.Break != nil {
		fmt.Fprintf(b, "; broken at %s", terminal.Printable(r.Break.String()))
	}
	b.WriteByte('\n')
}
