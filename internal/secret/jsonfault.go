package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// syntaxFault describes why doc, from offset i, is not valid JSON: the place and the kind of
// the fault, and nothing of the content. Text that does not begin like an object, a list or a
// comment is most likely not meant as JSON.
func syntaxFault(doc []byte, i int) *Error {
	switch rest := doc[skipSpace(doc, i):]; {
	case len(rest) > 0 && (rest[0] == '{' || rest[0] == '['):
	case bytes.HasPrefix(rest, []byte("//")), bytes.HasPrefix(rest, []byte("/*")):
	default:
		return errNotObject
	}
	var syntax *json.SyntaxError
	// The document is not valid, so nothing of it is copied. The text of the error quotes a
	// character of the document and is not used.
	if err := json.Unmarshal(doc[i:], new(json.RawMessage)); !errors.As(err, &syntax) {
		return errNotObject
	}
	at := min(max(i+int(syntax.Offset)-1, i), len(doc)-1) // the offending byte
	before := bytes.TrimRight(doc[i:at], " \t\r\n")
	what := "a syntax error"
	switch c := doc[at]; {
	case i+int(syntax.Offset) >= len(doc) && c != '}' && c != ']':
		what = "the document ends too early"
	case (c == '}' || c == ']') && bytes.HasSuffix(before, []byte(",")):
		what = "a comma before the closing bracket"
	case c < ' ':
		what = `a line break or another control character inside a string; write it as an escape such as \n`
	case c == '/' || c == '#':
		what = "a comment; JSON has no comments"
	case c == '\'':
		what = "a single quote; JSON strings have double quotes"
	}
	line := 1 + bytes.Count(doc[:at], []byte("\n"))
	return Errorf(ReasonSecretNotJSON, "the reference has a JSON key, but the secret is not valid JSON: line %d, byte %d: %s", line, at+1, what)
}

// encodingFault describes where doc is not valid UTF-8.
func encodingFault(doc []byte) *Error {
	at := 0
	for at < len(doc) {
		r, n := utf8.DecodeRune(doc[at:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		at += n
	}
	line := 1 + bytes.Count(doc[:at], []byte("\n"))
	return Errorf(ReasonSecretNotJSON, "the reference has a JSON key, but the secret is not valid UTF-8, as JSON must be: line %d, byte %d; store it in UTF-8", line, at+1)
}

// InvisibleEnds describes an invisible character at the end or the beginning of s, such as
// "ends with a space (U+0020)". It returns "" if there is none.
func InvisibleEnds(s string) string {
	return invisibleEnds([]byte(s))
}

func invisibleEnds(b []byte) string {
	if r, _ := utf8.DecodeLastRune(b); len(b) > 0 && invisible(r) {
		return "ends with " + nameOf(r)
	}
	if r, _ := utf8.DecodeRune(b); len(b) > 0 && invisible(r) {
		return "begins with " + nameOf(r)
	}
	return ""
}

func invisible(r rune) bool {
	return r != utf8.RuneError && (unicode.IsSpace(r) || !unicode.IsPrint(r))
}

func nameOf(r rune) string {
	switch r {
	case ' ':
		return "a space (U+0020)"
	case '\n':
		return "a line break (U+000A)"
	case '\r':
		return "a carriage return (U+000D)"
	case '\t':
		return "a tab (U+0009)"
	case '\u00a0':
		return "a no-break space (U+00A0)"
	case '\u200b':
		return "a zero width space (U+200B)"
	case '\ufeff':
		return "a byte order mark (U+FEFF)"
	}
	return fmt.Sprintf("an invisible character (U+%04X)", r)
}
