package secret

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// members says where the top-level members of a JSON object stand. It holds
// nothing of the document and four bytes for each member: a map of them took
// several times what most documents do.
type members struct {
	// names are where the quoted names begin, in the order of what they stand for.
	names []uint32
	// few is where names are if there are no more: most documents have as few, and a
	// lookup then reads one place in memory less.
	few [4]uint32
	// fault is why there are none.
	fault *Error
}

var errNotObject = Errorf(ReasonSecretNotJSON,
	"the reference has a JSON key, but the secret is not a JSON object; store an object or leave out the key")

// byteOrderMark is what editors on Windows write in front; RFC 8259 section 8.1
// lets us ignore it.
var byteOrderMark = []byte("\xef\xbb\xbf")

// parseMembers finds a document's top-level members. A key that occurs twice
// makes the whole document ambiguous and therefore unusable.
//
// encoding/json checks the grammar. It does not decode: it would leave copies of
// every value in strings and buffers of its own, which nobody can wipe.
func parseMembers(doc []byte) *members {
	if !utf8.Valid(doc) {
		return &members{fault: Errorf(ReasonSecretNotJSON, "the secret's JSON document is not valid UTF-8")}
	}
	i := len(doc) - len(bytes.TrimPrefix(doc, byteOrderMark))
	if !json.Valid(doc[i:]) || uint64(len(doc)) > math.MaxUint32 {
		return &members{fault: errNotObject}
	}
	if i = skipSpace(doc, i); doc[i] != '{' {
		return &members{fault: errNotObject}
	}
	names, fault := sortedNames(doc, i)
	m := &members{names: names, fault: fault}
	if len(names) <= len(m.few) {
		m.names = append(m.few[:0], names...)
	}
	return m
}

// sortedNames returns where the names in the object that begins at i stand, in
// their order.
func sortedNames(doc []byte, i int) ([]uint32, *Error) {
	var scratch []byte // for what is written with escapes
	if bytes.IndexByte(doc, '\\') >= 0 {
		whole := make([]byte, len(doc)) // never outgrown, which would leave a copy behind
		defer clear(whole)
		scratch = whole[:0]
	}
	type member struct {
		name []byte
		at   uint32
	}
	var all []member
	for i = skipSpace(doc, i+1); doc[i] != '}'; i = skipSpace(doc, i) {
		if doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
		end := skipValue(doc, i)
		name, ok := textOf(doc[i:end], scratch)
		if !ok {
			return nil, errNotObject
		}
		all = append(all, member{name, uint32(i)}) //nolint:gosec // no document is that long, see parseMembers
		if n := len(name); n != end-i-len(`""`) {  // it stays in scratch until all are sorted
			scratch = scratch[n:n]
		}
		i = valueAfter(doc, end)
		end = skipValue(doc, i)
		if doc[i] == '"' {
			if _, ok := textOf(doc[i:end], scratch); !ok {
				return nil, errNotObject
			}
		}
		i = end
	}
	slices.SortFunc(all, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	names := make([]uint32, len(all))
	for i, m := range all {
		if i > 0 && bytes.Equal(m.name, all[i-1].name) {
			return nil, Errorf(ReasonSecretNotJSON, "a top-level key occurs twice in the secret's JSON document, so that its value is ambiguous")
		}
		names[i] = m.at
	}
	return names, nil
}

// find returns where the value of a member of doc begins.
func (m *members) find(doc []byte, key string) (at int, ok bool) {
	low, high := 0, len(m.names)
	for low < high {
		mid := int(uint(low+high) >> 1)
		from := int(m.names[mid])
		end := skipValue(doc, from)
		switch name, _ := textOf(doc[from:end], nil); {
		case string(name) == key:
			return valueAfter(doc, end), true
		case string(name) < key:
			low = mid + 1
		default:
			high = mid
		}
	}
	return 0, false
}

// skipSpace returns where the white space at i ends.
func skipSpace(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\r' || doc[i] == '\n') {
		i++
	}
	return i
}

// valueAfter returns where the value begins whose name ends at i; doc is valid
// JSON.
func valueAfter(doc []byte, i int) int {
	return skipSpace(doc, skipSpace(doc, i)+len(":"))
}

// skipValue returns where the value that begins at i ends; doc is valid JSON.
func skipValue(doc []byte, i int) int {
	switch doc[i] {
	case '"':
		return skipString(doc, i)
	case '{', '[':
	default:
		return i + bytes.IndexAny(doc[i:], ",]} \t\r\n")
	}
	for depth := 0; ; {
		switch doc[i] {
		case '"':
			i = skipString(doc, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if i++; depth == 0 {
			return i
		}
	}
}

// skipString returns where the string that begins at i ends.
func skipString(doc []byte, i int) int {
	for i++; ; {
		quote := i + bytes.IndexByte(doc[i:], '"')
		escape := bytes.IndexByte(doc[i:quote], '\\')
		if escape < 0 {
			return quote + 1
		}
		i += escape + len(`\"`)
	}
}

// textOf returns what a valid JSON string, quotes included, stands for: the part
// of it between the quotes, or if there are escapes in it, something that is
// appended to dst. It is false where unquote is.
func textOf(quoted, dst []byte) ([]byte, bool) {
	if raw := quoted[1 : len(quoted)-1]; bytes.IndexByte(raw, '\\') < 0 {
		return raw, true
	}
	return unquote(dst, quoted)
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
