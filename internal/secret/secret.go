package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Secret is one version of a secret as a store answered it. It is immutable and
// shared by every caller that is answered from the same read. Only New makes one.
type Secret struct {
	// Version is the store's identifier of this version.
	Version string
	// FetchedAt is when the read began, so that the value is at least this
	// fresh. It carries a monotonic reading.
	FetchedAt time.Time
	// ExpiresAt is the end of the secret's own validity, zero if it has none.
	ExpiresAt time.Time

	value  Value
	fields func() (map[string]Value, error)
}

// New makes a Secret of the document b, which it takes ownership of.
func New(version string, fetchedAt, expiresAt time.Time, b []byte) *Secret {
	v := NewValue(b)
	return &Secret{
		Version:   version,
		FetchedAt: fetchedAt,
		ExpiresAt: expiresAt,
		value:     v,
		// Parsed once, by the first reference that has a key.
		fields: sync.OnceValues(func() (map[string]Value, error) { return parseFields(v.bytes()) }),
	}
}

// Size is the secret's payload in bytes.
func (s *Secret) Size() int { return s.value.Len() }

// Select returns what a reference with this key stands for: the whole secret
// for an empty key, else the top-level member of that literal name. Strings are
// returned as they are, numbers and booleans as JSON text, objects and arrays
// as compact JSON. The errors have ReasonSecretNotJSON or
// ReasonJSONKeyNotFound and quote nothing of the document.
func (s *Secret) Select(key string) (Value, error) {
	if key == "" {
		if !utf8.Valid(s.value.bytes()) {
			return Value{}, Errorf(ReasonSecretNotJSON, "the secret is not valid UTF-8 text")
		}
		return s.value, nil
	}
	fields, err := s.fields()
	if err != nil {
		return Value{}, err
	}
	v, ok := fields[key]
	if !ok {
		return Value{}, Errorf(ReasonJSONKeyNotFound,
			"the secret's JSON document has no usable top-level member of that name; keys are compared exactly, case and dots included, and null does not count")
	}
	return v, nil
}

var errNotObject = Errorf(ReasonSecretNotJSON,
	"the reference has a JSON key, but the secret is not a JSON object; store an object or leave out the key")

// parseFields reads a document's top-level members. A key that stands twice
// makes the whole document ambiguous and therefore unusable.
func parseFields(doc []byte) (map[string]Value, error) {
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")) // editors on Windows write it; RFC 8259 section 8.1 lets us ignore it
	if !utf8.Valid(doc) {
		return nil, Errorf(ReasonSecretNotJSON, "the secret's JSON document is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errNotObject
	}
	fields := make(map[string]Value)
	seen := make(map[string]bool)
	for dec.More() {
		keyAt := dec.InputOffset()
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok || mangled(key, doc[keyAt:dec.InputOffset()]) {
			return nil, errNotObject
		}
		if seen[key] {
			return nil, Errorf(ReasonSecretNotJSON, "a top-level key stands twice in the secret's JSON document, so that its value is ambiguous")
		}
		seen[key] = true
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, errNotObject
		}
		if string(raw) == "null" {
			continue // there is no text for null; Select reports the key as missing
		}
		v, err := fieldValue(raw)
		if err != nil {
			return nil, err
		}
		fields[key] = v
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return nil, errNotObject
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errNotObject
	}
	return fields, nil
}

func fieldValue(raw json.RawMessage) (Value, error) {
	switch raw[0] {
	case '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil || mangled(text, raw) {
			return Value{}, errNotObject
		}
		return NewValue([]byte(text)), nil
	case '{', '[':
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			return Value{}, errNotObject
		}
		return NewValue(b.Bytes()), nil
	default: // a number, true or false
		return NewValue(raw), nil
	}
}

// mangled reports whether decoding replaced something by U+FFFD, as
// encoding/json does with half a surrogate pair: a password must come out as it
// went in or not at all.
func mangled(decoded string, raw []byte) bool {
	const replacement = "\uFFFD"
	n := strings.Count(decoded, replacement)
	if n == 0 {
		return false
	}
	raw = bytes.ReplaceAll(raw, []byte(`\\`), nil) // in `\\ufffd` the backslash is the text, not an escape
	return n != bytes.Count(raw, []byte(replacement))+bytes.Count(bytes.ToLower(raw), []byte(`\ufffd`))
}
