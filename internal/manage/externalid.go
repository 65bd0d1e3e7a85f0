package manage

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// A role of AWS is assumed with an external ID, by which its trust policy knows
// that it is this integration which asks, and not another one of the broker's. So
// that no two have the same, and nobody takes another's, the broker makes it:
// whoever leaves it out is given one, which then stays.

// roleOf returns the section aws.role of settings, nil if there is none.
func roleOf(f *Form, settings map[string]any) map[string]any {
	if f == nil || f.Kind != secret.KindAWSSecretsManager {
		return nil
	}
	role, _ := settings["role"].(map[string]any)
	return role
}

// KeepGenerated puts what the broker has generated for an integration into a form
// of it that says nothing of it: a role's external ID.
func KeepGenerated(before, after *Form) error {
	if before == nil {
		return nil
	}
	had := roleOf(before, before.Settings())
	return setExternalID(after, func() any { return had["external_id"] })
}

// generate makes what an integration lacks that the broker makes.
func generate(f *Form) error { return setExternalID(f, func() any { return newUUID() }) }

// setExternalID puts one into a role that has none, unless there is none to put.
func setExternalID(f *Form, id func() any) error {
	settings := f.Settings()
	role := roleOf(f, settings)
	if role == nil {
		return nil
	}
	if _, there := role["external_id"]; there {
		return nil
	}
	if role["external_id"] = id(); role["external_id"] == nil {
		return nil
	}
	return f.SetSettings(settings)
}

// newUUID returns a random UUID. Source: RFC 9562, version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	t := hex.EncodeToString(b[:])
	return t[:8] + "-" + t[8:12] + "-" + t[12:16] + "-" + t[16:20] + "-" + t[20:]
}
