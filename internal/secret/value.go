package secret

import (
	"bytes"
	"log/slog"
	"sync"
	"unicode/utf8"
)

// redacted stands wherever a Value is printed.
const redacted = "[REDACTED]"

// Value holds the bytes of a secret. It cannot be printed by accident: every
// formatting verb, JSON, text and slog render it as [REDACTED], also when it
// sits in an unexported field of another struct, because the bytes are kept
// behind a func, where reflection does not reach.
//
// A Value has one owner, who calls Wipe when nobody needs it any more. Copies of
// a Value share the bytes and the wiping. Until then it does not change; it is
// safe for concurrent use. The zero Value is empty.
type Value struct {
	contents func() *contents
}

// contents are the bytes of a Value and of all its copies.
type contents struct {
	mu    sync.RWMutex
	b     []byte
	wiped bool
}

// NewValue takes ownership of b: the caller must not use it afterwards.
func NewValue(b []byte) Value {
	c := &contents{b: b}
	return Value{contents: func() *contents { return c }}
}

// Wipe overwrites the bytes with zeros and is done when it returns. It waits for
// those who are just copying them out. Whoever asks for the bytes later panics:
// a password that silently became empty would be worse. Wiping again does
// nothing.
func (v Value) Wipe() {
	if v.contents == nil {
		return
	}
	c := v.contents()
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.b[:cap(c.b)])
	c.b, c.wiped = nil, true
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

// open returns the bytes, which nobody wipes before close.
func (v Value) open() []byte {
	if v.contents == nil {
		return nil
	}
	c := v.contents()
	c.mu.RLock()
	if c.wiped {
		c.mu.RUnlock()
		panic("secret: a value was used after it had been wiped")
	}
	return c.b
}

func (v Value) close() {
	if v.contents != nil {
		v.contents().mu.RUnlock()
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
