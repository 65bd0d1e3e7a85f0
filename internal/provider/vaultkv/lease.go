package vaultkv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// maxLeases limits the leases that are kept for renewal. Every read of a credential
// beyond the limit generates a new one.
const maxLeases = 1000

// leaseRetry is the fraction of the rest of a lease after which a renewal that got no
// response is tried again: 4 means a quarter.
const leaseRetry = 4

// lease is a credential that can be renewed.
type lease struct {
	id    string
	ses   *session // the session whose token the lease ends with
	began time.Time
	end   time.Time
	// used means that the credential was read since the engine generated it or the
	// timer last renewed it.
	used bool
	// secret is the credential. The lease holds a reference to it.
	secret *secret.Secret
	timer  *time.Timer // of the next renewal
}

// leases holds the renewable credentials of an integration, by path. A caller locks a
// path while it uses the path's lease. leases is safe for concurrent use.
type leases struct {
	mu     sync.Mutex
	byPath map[string]*lease        // nil after release
	taken  map[string]chan struct{} // the locked paths; leave closes the channel
	renew  func(path string)        // called by the timer of a lease
}

func newLeases(renew func(path string)) *leases {
	return &leases{byPath: make(map[string]*lease), taken: make(map[string]chan struct{}), renew: renew}
}

// take locks the path, removes its lease from l and returns it; nil if there is none.
// While another caller holds the lock, take waits, at most until ctx ends. The caller
// unlocks the path with leave.
func (l *leases) take(ctx context.Context, path string) (*lease, error) {
	for {
		l.mu.Lock()
		busy := l.taken[path]
		if busy == nil {
			l.taken[path] = make(chan struct{})
			kept := l.byPath[path]
			delete(l.byPath, path)
			if kept != nil {
				kept.timer.Stop()
			}
			l.mu.Unlock()
			return kept, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// leave unlocks a path.
func (l *leases) leave(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.taken[path])
	delete(l.taken, path)
}

// keep stores a lease, and calls renew for it after d. The caller holds the lock of
// the path.
func (l *leases) keep(path string, kept *lease, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byPath == nil || len(l.byPath) >= maxLeases {
		kept.secret.Release()
		return
	}
	kept.timer = time.AfterFunc(max(d, time.Second), func() { l.renew(path) })
	l.byPath[path] = kept
}

// release drops all leases. After that, keep stores no lease.
func (l *leases) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kept := range l.byPath {
		kept.timer.Stop()
		kept.secret.Release()
	}
	l.byPath = nil
}

// credential returns a credential of the engine at path. Every read generates a new
// one in the store, so credential renews the lease of the last one as long as it can,
// and returns that.
func (s *store) credential(ctx context.Context, path string) (*secret.Secret, error) {
	kept, err := s.leases.take(ctx, path)
	if err != nil {
		return nil, explainRead(ctx, s.host, err)
	}
	defer s.leases.leave(path)
	if kept != nil {
		if again, err := s.extend(ctx, path, kept); again != nil || err != nil {
			return again, err
		}
	}
	return s.read(ctx, path, "", func(a *answer, ses *session) (*secret.Secret, error) {
		made, err := a.dynamic(s.host, ses)
		if err == nil && a.LeaseID != "" && a.Renewable && made.Retain() {
			s.keepLease(path, &lease{id: a.LeaseID, ses: ses, began: a.began, end: made.ExpiresAt, used: true, secret: made})
		}
		return made, err
	})
}

// keepLease keeps a lease, to be renewed after two thirds of its duration.
func (s *store) keepLease(path string, kept *lease) {
	whole := kept.end.Sub(kept.began)
	s.leases.keep(path, kept, kept.began.Add(whole*2/3).Sub(s.now()))
}

// extend renews a lease and returns its credential with the new end. If the lease
// cannot be renewed, or is so close to its maximum lifetime that the rest is of no
// use to a caller, extend drops the lease and returns nil and no error. If the server
// does not respond, extend keeps the lease.
func (s *store) extend(ctx context.Context, path string, kept *lease) (*secret.Secret, error) {
	switch err := s.renew(ctx, kept); {
	case errors.Is(err, errLeaseOver):
		kept.secret.Release()
		return nil, nil //nolint:nilnil // see above
	case err != nil:
		s.leases.keep(path, kept, kept.end.Sub(s.now())/leaseRetry)
		return nil, explainRead(ctx, s.host, err)
	}
	again := kept.secret.Again(kept.began, kept.end)
	if again == nil {
		kept.secret.Release()
		return nil, nil //nolint:nilnil // see above
	}
	kept.used = true
	s.keepLease(path, kept)
	return again, nil
}

// errLeaseOver means that a lease cannot be renewed any more, or only for a short
// time. errRevoked is the errLeaseOver of a lease that the server does not know any more.
var (
	errLeaseOver = errors.New("vaultkv: the lease is over")
	errRevoked   = fmt.Errorf("%w: it was revoked", errLeaseOver)
)

// renew extends a lease. Its error is errLeaseOver, or the error of a request that
// got no response about the lease.
func (s *store) renew(ctx context.Context, kept *lease) error {
	if !s.now().Before(kept.end) {
		return errLeaseOver
	}
	ses, err := s.logins.session(ctx)
	if err != nil {
		return err
	}
	a, err := s.client.do(ctx, http.MethodPut, ses.token, "sys/leases/renew", "", map[string]string{"lease_id": kept.id})
	var status *statusError
	switch {
	case errors.As(err, &status) && (status.status == http.StatusBadRequest || status.status == http.StatusNotFound):
		return errRevoked
	case status != nil && status.status < http.StatusInternalServerError && status.status != http.StatusTooManyRequests:
		return errLeaseOver // the role may not renew it, for example
	case err != nil:
		return err
	}
	if a.LeaseID != kept.id || a.LeaseDuration <= 0 {
		return errLeaseOver
	}
	if ses.token == kept.ses.token { // the token may have been renewed since
		kept.ses = ses
	}
	end := a.ends(kept.ses)
	if had := kept.secret.ExpiresAt.Sub(kept.secret.FetchedAt); end.Sub(a.began) < had/2 {
		return errLeaseOver
	}
	kept.began, kept.end = a.began, end
	return nil
}

// renewInTime is called by the timer of a lease, after two thirds of its duration.
func (s *store) renewInTime(path string) {
	s.tasks.Start(func(closing context.Context) {
		ctx, cancel := context.WithTimeout(closing, s.cfg.LoginTimeout)
		defer cancel()
		s.renewUsed(ctx, path)
	})
}

// renewUsed renews the lease of a path if the credential was read since the last
// renewal by the timer. The callers that read it keep using it, and the next read
// returns it again. If the server has revoked the lease, renewUsed reports it. A lease
// that was not read is dropped. A credential therefore ends
// at most two lease durations after its last read.
func (s *store) renewUsed(ctx context.Context, path string) {
	kept, err := s.leases.take(ctx, path)
	if err != nil {
		return // a read has locked the path
	}
	defer s.leases.leave(path)
	switch {
	case kept == nil:
		return
	case !kept.used:
		kept.secret.Release()
		return
	}
	switch err := s.renew(ctx, kept); {
	case err == nil:
		kept.used = false
		s.keepLease(path, kept)
	case errors.Is(err, errLeaseOver):
		kept.secret.Release()
		if errors.Is(err, errRevoked) { // callers have it, and the cache
			s.cfg.Lost(s.in, secret.Ref{Kind: secret.KindHashiCorpVault, Store: s.vault.Address, Name: path}, kept.secret.Version)
		}
	default:
		s.leases.keep(path, kept, kept.end.Sub(s.now())/leaseRetry)
	}
}
