package vaultkv

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// maxLeases bounds the leases that are kept for renewal; credentials beyond that
// are made again each time.
const maxLeases = 1000

// leaseRetry is the part of what is left of a lease after which a renewal that got no
// answer is tried again.
const leaseRetry = 4

// lease is a credential that can be renewed.
type lease struct {
	id    string
	ses   *session // with whose token it ends
	began time.Time
	end   time.Time
	// used: it was read since it was made or last renewed by the clock.
	used bool
	// secret is the credential; the lease has a reference to it.
	secret *secret.Secret
	timer  *time.Timer // of the next renewal by the clock
}

// leases are the renewable credentials of an integration, by path. It is safe for
// concurrent use.
type leases struct {
	mu     sync.Mutex
	byPath map[string]*lease        // nil once they are given up
	taken  map[string]chan struct{} // closed when the lease of that path is back, or gone
	renew  func(path string)        // is called when it is time to
}

func newLeases(renew func(path string)) *leases {
	return &leases{byPath: make(map[string]*lease), taken: make(map[string]chan struct{}), renew: renew}
}

// take takes the path's place, and removes and returns its lease; nil if there is
// none. It waits, no longer than ctx, while somebody else has the place. The caller
// gives it back by leave.
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

// leave gives a path's place back.
func (l *leases) leave(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.taken[path])
	delete(l.taken, path)
}

// keep takes over a lease, to be renewed after d. The caller has the path's place.
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

// release gives all leases up. None is kept afterwards.
func (l *leases) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kept := range l.byPath {
		kept.timer.Stop()
		kept.secret.Release()
	}
	l.byPath = nil
}

// credential returns what an engine makes at path. While the last one's lease can
// be renewed it is that, so that the store is not filled with credentials: every
// read makes one.
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

// keepLease keeps a lease until two thirds of its time are over.
func (s *store) keepLease(path string, kept *lease) {
	whole := kept.end.Sub(kept.began)
	s.leases.keep(path, kept, kept.began.Add(whole*2/3).Sub(s.now()))
}

// extend renews a lease and returns its credential with the new end. It returns
// neither that nor an error, having let go of the lease, if that cannot be done or
// would not last: what is left of a lease that has reached its greatest age is of no
// use to a caller. If the server does not answer, the lease stays.
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

// errLeaseOver says that a lease cannot be renewed any more, or not for long.
var errLeaseOver = errors.New("vaultkv: the lease is over")

// renew extends a lease. Its error is errLeaseOver, or that of a request that got no
// answer about the lease.
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
	if errors.As(err, &status) && status.status < http.StatusInternalServerError && status.status != http.StatusTooManyRequests {
		return errLeaseOver
	}
	if err != nil {
		return err
	}
	if a.LeaseID != kept.id || a.LeaseDuration <= 0 {
		return errLeaseOver
	}
	if ses.token == kept.ses.token { // its end may have been put off since
		kept.ses = ses
	}
	end := a.ends(kept.ses)
	if had := kept.secret.ExpiresAt.Sub(kept.secret.FetchedAt); end.Sub(a.began) < had/2 {
		return errLeaseOver
	}
	kept.began, kept.end = a.began, end
	return nil
}

// renewInTime is called by the clock, when two thirds of a lease are over.
func (s *store) renewInTime(path string) {
	s.tasks.Start(func(closing context.Context) {
		ctx, cancel := context.WithTimeout(closing, s.cfg.LoginTimeout)
		defer cancel()
		s.renewUsed(ctx, path)
	})
}

// renewUsed renews the lease of a path if it was read since it was last renewed so:
// those who read it go on using the credential, and the next read finds it. A lease
// that was not is let go. So it outlives its last read by two lives at most.
func (s *store) renewUsed(ctx context.Context, path string) {
	kept, err := s.leases.take(ctx, path)
	if err != nil {
		return // a read has it
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
	default:
		s.leases.keep(path, kept, kept.end.Sub(s.now())/leaseRetry)
	}
}
