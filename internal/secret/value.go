package secret

import (
	"bytes"
	"log/slog"
	"unicode/utf8"
)

// redacted stands wherever a Value is printed.
const redacted = "[REDACTED]"

// Value holds the bytes of a secret. It cannot be printed by accident: every
// formatting verb, JSON, text and slog render it as [REDACTED], also when it
// sits in an unexported field of another struct, because the bytes are kept
// behind a func, where reflection does not reach.
//
// A Value is immutable and safe for concurrent use. The zero Value is empty.
type Value struct {
	reveal func() []byte
}

// NewValue takes ownership of b: the caller must not use it afterwards.
func NewValue(b []byte) Value {
	return Value{reveal: func() []byte { return b }}
}

// Reveal returns a copy of the secret as text. Call it at the last moment, when
// the value is about to leave the process towards the authorized caller.
func (v Value) Reveal() string {
	return string(v.bytes())
}

// RevealBytes is Reveal for values that need not be text. The caller owns the
// copy.
func (v Value) RevealBytes() []byte {
	return bytes.Clone(v.bytes())
}

// IsText reports whether the value is valid UTF-8.
func (v Value) IsText() bool {
	return utf8.Valid(v.bytes())
}

// Len returns the length of the secret in bytes.
func (v Value) Len() int {
	return len(v.bytes())
}

func (v Value) bytes() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
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
