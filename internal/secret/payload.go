package secret

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"sync"
	"sync/atomic"
	"unicode/utf16"
	"unicode/utf8"
)

// payload is what a Secret keeps of a value: one buffer, how many may still read
// it, and where in it the members of a JSON object stand. Nothing else in this
// package outlives a call with bytes of a value in it, so that overwriting the
// buffer is all there is to wiping.
type payload struct {
	// refs counts the references; at zero the buffer has been wiped or is about
	// to be, and stays gone.
	refs atomic.Int64
	b    []byte

	parsing sync.Once // by the first reference that has a key
	members map[string]span
	fault   error
}

// span is where a member's value stands in the document; the zero span is null's.
type span struct{ from, to int }

// retain adds a reference, unless the last one is gone.
func (p *payload) retain() bool {
	for {
		n := p.refs.Load()
		if n <= 0 {
			return false
		}
		if p.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives up a reference; whoever gives up the last one wipes.
func (p *payload) release() {
	switch n := p.refs.Add(-1); {
	case n == 0:
		clear(p.b[:cap(p.b)])
		p.b, p.members = nil, nil
	case n < 0:
		panic("secret: a Secret was released more often than retained")
	}
}

// member copies out the value of a top-level member.
func (p *payload) member(key string) (Value, error) {
	p.parsing.Do(func() { p.members, p.fault = parseMembers(p.b) })
	if p.fault != nil {
		return Value{}, p.fault
	}
	at := p.members[key]
	if at == (span{}) {
		return Value{}, Errorf(ReasonJSONKeyNotFound,
			"the secret's JSON document has no usable top-level member of that name; keys are compared exactly, case and dots included, and null does not count")
	}
	raw := p.b[at.from:at.to]
	out := make([]byte, 0, len(raw)) // never outgrown, which would leave a copy behind
	switch raw[0] {
	case '"':
		out, _ = unquote(out, raw)
	case '{', '[':
		b := bytes.NewBuffer(out)
		if err := json.Compact(b, raw); err != nil {
			return Value{}, errNotObject
		}
		out = b.Bytes()
	default: // a number, true or false
		out = append(out, raw...)
	}
	return NewValue(out), nil
}

var errNotObject = Errorf(ReasonSecretNotJSON,
	"the reference has a JSON key, but the secret is not a JSON object; store an object or leave out the key")

// byteOrderMark is what editors on Windows write in front; RFC 8259 section 8.1
// lets us ignore it.
var byteOrderMark = []byte("\xef\xbb\xbf")

// parseMembers finds a document's top-level members. A key that stands twice
// makes the whole document ambiguous and therefore unusable.
//
// encoding/json checks the grammar. It does not decode: it would leave copies of
// every value in strings and buffers of its own, which nobody can wipe.
func parseMembers(doc []byte) (map[string]span, error) {
	if !utf8.Valid(doc) {
		return nil, Errorf(ReasonSecretNotJSON, "the secret's JSON document is not valid UTF-8")
	}
	i := len(doc) - len(bytes.TrimPrefix(doc, byteOrderMark))
	if !json.Valid(doc[i:]) {
		return nil, errNotObject
	}
	i = skipSpace(doc, i)
	if doc[i] != '{' {
		return nil, errNotObject
	}
	scratch := make([]byte, 0, len(doc))
	defer func() { clear(scratch[:cap(scratch)]) }()
	members := make(map[string]span)
	for i = skipSpace(doc, i+1); doc[i] != '}'; i = skipSpace(doc, i) {
		if doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
		end := skipValue(doc, i)
		key, ok := unquote(scratch, doc[i:end])
		if !ok {
			return nil, errNotObject
		}
		if _, twice := members[string(key)]; twice {
			return nil, Errorf(ReasonSecretNotJSON, "a top-level key stands twice in the secret's JSON document, so that its value is ambiguous")
		}
		name := string(key)
		i = skipSpace(doc, skipSpace(doc, end)+1) // past the colon
		end = skipValue(doc, i)
		switch doc[i] {
		case 'n': // null, which has no text
			members[name] = span{}
		case '"':
			if _, ok := unquote(scratch, doc[i:end]); !ok {
				return nil, errNotObject
			}
			fallthrough
		default:
			members[name] = span{i, end}
		}
		i = end
	}
	return members, nil
}

// skipSpace returns where the white space at i ends.
func skipSpace(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\r' || doc[i] == '\n') {
		i++
	}
	return i
}

// skipValue returns where the value that begins at i ends; doc is valid JSON.
func skipValue(doc []byte, i int) int {
	if doc[i] != '"' && doc[i] != '{' && doc[i] != '[' {
		return i + bytes.IndexAny(doc[i:], ",]} \t\r\n")
	}
	depth, inString := 0, false
	for ; ; i++ {
		switch c := doc[i]; {
		case c == '\\': // in a string only; what follows it is not its end
			i++
			continue
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth == 0 && !inString {
			return i + 1
		}
	}
}

// unquote appends to dst what a valid JSON string, quotes included, stands for. It
// is false for half a surrogate pair, which no text has: a password must come out
// as it went in or not at all.
func unquote(dst, quoted []byte) ([]byte, bool) {
	raw := quoted[1 : len(quoted)-1]
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...), true
		}
		dst = append(dst, raw[:i]...)
		c := raw[i+1]
		raw = raw[i+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := codeUnit(raw)
			raw = raw[4:]
			if utf16.IsSurrogate(r) {
				if !bytes.HasPrefix(raw, []byte(`\u`)) {
					return nil, false
				}
				if r = utf16.DecodeRune(r, codeUnit(raw[2:])); r == utf8.RuneError {
					return nil, false
				}
				raw = raw[6:]
			}
			dst = utf8.AppendRune(dst, r)
		default: // a quote, a slash or a backslash
			dst = append(dst, c)
		}
	}
}

// codeUnit reads the four hexadecimal digits of an escape.
func codeUnit(digits []byte) rune {
	var unit [2]byte
	_, _ = hex.Decode(unit[:], digits[:4]) // they have been checked
	return rune(binary.BigEndian.Uint16(unit[:]))
}
