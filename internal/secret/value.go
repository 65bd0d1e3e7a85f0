package secret

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// redacted is printed in place of a Value.
const redacted = "[REDACTED]"

// Value holds the bytes of a secret. It cannot be printed by accident: every
// formatting verb, JSON, text and slog print it as [REDACTED]. This also holds if
// it is in an unexported field of another struct, because reflection cannot reach
// the bytes.
//
// A Value has one owner, which calls Wipe when the value is no longer needed.
// Copies of a Value share its bytes, and wiping one wipes all. Until then a Value
// is immutable. It is safe for concurrent use. The zero Value is empty.
type Value struct {
	contents hidden[contents]
}

// contents is the header of the memory that a Value and its copies share; the
// bytes follow it in the same allocation. A call creates one Value for each config
// that it resolves, and a single object without pointers is the cheapest to
// allocate and to collect.
type contents struct {
	mu sync.Mutex // smaller and faster than an RWMutex; concurrent readers are rare
	n  int        // number of bytes, or gone; the bytes up to the next word are zero
}

// gone is the value of n after the contents have been wiped.
const gone = -1

// newValue returns a Value of n bytes, and the bytes. The caller must fill them in
// before it shares the Value.
func newValue(n int) (Value, []byte) {
	const word = unsafe.Sizeof(uint64(0))
	words := make([]uint64, (unsafe.Sizeof(contents{})+uintptr(n)+word-1)/word) // uint64, to align the header
	c := (*contents)(unsafe.Pointer(unsafe.SliceData(words)))                   //nolint:gosec // contents has no pointers and fits
	c.n = n
	return Value{contents: hide(c)}, c.bytes()
}

// bytes returns the bytes that follow c.
func (c *contents) bytes() []byte {
	if c.n == 0 {
		return []byte{} // the address after c may be outside of the allocation
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(c), unsafe.Sizeof(*c))), c.n) //nolint:gosec // newValue has allocated n bytes
}

// shorten drops all but the first n bytes. The caller must not have shared v yet.
func (v Value) shorten(n int) {
	c := v.contents.get()
	clear(c.bytes()[n:])
	c.n = n
}

// NewValue returns a Value that holds a copy of b. It overwrites b with zeros,
// including its spare capacity, so the caller must not use b afterwards.
func NewValue(b []byte) Value {
	v, out := newValue(len(b))
	copy(out, b)
	clear(b[:cap(b)])
	return v
}

// Clone returns a Value with a copy of the bytes, which the caller owns.
func (v Value) Clone() Value {
	b := v.open()
	defer v.close()
	if b == nil {
		return Value{}
	}
	out, to := newValue(len(b))
	copy(to, b)
	return out
}

// Wipe overwrites the bytes with zeros before it returns. It waits for concurrent
// readers. Reading the value afterwards panics: a password that silently became
// empty would be worse. A second Wipe does nothing.
func (v Value) Wipe() {
	c := v.contents.get()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n != gone {
		clear(c.bytes())
		c.n = gone
	}
}

// Reveal returns a copy of the secret as text. A string cannot be wiped, so call
// Reveal as late as possible, when the value is about to leave the process for the
// authorized caller.
func (v Value) Reveal() string {
	b := v.open()
	defer v.close()
	return string(b)
}

// RevealBytes returns a copy of the secret as bytes. The caller owns the copy and
// should wipe it.
func (v Value) RevealBytes() []byte {
	b := v.open()
	defer v.close()
	return bytes.Clone(b)
}

// IsText reports whether the value is valid UTF-8.
func (v Value) IsText() bool {
	b := v.open()
	defer v.close()
	return utf8.Valid(b)
}

// InvisibleEnds describes an invisible character at the end or the beginning of a value of
// one line, such as "ends with a line break (U+000A)". It returns "" if there is none, and
// for values in which such characters are usual or harmless: those of several lines, such as
// PEM, JSON documents, and values that are not text.
func (v Value) InvisibleEnds() string {
	b := v.open()
	defer v.close()
	line := bytes.TrimRight(b, "\r\n")
	if !utf8.Valid(b) || bytes.ContainsAny(line, "\r\n") || len(line) > 0 && (line[0] == '{' || line[0] == '[') && json.Valid(b) {
		return ""
	}
	return invisibleEnds(b)
}

// Len returns the length of the secret in bytes.
func (v Value) Len() int {
	b := v.open()
	defer v.close()
	return len(b)
}

// open locks v and returns its bytes, which remain valid until close.
func (v Value) open() []byte {
	c := v.contents.get()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	if c.n == gone {
		c.mu.Unlock()
		panic("secret: a value was used after it was wiped")
	}
	return c.bytes()
}

// close unlocks v.
func (v Value) close() {
	if c := v.contents.get(); c != nil {
		c.mu.Unlock()
	}
}

// String implements fmt.Stringer and never shows the value.
func (Value) String() string { return redacted }

// GoString implements fmt.GoStringer and never shows the value.
func (Value) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, and so JSON, and never shows
// the value.
func (Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer and never shows the value.
func (Value) LogValue() slog.Value { return slog.StringValue(redacted) }
