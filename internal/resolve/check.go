package resolve

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Report is the result of Check for one config. It contains no value.
type Report struct {
	Config string
	// Ref is the config's reference; zero if the config is not a reference.
	Ref secret.Ref
	// Version and FetchedAt describe the secret that was read; zero if none was.
	Version   string
	FetchedAt time.Time
	// ExpiresAt is the end of the secret's own validity, zero if it has none.
	ExpiresAt time.Time
	// HasKey reports that the reference has a JSON key and that the secret contains it.
	HasKey bool
	// Length is the length of the value in bytes; -1 if there is no value.
	Length int
	// Err is the reason why the config cannot be resolved, nil if it can be.
	Err *secret.Error
	// Warnings are about a config that can be resolved.
	Warnings []Warning
}

// Warning says that a value is probably not what the author of the reference expects.
// Message says what to do and does not contain the value.
type Warning struct {
	Code    WarningCode
	Message string
}

// WarningCode identifies a warning. The codes are a part of the API.
type WarningCode string

// The warnings.
const (
	// WarnBinaryValue: the store has declared the secret to be binary, and the value is its
	// base64.
	WarnBinaryValue WarningCode = "BINARY_VALUE"
	// WarnNotUTF8: the secret is not valid UTF-8, and the value is its base64.
	WarnNotUTF8 WarningCode = "NOT_UTF8"
	// WarnInvisibleCharacter: the value, of one line, begins or ends with an invisible
	// character, such as a line break.
	WarnInvisibleCharacter WarningCode = "INVISIBLE_CHARACTER"
)

// warningsOf returns the warnings about the value that ref selects from s.
func warningsOf(s *secret.Secret, ref secret.Ref, value secret.Value) []Warning {
	var all []Warning
	if ref.Key == "" && ref.Decoding == "" {
		switch s.Form() {
		case secret.Binary:
			all = append(all, Warning{WarnBinaryValue, "the store has a binary secret, so the value is its base64; for the bytes or the text in it, add ?decode=base64 after the secret's name, or store it as text"})
		case secret.NotUTF8:
			all = append(all, Warning{WarnNotUTF8, "the secret is not valid UTF-8, so the value is its base64; if it is text, such as a password, store it in UTF-8; if it is binary, add ?decode=base64 after the secret's name"})
		case secret.Text:
		}
	}
	if ends := value.InvisibleEnds(); ends != "" {
		all = append(all, Warning{WarnInvisibleCharacter, "the value " + ends + ", which is a part of it, for example of a password; store it without that character"})
	}
	return all
}

// Check does everything that Resolve does except return values: it reports on every
// config, sorted by name. The error is a *secret.Error for the call as a whole.
func (r *Resolver) Check(ctx context.Context, who Caller, req Request) ([]Report, error) {
	lent, _, err := r.look(ctx, MethodCheck, who, &req)
	var contradiction *Failure
	if errors.As(err, &contradiction) { // it is unclear which configs are references; look has recorded that
		reports := make([]Report, len(contradiction.Configs))
		for i, c := range contradiction.Configs {
			reports[i] = Report{Config: c.Config, Length: -1, Err: c.Err}
		}
		return reports, nil
	}
	if err != nil {
		return nil, err
	}
	items := *lent
	defer recycle(lent)
	defer wipe(items)
	reports := make([]Report, len(items))
	for i := range items {
		it := &items[i]
		rep := Report{Config: it.name, Ref: it.ref, Length: -1, Err: it.err}
		if s := it.got.Secret; s != nil {
			rep.Version, rep.FetchedAt, rep.ExpiresAt = s.Version, s.FetchedAt, s.ExpiresAt
			rep.HasKey = it.ref.Key != "" && (it.err == nil || it.err.Reason == secret.ReasonSecretNotDecodable)
		}
		if it.err == nil {
			rep.Length = it.value.Len()
			rep.Warnings = warningsOf(it.got.Secret, it.ref, it.value)
		}
		reports[i] = rep
	}
	if _, err := r.recordDecisions(MethodCheck, who, &req, items, audit.Checked); err != nil {
		return nil, err
	}
	return reports, nil
}
