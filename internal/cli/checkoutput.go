package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

func (c *check) print(cmd *cobra.Command, checked []checkedFile) error {
	switch c.output {
	case "json":
		return terminal.PrintJSON(cmd.OutOrStdout(), newJSONCheck(checked))
	case "github":
		return printAnnotations(cmd.OutOrStdout(), checked, c.strict)
	default:
		return printCheckTables(cmd.OutOrStdout(), cmd.ErrOrStderr(), checked)
	}
}

// printCheckTables prints a table for each file, followed by its errors and warnings. The
// errors of files that could not be checked go to errs.
func printCheckTables(w, errs io.Writer, checked []checkedFile) error {
	tables := 0
	for _, f := range checked {
		if f.fault != nil {
			fmt.Fprintf(errs, "Error: %s\n", f.fault.text(f.file))
			if f.requestID != "" {
				fmt.Fprintf(errs, "request id %s\n", f.requestID)
			}
			continue
		}
		if tables++; tables > 1 {
			fmt.Fprintln(w)
		}
		if len(checked) > 1 {
			fmt.Fprintln(w, f.title())
		}
		if err := f.printTable(w); err != nil {
			return err
		}
	}
	return nil
}

// title names what was checked, for readers.
func (f *checkedFile) title() string {
	title := terminal.Printable(f.file)
	if f.connector != "" {
		title += ": connector " + terminal.Printable(f.connector)
	}
	if f.integration != "" {
		title += ", integration " + terminal.Printable(f.integration)
	}
	return title
}

func (f *checkedFile) printTable(w io.Writer) error {
	if len(f.configs) == 0 {
		_, err := fmt.Fprintln(w, "no references to check")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "CONFIG\tSTATUS\tSTORE\tSECRET\tVERSION\tKEY\tEXPIRES\tLENGTH")
	for _, c := range f.configs {
		status := "ok"
		if c.Err != nil {
			status = string(c.Err.Reason)
		}
		for i, cell := range []string{c.Config, status, c.Store, c.Secret, c.Version, c.JSONKey, expiryOf(c.Report), string(c.Length)} {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, terminal.Printable(cmp.Or(cell, "-")))
		}
		fmt.Fprintln(t)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	failed := false
	for _, c := range f.configs {
		at := ""
		if f.file != "" {
			at = position(f.file, c.line) + ": "
		}
		if c.Err != nil {
			failed = true
			fmt.Fprintf(w, "  %s%s: %s: %s\n", at, terminal.Printable(c.Config), c.Err.Reason, terminal.Printable(c.Err.Message))
		}
		for _, warning := range c.warnings {
			fmt.Fprintf(w, "  %s%s: warning: %s: %s\n", at, terminal.Printable(c.Config), terminal.Printable(warning.code), terminal.Printable(warning.message))
		}
	}
	if failed && f.requestID != "" {
		fmt.Fprintf(w, "request id %s\n", f.requestID)
	}
	return nil
}

func expiryOf(r client.Report) string {
	switch {
	case r.HasTimeLeft:
		return "in " + roughly(r.TimeLeft)
	case r.Version != "":
		return "never"
	default:
		return ""
	}
}

// position formats a file and line like compilers and editors do.
func position(file string, line int) string {
	if line == 0 {
		return terminal.Printable(file)
	}
	return fmt.Sprintf("%s:%d", terminal.Printable(file), line)
}

func (f *checkFault) text(file string) string {
	text := f.reason + ": " + f.message
	if file == "" {
		return text
	}
	return position(file, f.line) + ": " + text
}

type (
	// CheckJSON is the JSON output of check; see docs/check.md.
	CheckJSON struct {
		OK    bool              `json:"ok"`
		Files []CheckedFileJSON `json:"files"`
	}
	// CheckedFileJSON is the result for one file.
	CheckedFileJSON struct {
		File          string                       `json:"file,omitempty"`
		Connector     string                       `json:"connector,omitempty"`
		IntegrationID string                       `json:"integration_id,omitempty"`
		OK            bool                         `json:"ok"`
		Configs       map[string]CheckedConfigJSON `json:"configs,omitempty"`
		Error         *CheckErrorJSON              `json:"error,omitempty"`
		RequestID     string                       `json:"request_id,omitempty"`
	}
	// CheckedConfigJSON is the result for one config.
	CheckedConfigJSON struct {
		OK               bool               `json:"ok"`
		Line             int                `json:"line,omitempty"`
		Error            *ErrorJSON         `json:"error,omitempty"`
		Warnings         []CheckWarningJSON `json:"warnings,omitempty"`
		Store            string             `json:"store,omitempty"`
		Secret           string             `json:"secret,omitempty"`
		Version          string             `json:"version,omitempty"`
		JSONKey          string             `json:"json_key,omitempty"`
		JSONKeyFound     bool               `json:"json_key_found"`
		FetchTime        time.Time          `json:"fetch_time,omitzero"`
		SecretExpireTime time.Time          `json:"secret_expire_time,omitzero"`
		TimeLeftSeconds  *int64             `json:"time_left_seconds,omitempty"`
		LengthClass      string             `json:"length_class,omitempty"` // the words of the API, without their prefix
	}
	// CheckErrorJSON is the error of a file or a config.
	CheckErrorJSON struct {
		ErrorJSON
		Line int `json:"line,omitempty"`
	}
	// CheckWarningJSON is a warning about a config that can be resolved.
	CheckWarningJSON struct {
		Warning string `json:"warning"`
		Message string `json:"message"`
	}
)

func newJSONCheck(checked []checkedFile) CheckJSON {
	out := CheckJSON{OK: true}
	for _, f := range checked {
		jf := CheckedFileJSON{File: f.file, Connector: f.connector, IntegrationID: f.integration, OK: f.fault == nil, RequestID: f.requestID}
		if f.fault != nil {
			jf.Error = &CheckErrorJSON{
				ErrorJSON: newJSONError(client.ConfigError{Reason: client.Reason(f.fault.reason), Message: f.fault.message, RetryAfter: f.fault.retryAfter}),
				Line:      f.fault.line,
			}
		}
		if len(f.configs) > 0 {
			jf.Configs = make(map[string]CheckedConfigJSON, len(f.configs))
		}
		for _, c := range f.configs {
			jf.Configs[c.Config] = newJSONCheckedConfig(c)
			jf.OK = jf.OK && c.Err == nil
		}
		out.Files = append(out.Files, jf)
		out.OK = out.OK && jf.OK
	}
	return out
}

func newJSONCheckedConfig(c checkedConfig) CheckedConfigJSON {
	out := CheckedConfigJSON{
		OK:               c.Err == nil,
		Line:             c.line,
		Store:            c.Store,
		Secret:           c.Secret,
		Version:          c.Version,
		JSONKey:          c.JSONKey,
		JSONKeyFound:     c.JSONKeyFound,
		FetchTime:        c.FetchTime,
		SecretExpireTime: c.SecretExpireTime,
		LengthClass:      strings.ToUpper(string(c.Length)),
	}
	if c.HasTimeLeft {
		out.TimeLeftSeconds = new(int64(c.TimeLeft / time.Second))
	}
	if c.Err != nil {
		e := newJSONError(*c.Err)
		e.Config = "" // it is the key of the map
		out.Error = &e
	}
	for _, w := range c.warnings {
		out.Warnings = append(out.Warnings, CheckWarningJSON{Warning: w.code, Message: w.message})
	}
	return out
}
