package secret

import (
	"bytes"
	"log/slog"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// redacted stands wherever a Value is printed.
const redacted = "[REDACTED]"

// Value holds the bytes of a secret. It cannot be printed by accident: every
// formatting verb, JSON, text and slog render it as [REDACTED], also when it
// sits in an unexported field of another struct, because the bytes are hidden
// where reflection does not reach.
//
// A Value has one owner, who calls Wipe when nobody needs it any more. Copies of
// a Value share the bytes and the wiping. Until then it does not change; it is
// safe for concurrent use. The zero Value is empty.
type Value struct {
	contents hidden[contents]
}

// contents are the head of what a Value and all its copies share; the bytes follow
// in the same allocation. Every config of every call makes a Value, and one object
// without pointers is the least that it can cost.
type contents struct {
	mu sync.Mutex // smaller and faster than one for many readers, who there are not
	n  int        // how many bytes; those behind them, up to the next word, are zero
}

// gone stands for n in contents that have been wiped.
const gone = -1

// newValue makes a Value of n bytes and returns them, to be filled before anybody
// else has the Value.
func newValue(n int) (Value, []byte) {
	const word = unsafe.Sizeof(uint64(0))
	words := make([]uint64, (unsafe.Sizeof(contents{})+uintptr(n)+word-1)/word) // of words, so that the head is aligned
	c := (*contents)(unsafe.Pointer(unsafe.SliceData(words)))                   //nolint:gosec // contents has no pointers and fits
	c.n = n
	return Value{contents: hide(c)}, c.bytes()
}

// bytes are what newValue has put behind c.
func (c *contents) bytes() []byte {
	if c.n == 0 {
		return []byte{} // there is nothing behind c, not even an address
	}
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(c), unsafe.Sizeof(*c))), c.n) //nolint:gosec // as many as newValue has made
}

// shorten takes away the bytes from the n-th on, before anybody else has v.
func (v Value) shorten(n int) {
	c := v.contents.get()
	clear(c.bytes()[n:])
	c.n = n
}

// NewValue takes ownership of b: it is overwritten, and the caller must not use it
// afterwards.
func NewValue(b []byte) Value {
	v, out := newValue(len(b))
	copy(out, b)
	clear(b[:cap(b)])
	return v
}

// Wipe overwrites the bytes with zeros and is done when it returns. It waits for
// those who are just copying them out. Whoever asks for the bytes later panics:
// a password that silently became empty would be worse. Wiping again does
// nothing.
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

// Reveal returns a copy of the secret as text. Call it at the last moment, when
// the value is about to leave the process towards the authorized caller: the
// copy is a string, which cannot be wiped.
func (v Value) Reveal() string {
	b := v.open()
	defer v.close()
	return string(b)
}

// RevealBytes is Reveal for values that need not be text. The caller owns the
// copy.
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

// Len returns the length of the secret in bytes.
func (v Value) Len() int {
	b := v.open()
	defer v.close()
	return len(b)
}

// open returns the bytes, which nobody else reads or wipes before close.
func (v Value) open() []byte {
	c := v.contents.get()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	if c.n == gone {
		c.mu.Unlock()
		panic("secret: a value was used after it had been wiped")
	}
	return c.bytes()
}

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
