package manage

import (
	"crypto/rand"
	"encoding/hex"
)

// The broker assumes an AWS role with an external ID, which tells the role's trust policy
// that the request is for this integration and not for another one of the same broker. If
// the external ID is omitted, the broker generates a unique one, which later changes keep.
// A kind declares such a setting; see integration.Spec.

// generate sets the omitted values that the broker generates.
func generate(f *Document) error {
	if _, wanted := f.Generated(); !wanted {
		return nil
	}
	return f.SetGenerated(newUUID())
}

// newUUID returns a random UUID. Source: RFC 9562, version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	t := hex.EncodeToString(b[:])
	return t[:8] + "-" + t[8:12] + "-" + t[12:16] + "-" + t[16:20] + "-" + t[20:]
}
