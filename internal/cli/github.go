package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// annotation is a workflow command of GitHub Actions that marks a line of a file
// in the changes that somebody reviews.
//
// There is no SARIF beside it. Code scanning keeps SARIF as alerts of a branch
// that open and close with commits, but what a check finds depends on the state
// of a vault and on a clock: no commit fixes an expired secret. It would
// also need an upload with a permission of its own, where an annotation needs a
// line of output, and a catalogue of rules that said again what docs/errors.md
// says.
type annotation struct {
	level   string // error or warning
	file    string // empty for none
	line    int    // zero for none
	title   string
	message string
}

// String returns the command. Source for the form and the escapes: GitHub,
// "Workflow commands for GitHub Actions", and the runner's ActionCommand.
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

// The percent sign comes first in both: a replacer looks at every character
// once, so that what one escape writes is not escaped again.
var (
	dataEscapes     = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	propertyEscapes = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

func escapeData(s string) string { return dataEscapes.Replace(s) }

func escapeProperty(s string) string { return propertyEscapes.Replace(s) }

// printAnnotations prints everything that was found as annotations, and one line
// for the job's log. Under strict a warning fails the job, and so is an error.
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
				found = append(found, annotation{"error", f.file, c.line, c.Err.Reason, Printable(c.Config) + ": " + c.Err.Message + id})
			}
			for _, cw := range c.warnings {
				warnings++
				found = append(found, annotation{warning, f.file, c.line, cw.code, Printable(c.Config) + ": " + cw.message})
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
