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

// members contains the positions of the top-level members of a JSON object. It
// contains no bytes of the document, so it need not be wiped, and takes four bytes
// for each member. A map needed several times as much memory as most documents.
type members struct {
	// names are the offsets of the quoted names, sorted by the unquoted name.
	names []uint32
	// few is the array behind names if there are at most four, as in most documents.
	// A lookup then has to load one cache line less.
	few [4]uint32
	// fault is the reason why the document cannot be used; nil if it can.
	fault *Error
}

var errNotObject = Errorf(ReasonSecretNotJSON,
	"the reference has a JSON key, but the secret is not a JSON object; store an object or leave out the key")

// byteOrderMark is written at the beginning of a file by editors on Windows. RFC
// 8259 section 8.1 permits parsers to ignore it.
var byteOrderMark = []byte("\xef\xbb\xbf")

// parseMembers finds the top-level members of a document. It rejects a document in
// which a key occurs twice, because parsers differ in which of the two they use.
//
// encoding/json only validates the syntax. It does not decode the document, because
// it would leave copies of every value in its own strings and buffers, which cannot
// be wiped.
func parseMembers(doc []byte) *members {
	if !utf8.Valid(doc) {
		return &members{fault: encodingFault(doc)}
	}
	i := len(doc) - len(bytes.TrimPrefix(doc, byteOrderMark))
	if !json.Valid(doc[i:]) || uint64(len(doc)) > math.MaxUint32 {
		return &members{fault: syntaxFault(doc, i)}
	}
	switch i = skipSpace(doc, i); doc[i] {
	case '{':
	case '"':
		return &members{fault: Errorf(ReasonSecretNotJSON,
			"the reference has a JSON key, but the secret is a JSON string; if the string contains an object, it was encoded twice: store the object itself")}
	default:
		return &members{fault: errNotObject}
	}
	names, fault := sortedNames(doc, i)
	m := &members{names: names, fault: fault}
	if len(names) <= len(m.few) {
		m.names = append(m.few[:0], names...)
	}
	return m
}

// sortedNames returns the offsets of the quoted names in the object that begins at
// i, sorted by the unquoted names.
func sortedNames(doc []byte, i int) ([]uint32, *Error) {
	var scratch []byte // for unescaped names
	if bytes.IndexByte(doc, '\\') >= 0 {
		whole := make([]byte, len(doc)) // long enough, so that append leaves no copy behind
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
		all = append(all, member{name, uint32(i)}) //nolint:gosec // parseMembers limits the length
		if n := len(name); n != end-i-len(`""`) {  // name is in scratch; keep it there until all are sorted
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
			return nil, Errorf(ReasonSecretNotJSON, "a top-level key occurs twice in the secret's JSON document, so its value is ambiguous")
		}
		names[i] = m.at
	}
	return names, nil
}

// find returns the offset of the value of a member of doc, by binary search.
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

// skipSpace returns the offset after the white space at i.
func skipSpace(doc []byte, i int) int {
	for i < len(doc) && (doc[i] == ' ' || doc[i] == '\t' || doc[i] == '\r' || doc[i] == '\n') {
		i++
	}
	return i
}

// valueAfter returns the offset of the value whose name ends at i. doc must be
// valid JSON, as for all functions below.
func valueAfter(doc []byte, i int) int {
	return skipSpace(doc, skipSpace(doc, i)+len(":"))
}

// skipValue returns the offset after the value that begins at i.
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

// skipString returns the offset after the string that begins at i.
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

// textOf returns the text of a quoted JSON string. Without escapes, the result is a
// subslice of quoted; otherwise textOf appends the text to dst. It returns false in
// the same cases as unquote.
func textOf(quoted, dst []byte) ([]byte, bool) {
	if raw := quoted[1 : len(quoted)-1]; bytes.IndexByte(raw, '\\') < 0 {
		return raw, true
	}
	return unquote(dst, quoted)
}

// unquote appends the text of a quoted JSON string to dst. It returns false if the
// string contains half of a surrogate pair, which UTF-8 cannot represent. Decoders
// usually replace it by U+FFFD, but then the broker would return a password that
// differs from the stored one.
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

// codeUnit returns the UTF-16 code unit of the four hexadecimal digits of an escape.
func codeUnit(digits []byte) rune {
	var unit [2]byte
	_, _ = hex.Decode(unit[:], digits[:4]) // cannot fail: doc is valid JSON
	return rune(binary.BigEndian.Uint16(unit[:]))
}
