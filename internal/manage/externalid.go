package manage

import (
	"crypto/rand"
	"encoding/hex"
)

// A role of AWS is assumed with an external ID, by which its trust policy knows
// that it is this integration which asks, and not another one of the broker's. So
// that no two integrations have the same one, the broker generates it if it is left
// out; afterwards it stays. A kind declares such a setting, see integration.Spec.

// KeepGenerated sets in after what the broker generated for before, if after leaves
// it out.
func KeepGenerated(before, after *Document) error {
	if before == nil || before.Kind != after.Kind {
		return nil
	}
	had, _ := before.Generated()
	if _, wanted := after.Generated(); !wanted || had == nil {
		return nil
	}
	return after.SetGenerated(had)
}

// generate generates what an integration leaves out for the broker to generate.
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
