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
		}
		reports[i] = rep
	}
	if err := r.recordDecisions(MethodCheck, who, &req, items, audit.Checked); err != nil {
		return nil, err
	}
	return reports, nil
}
