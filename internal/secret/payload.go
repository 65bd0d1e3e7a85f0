package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"sync/atomic"
)

// payload is the part of a Secret that contains bytes of its value: one buffer,
// its reference count, and the positions of the JSON members in the buffer. No
// other memory of this package contains bytes of a document after a call returns,
// so wiping a Secret only has to overwrite this buffer.
type payload struct {
	// refs counts the references. At zero the buffer has been wiped or is about
	// to be; the count never leaves zero again.
	refs atomic.Int64
	b    []byte
	// form says what b is. Unless it is Text, the whole secret is the base64 of b.
	form Form
	// members is set by the first Select with a key.
	members atomic.Pointer[members]
}

// retain adds a reference, unless the count has reached zero. An unconditional
// Add(1) could revive a payload that another goroutine is wiping.
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

// release drops a reference and wipes the buffer if it was the last one.
func (p *payload) release() {
	switch n := p.refs.Add(-1); {
	case n == 0:
		clear(p.b[:cap(p.b)])
	case n < 0:
		panic("secret: a Secret was released more often than retained")
	}
}

// size returns the length of the whole secret.
func (p *payload) size() int {
	if p.form != Text {
		return base64.StdEncoding.EncodedLen(len(p.b))
	}
	return len(p.b)
}

// whole returns a copy of the document, in base64 unless it is text.
func (p *payload) whole() Value {
	if p.form != Text {
		v, out := newValue(p.size())
		base64.StdEncoding.Encode(out, p.b)
		return v
	}
	v, out := newValue(len(p.b))
	copy(out, p.b)
	return v
}

// member returns a copy of the value of a top-level member.
func (p *payload) member(key string) (Value, error) {
	m := p.members.Load()
	if m == nil {
		m = parseMembers(p.b)
		p.members.Store(m) // a concurrent call may have stored an equal result
	}
	if m.fault != nil {
		return Value{}, m.fault
	}
	at, ok := m.find(p.b, key)
	if !ok || p.b[at] == 'n' { // null has no text
		hint := ""
		if ends := InvisibleEnds(key); ends != "" {
			hint = "; the JSON key in the reference " + ends
		}
		return Value{}, Errorf(ReasonJSONKeyNotFound,
			"the secret's JSON document has no usable top-level member of that name; keys must match exactly, including case and dots, and a member that is null cannot be used%s", hint)
	}
	raw := p.b[at:skipValue(p.b, at)]
	v, out := newValue(len(raw)) // long enough, so that append leaves no copy behind
	n := 0
	switch raw[0] {
	case '"':
		text, _ := unquote(out[:0], raw)
		n = len(text)
	case '{', '[':
		b := bytes.NewBuffer(out[:0])
		if err := json.Compact(b, raw); err != nil {
			return Value{}, errNotObject
		}
		n = b.Len()
	default: // a number, true or false
		n = copy(out, raw)
	}
	v.shorten(n)
	return v, nil
}
