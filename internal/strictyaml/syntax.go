package strictyaml

import (
	"bytes"
	"regexp"
	"slices"
	"sort"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// The message of the YAML parser is its only interface, and some quote what
// is in the file. These are the ones that may be passed on: constants, by
// how their lines are counted.
var (
	// scannerMessages come with a line that counts from 1.
	scannerMessages = []string{
		"block sequence entries are not allowed in this context",
		"could not find expected ':'",
		"could not find expected directive name",
		"did not find URI escaped octet",
		"did not find expected '!'",
		"did not find expected alphabetic or numeric character",
		"did not find expected comment or line break",
		"did not find expected digit or '.' character",
		"did not find expected hexdecimal number",
		"did not find expected tag URI",
		"did not find expected version number",
		"did not find expected whitespace",
		"did not find expected whitespace or line break",
		"did not find the expected '>'",
		"exceeded max depth of 10000",
		"found a tab character that violates indentation",
		"found a tab character where an indentation space is expected",
		"found an incorrect leading UTF-8 octet",
		"found an incorrect trailing UTF-8 octet",
		"found an indentation indicator equal to 0",
		"found character that cannot start any token",
		"found extremely long version number",
		"found invalid Unicode character escape code",
		"found unexpected document indicator",
		"found unexpected end of stream",
		"found unexpected non-alphabetical character",
		"found unknown directive name",
		"found unknown escape character",
		"mapping keys are not allowed in this context",
		"mapping values are not allowed in this context",
	}
	// grammarMessages come with a line that counts from 0.
	grammarMessages = []string{
		"did not find expected ',' or ']'",
		"did not find expected ',' or '}'",
		"did not find expected '-' indicator",
		"did not find expected <document start>",
		"did not find expected <stream-start>",
		"did not find expected key",
		"did not find expected node content",
		"found duplicate %TAG directive",
		"found duplicate %YAML directive",
		"found incompatible YAML document",
		"found undefined tag handle",
	}
	// readerMessages come without a line.
	readerMessages = []string{
		"control characters are not allowed",
		"expected low surrogate area",
		"incomplete UTF-16 character",
		"incomplete UTF-16 surrogate pair",
		"incomplete UTF-8 octet sequence",
		"invalid Unicode character",
		"invalid leading UTF-8 octet",
		"invalid length of a UTF-8 sequence",
		"invalid trailing UTF-8 octet",
		"unexpected low surrogate area",
	}
)

var unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntax records why data is not YAML, in words that hold nothing of it.
func (d *Document) syntax(data []byte, err error) {
	line, message := 0, err.Error()
	if m := yamlError.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = m[2]
	}
	text := "not YAML, here or soon after"
	switch {
	case slices.Contains(scannerMessages, message):
		text += ": " + message
		line = max(line, 1) // the first one is left out
	case slices.Contains(grammarMessages, message):
		text += ": " + message
		line++
	case slices.Contains(readerMessages, message):
		text += ": " + message
		line = locate(data, err.Error(), unreadable)
	case unknownAnchor.MatchString(message):
		text = `not YAML: an alias ("*...") of nothing; put a value that begins with "*" in quotes`
		alias := []byte("*" + unknownAnchor.FindStringSubmatch(message)[1])
		line = locate(data, err.Error(), func(line []byte) bool { return bytes.Contains(line, alias) })
	default:
		line = max(line, 1)
	}
	d.add(line, "", text)
	d.broken[""] = true
}

// lineBreak is what ends a line, for the parser's lines.
var lineBreak = regexp.MustCompile("\r\n|[\r\n\u0085\u2028\u2029]")

// unreadable reports whether a line has anything but plain ASCII.
func unreadable(line []byte) bool {
	return bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' })
}

// locate returns the line of a fault that the parser gives none for: the first
// one with which data, cut off behind it, has the same fault. Only lines that
// may have it are tried, because each try parses what is before.
func locate(data []byte, fault string, may func(line []byte) bool) int {
	type place struct{ line, end int }
	var places []place
	begin := 0
	for n, end := range append(lineBreak.FindAllIndex(data, -1), []int{len(data), len(data)}) {
		if may(data[begin:end[0]]) {
			places = append(places, place{n + 1, end[1]})
		}
		begin = end[1]
	}
	i := sort.Search(len(places), func(i int) bool {
		err := parse(data[:places[i].end])
		return err != nil && err.Error() == fault
	})
	if i == len(places) {
		return 1 // in UTF-16, say, where lines are not to be told so
	}
	return places[i].line
}

// parse looks at what Decode looks at: one document and whether there is another.
func parse(data []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var n yaml.Node
	if err := dec.Decode(&n); err != nil {
		return err
	}
	return dec.Decode(&n)
}
