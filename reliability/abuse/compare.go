package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// table writes the results of two runs as a Markdown table.
func table(w io.Writer, args []string) error {
	if len(args) != 2 {
		return errors.New("expected two results: table BEFORE.json AFTER.json")
	}
	var runs [2]report
	for i, file := range args {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &runs[i]); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	before := make(map[string]*outcome)
	for _, o := range runs[0].Cases {
		before[o.Name] = o
	}
	fmt.Fprintln(w, "| case | | answered | p99, quiet and under attack | peak RSS | revocation honoured | the case's own |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, o := range runs[1].Cases {
		if old := before[o.Name]; old != nil {
			old.row(w, fmt.Sprintf("`%s`: %s", o.Name, o.Title), "before")
			o.row(w, "", "after")
		} else {
			o.row(w, fmt.Sprintf("`%s`: %s", o.Name, o.Title), "after")
		}
	}
	return nil
}

func (o *outcome) row(w io.Writer, title, when string) {
	if o.Skipped != "" {
		fmt.Fprintf(w, "| %s | %s | skipped: %s | | | | |\n", title, when, o.Skipped)
		return
	}
	revocation := "-"
	if len(o.Revocations) > 0 {
		revocation = fmt.Sprintf("%.0f ms", o.worstRevocation())
		if o.worstRevocation() >= float64(revocationWait.Milliseconds()) {
			revocation = "not within 10 s"
		}
	}
	peak := fmt.Sprintf("%.0f MiB", o.PeakRSSMiB)
	if o.Died != "" {
		peak += ", " + o.Died
	}
	var own string
	for i, f := range o.Figures {
		if i > 0 {
			own += "; "
		}
		own += fmt.Sprintf("%s: %.3g %s", f.Name, f.Value, f.Unit)
	}
	fmt.Fprintf(w, "| %s | %s, %s | %.2f %% of %d | %.1f ms, %.1f ms | %s | %s | %s |\n",
		title, when, o.verdict(), 100*o.Attack.Share, o.Attack.Calls, o.Quiet.P99, o.Attack.P99, peak, revocation, own)
}
