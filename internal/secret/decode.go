package secret

import (
	"bytes"
	"encoding/base64"
)

// Decoding says how the bytes of a value stand in the text that the store
// holds. It is part of a reference because only who wrote the secret knows it:
// guessing from a key's name or from how the text looks decodes what was meant
// as it stands.
//
// It is written behind the secret's name, <secret>?decode=base64, where no
// store's names or versions have a "?". At the very end it could not be told
// from a JSON key, which may consist of anything.
type Decoding string

// The decodings. The zero Decoding leaves the text as it is.
const (
	// DecodeBase64 is RFC 4648 section 4 or 5, padded or not; line breaks and
	// spaces do not count.
	DecodeBase64 Decoding = "base64"
)

// parseDecoding reads what follows "?"; nothing at all is no decoding either.
func parseDecoding(option string) (Decoding, bool) {
	switch option {
	case "decode=base64":
		return DecodeBase64, true
	default:
		return "", false
	}
}

// Apply returns the decoded value. It takes over v, and wipes it unless it is what
// it returns. The error has ReasonSecretNotBase64 and quotes nothing.
func (d Decoding) Apply(v Value) (Value, error) {
	if d == "" {
		return v, nil
	}
	defer v.Wipe()
	text := v.base64Text()
	defer clear(text[:cap(text)])
	text = bytes.TrimRight(text, "=")
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, err := base64.RawStdEncoding.Strict().Decode(out, text)
	if err != nil {
		clear(out) // it got as far as the fault
		return Value{}, Errorf(ReasonSecretNotBase64, "the reference asks for decoding, but what it selects is not base64; store it encoded, or leave out ?decode=base64")
	}
	return NewValue(out[:n]), nil
}

// base64Text returns a copy without white space, in the standard alphabet. The
// caller wipes it.
func (v Value) base64Text() []byte {
	b := v.open()
	defer v.close()
	text := make([]byte, 0, len(b))
	for _, c := range b {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		case '-': // the URL-safe alphabet
			c = '+'
		case '_':
			c = '/'
		}
		text = append(text, c)
	}
	return text
}
