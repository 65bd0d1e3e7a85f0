package strictyaml

import (
	"errors"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// lineBreak is what ends a line, for the parser's lines.
var lineBreak = regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]")

// ErrorLine returns the line that an error of the YAML library names, counted
// from 1, and 0 if it names none. The rest of such an error may quote the file.
func ErrorLine(err error) int {
	fault, ok := errors.AsType[*yaml.LoadError](err)
	switch {
	case !ok:
		return 0
	// What is not closed begins at the context, and is missed only much later; the
	// beginning of a block says nothing.
	case fault.ContextMark.Line > 0 && !strings.Contains(fault.ContextMsg, "block"):
		return fault.ContextMark.Line
	}
	return fault.Mark.Line
}

// syntax records why data is not YAML, in words that hold nothing of it.
func (d *Document) syntax(data []byte, err error) {
	line, text := max(1, ErrorLine(err)), "not YAML, here or soon after"
	if fault, ok := errors.AsType[*yaml.LoadError](err); ok {
		if fault.Stage == yaml.ReaderStage { // which counts bytes only
			line += len(lineBreak.FindAllIndex(data[:min(fault.Mark.Index, len(data))], -1))
		}
		text = explain(fault, text)
	}
	d.add(line, "", text)
	d.broken[""] = true
}

// explain appends the parser's message to text, except for a message that
// quotes the file.
func explain(fault *yaml.LoadError, text string) string {
	message, _, _ := strings.Cut(fault.Message, " (value: ") // of the octet that was read
	switch {
	case fault.Stage == yaml.ComposerStage && strings.HasPrefix(message, "unknown anchor"):
		return `not YAML: an alias ("*...") of nothing; put a value that begins with "*" in quotes`
	case strings.HasPrefix(message, "found character '"),
		fault.Stage != yaml.ReaderStage && fault.Stage != yaml.ScannerStage && fault.Stage != yaml.ParserStage:
		return text
	}
	return text + ": " + message
}
