package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

// annotation is a workflow command of GitHub Actions that marks a line of a file in the
// changes of a pull request.
//
// The command has no SARIF output. Code scanning stores SARIF as alerts of a branch, which
// commits open and close, but the result of a check depends on the state of a vault and on
// the time: no commit fixes an expired secret. SARIF would also need an upload with another
// permission, and a catalogue of rules that would repeat docs/errors.md.
type annotation struct {
	level   string // error or warning
	file    string // empty for none
	line    int    // zero for none
	title   string
	message string
}

// String returns the command. The format and the escapes are those of GitHub's "Workflow
// commands for GitHub Actions" and of the runner's ActionCommand.
func (a annotation) String() string {
	var properties []string
	if a.file != "" {
		properties = append(properties, "file="+escapeProperty(filepath.ToSlash(a.file)))
	}
	if a.line > 0 {
		properties = append(properties, fmt.Sprintf("line=%d", a.line))
	}
	properties = append(properties, "title="+escapeProperty(a.title))
	return "::" + a.level + " " + strings.Join(properties, ",") + "::" + escapeData(a.message)
}

// A replacer looks at every character of its input once, so it does not escape its own
// output again.
var (
	dataEscapes     = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	propertyEscapes = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

func escapeData(s string) string { return dataEscapes.Replace(s) }

func escapeProperty(s string) string { return propertyEscapes.Replace(s) }

// printAnnotations prints all errors and warnings as annotations, and a summary line for
// the job's log. With strict, warnings fail the job, so they are printed as errors.
func printAnnotations(w io.Writer, checked []checkedFile, strict bool) error {
	warning := "warning"
	if strict {
		warning = "error"
	}
	var found []annotation
	configs, failed, warnings := 0, 0, 0
	for _, f := range checked {
		configs += len(f.configs)
		id := ""
		if f.requestID != "" {
			id = " (request id " + f.requestID + ")"
		}
		if f.fault != nil {
			failed++
			found = append(found, annotation{"error", f.file, f.fault.line, f.fault.reason, f.fault.message + id})
		}
		for _, c := range f.configs {
			if c.Err != nil {
				failed++
				found = append(found, annotation{"error", f.file, c.line, string(c.Err.Reason), terminal.Printable(c.Config) + ": " + c.Err.Message + id})
			}
			for _, cw := range c.warnings {
				warnings++
				found = append(found, annotation{warning, f.file, c.line, cw.code, terminal.Printable(c.Config) + ": " + cw.message})
			}
		}
	}
	for _, a := range found {
		if _, err := fmt.Fprintln(w, a); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "configs checked: %d, failed: %d, warnings: %d\n", configs, failed, warnings)
	return err
}
