package vaultkv

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// maxLeases bounds the leases that are kept for renewal; credentials beyond that
// are made anew each time.
const maxLeases = 1000

// lease is a credential that can be renewed.
type lease struct {
	id  string
	ses *session // with whose token it ends
	end time.Time
	// secret is the credential; the lease has a reference to it.
	secret *secret.Secret
}

// leases are the renewable credentials of an integration, by path. It is safe for
// concurrent use.
type leases struct {
	mu     sync.Mutex
	byPath map[string]*lease
}

func newLeases() *leases { return &leases{byPath: make(map[string]*lease)} }

// take removes and returns the lease of path; nil if there is none.
func (l *leases) take(path string) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.byPath[path]
	delete(l.byPath, path)
	return kept
}

// keep takes over a lease.
func (l *leases) keep(path string, kept *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.byPath[path]
	if old == nil && (l.byPath == nil || len(l.byPath) >= maxLeases) {
		old = kept
	} else {
		l.byPath[path] = kept
	}
	if old != nil {
		old.secret.Release()
	}
}

// release gives all leases up. None is kept afterwards.
func (l *leases) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kept := range l.byPath {
		kept.secret.Release()
	}
	l.byPath = nil
}

// credential returns what an engine makes at path. While the last one's lease can
// be renewed it is that, so that the store is not filled with credentials: every
// read makes one.
func (s *store) credential(ctx context.Context, path string) (*secret.Secret, error) {
	if kept := s.leases.take(path); kept != nil {
		if again := s.renew(ctx, path, kept); again != nil {
			return again, nil
		}
	}
	return s.read(ctx, path, "", func(a *answer, ses *session) (*secret.Secret, error) {
		made, err := a.dynamic(s.host, ses)
		if err == nil && a.LeaseID != "" && a.Renewable && made.Retain() {
			s.leases.keep(path, &lease{id: a.LeaseID, ses: ses, end: made.ExpiresAt, secret: made})
		}
		return made, err
	})
}

// renew extends a lease and returns its credential with the new end. It returns
// nil, having let go of the lease, if that cannot be done or would not last: what
// is left of a lease that has reached its greatest age is of no use to a caller.
func (s *store) renew(ctx context.Context, path string, kept *lease) *secret.Secret {
	if !s.now().Before(kept.end) {
		kept.secret.Release()
		return nil
	}
	ses, err := s.logins.session(ctx, nil)
	if err != nil {
		kept.secret.Release()
		return nil
	}
	a, err := s.client.do(ctx, http.MethodPut, ses.token, "sys/leases/renew", "", map[string]string{"lease_id": kept.id})
	if err != nil || a.LeaseID != kept.id || a.LeaseDuration <= 0 {
		kept.secret.Release()
		return nil
	}
	end := a.ends(kept.ses)
	if had := kept.secret.ExpiresAt.Sub(kept.secret.FetchedAt); end.Sub(a.began) < had/2 {
		kept.secret.Release()
		return nil
	}
	again := kept.secret.Again(a.began, end)
	if again == nil {
		return nil
	}
	s.leases.keep(path, &lease{id: kept.id, ses: kept.ses, end: end, secret: kept.secret})
	return again
}
