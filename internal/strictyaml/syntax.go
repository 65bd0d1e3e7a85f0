package strictyaml

import (
	"errors"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"
)

// lineBreak matches the line ends that the parser counts.
var lineBreak = regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]")

// ErrorLine returns the line in an error of the YAML library, counted from 1, and 0 if it has
// none. The rest of such an error may quote the file.
func ErrorLine(err error) int {
	fault, ok := errors.AsType[*yaml.LoadError](err)
	switch {
	case !ok:
		return 0
	// For something that is not closed, the context is its beginning, and the problem is
	// noticed much later. For a block, the context is not useful.
	case fault.ContextMark.Line > 0 && !strings.Contains(fault.ContextMsg, "block"):
		return fault.ContextMark.Line
	}
	return fault.Mark.Line
}

// syntax records why data is not YAML, in words that contain nothing from data.
func (d *Document) syntax(data []byte, err error) {
	line, text := max(1, ErrorLine(err)), "not YAML, here or soon after"
	if fault, ok := errors.AsType[*yaml.LoadError](err); ok {
		if fault.Stage == yaml.ReaderStage { // the reader reports a byte offset only
			line += len(lineBreak.FindAllIndex(data[:min(fault.Mark.Index, len(data))], -1))
		}
		text = explain(fault, text)
	}
	d.add(line, "", text)
	d.broken[""] = true
}

// explain appends the parser's message to text, unless the message quotes the file.
func explain(fault *yaml.LoadError, text string) string {
	message, _, _ := strings.Cut(fault.Message, " (value: ") // the octet's value
	switch {
	case fault.Stage == yaml.ComposerStage && strings.HasPrefix(message, "unknown anchor"):
		return `not YAML: an undefined alias ("*..."); quote a value that begins with "*"`
	case strings.HasPrefix(message, "found character '"),
		fault.Stage != yaml.ReaderStage && fault.Stage != yaml.ScannerStage && fault.Stage != yaml.ParserStage:
		return text
	}
	return text + ": " + message
}
