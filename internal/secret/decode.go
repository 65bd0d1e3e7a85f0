package secret

import (
	"bytes"
	"encoding/base64"
)

// Decoding is the encoding in which the store holds a value, which the broker
// removes. It is part of a reference because only the author of the secret knows
// it: guessing from a key's name or from the text would also decode text that only
// looks encoded.
//
// It follows the secret's name, as in <secret>?decode=base64. Names and versions
// contain no "?" in any kind of store, whereas a JSON key may contain any
// character, so a decoding at the end of the reference would be ambiguous.
type Decoding string

// The decodings. The zero Decoding leaves the text unchanged.
const (
	// DecodeBase64 is RFC 4648 section 4 or 5, with or without padding; line breaks
	// and spaces are ignored.
	DecodeBase64 Decoding = "base64"
)

// Apply returns the decoded value. It takes ownership of v and wipes it, unless it
// returns v itself. The error has ReasonSecretNotDecodable and does not quote v.
func (d Decoding) Apply(v Value) (Value, error) {
	if d == "" {
		return v, nil
	}
	defer v.Wipe()
	text := v.base64Text()
	defer clear(text[:cap(text)])
	text = bytes.TrimRight(text, "=")
	// Not a local slice: a short one would be on the stack, and the runtime moves stacks
	// without overwriting the old ones.
	decoded, out := newValue(base64.RawStdEncoding.DecodedLen(len(text)))
	n, err := base64.RawStdEncoding.Strict().Decode(out, text)
	if err != nil {
		decoded.Wipe() // contains the bytes before the error
		return Value{}, Errorf(ReasonSecretNotDecodable, "the reference asks for decoding, but the selected value is not base64; store it encoded, or remove ?decode=base64")
	}
	decoded.shorten(n)
	return decoded, nil
}

// base64Text returns a copy of v without white space, in the standard alphabet.
// The caller must wipe it.
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
