package provider

import (
	"context"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// state is the state of one integration in a Set. It is guarded by Set.mu.
type state struct {
	kind    secret.Kind
	fetches int // running or waiting
	// current is the revision whose Provider stays open while idle, until the integration
	// is removed.
	current string
	gone    bool
	handles map[string]*handle // by revision; superseded ones remain only while they are in use
	// limiters are keyed by store. They outlive revisions: the store's capacity does not
	// change with the integration.
	limiters map[string]*limiter
}

// forgetStores drops idle limiters, since the integration may no longer list their stores.
func (st *state) forgetStores(now time.Time) {
	for store, lim := range st.limiters {
		if lim.fetches == 0 && lim.idle(now) {
			delete(st.limiters, store)
		}
	}
}

// handle is the Provider of one revision.
type handle struct {
	revision string
	// ready is closed at the end of the opening, which sets provider or err.
	ready    chan struct{}
	provider Provider
	err      error
	// users is the number of Fetches that use the handle, plus one while it is being
	// opened. Guarded by Set.mu.
	users int
}

// wait waits until the handle is open and returns its Provider.
func (h *handle) wait(ctx context.Context) (Provider, error) {
	select {
	case <-h.ready:
		return h.provider, h.err
	default: // if both are ready, the files are not to blame
	}
	select {
	case <-h.ready:
		return h.provider, h.err
	case <-ctx.Done():
		return nil, secret.Errorf(secret.ReasonStoreUnavailable,
			"timed out reading the integration's files; ask the broker's operator to check their disk").WithCause(ctx.Err())
	}
}

// acquire returns the handle of the integration's revision and adds one user. If there is
// no handle, it starts opening one.
func (s *Set) acquire(st *state, in *integration.Integration) (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if h := st.handles[in.ReadRevision]; h != nil {
		h.users++
		return h, nil
	}
	open, ok := s.cfg.Openers[in.Kind]
	if !ok {
		return nil, secret.Errorf(secret.ReasonInternal, "this broker does not support integrations of kind %s", in.Kind)
	}
	h := &handle{revision: in.ReadRevision, ready: make(chan struct{}), users: 2} // the caller and the opening
	st.handles[in.ReadRevision] = h
	// The opening has its own goroutine and is independent of the caller's context:
	// reading files may hang, and other Fetches wait for the same handle.
	s.opened.Go(func() {
		p, err := openSafely(s.opening, open, in)
		s.mu.Lock()
		h.provider, h.err = p, err
		if err != nil && st.handles[h.revision] == h {
			delete(st.handles, h.revision) // the next Fetch tries again
		}
		s.mu.Unlock()
		// The handle is released before ready is closed, so that a Close after the last
		// Fetch finds the Provider idle.
		s.release(in.ID, st, h)
		close(h.ready)
	})
	return h, nil
}

// openSafely calls open and recovers from a panic. The returned error may be shown to the
// caller.
func openSafely(ctx context.Context, open Opener, in *integration.Integration) (p Provider, err error) {
	defer func() {
		if v := recover(); v != nil {
			// The panic's value may contain a credential, so only its type is reported.
			p, err = nil, secret.AsError(fmt.Errorf("provider: the opener panicked with a %T", v))
		}
	}()
	if p, err = open(ctx, in); err != nil {
		// The cause names files of the broker, which the operator may see but the caller
		// may not.
		return nil, secret.Errorf(secret.AsError(err).Reason,
			"the integration's credential or settings cannot be used; the broker's log has the reason under the request id").WithCause(err)
	}
	return p, nil
}

// release removes one user of a handle, and closes the Provider if it was the last one and
// the handle is no longer needed.
func (s *Set) release(id string, st *state, h *handle) {
	s.mu.Lock()
	h.users--
	idle := s.retire(id, st)
	s.mu.Unlock()
	closeAll(idle)
}

// retire removes the handles that are unused and superseded, and returns their Providers
// for closing. s.mu is held.
func (s *Set) retire(id string, st *state) (idle []Provider) {
	for revision, h := range st.handles {
		kept := revision == st.current && !st.gone && !s.closed
		if kept || h.users > 0 {
			continue
		}
		delete(st.handles, revision)
		idle = append(idle, h.provider)
	}
	s.drop(id, st)
	return idle
}

// closeAll closes Providers. It must not be called with a lock held, because closing may
// wait for connections.
func closeAll(idle []Provider) {
	for _, p := range idle {
		_ = p.Close() // no caller is left to receive the error
	}
}

// maxRemovals is about how many removed integrations a Set remembers, in two generations.
// When the newer one is full, the older one is dropped as a whole. A Fetch may arrive a
// few seconds after its integration was removed; fewer than half of maxRemovals are
// removed in that time.
const maxRemovals = 10_000

// removals are the ids of recently removed integrations. The zero value is ready
// for use.
type removals struct {
	recent, older map[string]struct{}
}

func (r *removals) add(id string) {
	if r.recent == nil || len(r.recent) >= maxRemovals/2 {
		r.recent, r.older = make(map[string]struct{}), r.recent
	}
	r.recent[id] = struct{}{}
}

func (r *removals) has(id string) bool {
	_, recent := r.recent[id]
	_, older := r.older[id]
	return recent || older
}

func (r *removals) forget(id string) {
	delete(r.recent, id)
	delete(r.older, id)
}
