package secret

import (
	"bytes"
	"encoding/json"
	"sync/atomic"
)

// payload is what a Secret keeps of a value: one buffer, how many may still read
// it, and where in it the members of a JSON object stand. Nothing else in this
// package outlives a call with bytes of a value in it, so that overwriting the
// buffer is all there is to wiping.
type payload struct {
	// refs counts the references; at zero the buffer has been wiped or is about
	// to be, and stays so.
	refs atomic.Int64
	b    []byte
	// members is set by the first reference that has a key.
	members atomic.Pointer[members]
}

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
	case n < 0:
		panic("secret: a Secret was released more often than retained")
	}
}

// whole copies out all of it.
func (p *payload) whole() Value {
	v, out := newValue(len(p.b))
	copy(out, p.b)
	return v
}

// member copies out the value of a top-level member.
func (p *payload) member(key string) (Value, error) {
	m := p.members.Load()
	if m == nil {
		m = parseMembers(p.b)
		p.members.Store(m) // who else has parsed meanwhile has come to the same
	}
	if m.fault != nil {
		return Value{}, m.fault
	}
	at, ok := m.find(p.b, key)
	if !ok || p.b[at] == 'n' { // null, which has no text
		return Value{}, Errorf(ReasonJSONKeyNotFound,
			"the secret's JSON document has no usable top-level member of that name; keys are compared exactly, case and dots included, and null does not count")
	}
	raw := p.b[at:skipValue(p.b, at)]
	v, out := newValue(len(raw)) // never outgrown, which would leave a copy behind
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
