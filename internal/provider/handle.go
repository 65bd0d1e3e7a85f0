package provider

import (
	"context"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// state is what a Set knows of one integration. It is guarded by Set.mu.
type state struct {
	kind    secret.Kind
	fetches int // that run or wait
	// current is the revision whose Provider stays open while it is not used,
	// unless the integration is gone.
	current string
	gone    bool
	handles map[string]*handle // by revision; more than one only while the others are in use
	// limiters are by store. They outlive revisions: the store's capacity does not
	// change with the integration.
	limiters map[string]*limiter
}

// forgetStores drops the limiters that are idle: the integration may no longer list
// their stores.
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
	// ready is closed when the opening has ended, which sets provider or err.
	ready    chan struct{}
	provider Provider
	err      error
	// users are the Fetches that have the handle, and the opening. Guarded by
	// Set.mu.
	users int
}

// wait returns the handle's Provider once it is open.
func (h *handle) wait(ctx context.Context) (Provider, error) {
	select {
	case <-h.ready:
		return h.provider, h.err
	default: // it is not the files' fault if ctx has ended too
	}
	select {
	case <-h.ready:
		return h.provider, h.err
	case <-ctx.Done():
		return nil, secret.Errorf(secret.ReasonStoreUnavailable,
			"the integration's files could not be read in time; the broker's operator should look at the disk they are on").WithCause(ctx.Err())
	}
}

// acquire returns the handle of the integration's revision, with one user more.
// If there is none, its opening begins.
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
		return nil, secret.Errorf(secret.ReasonInternal, "this broker has no support for integrations of kind %s", in.Kind)
	}
	h := &handle{revision: in.ReadRevision, ready: make(chan struct{}), users: 2} // the caller and the opening
	st.handles[in.ReadRevision] = h
	// In a goroutine of its own, and of no caller's context: files may lie where
	// reading them takes for ever, and others wait for the same.
	s.opened.Go(func() {
		p, err := openSafely(s.opening, open, in)
		s.mu.Lock()
		h.provider, h.err = p, err
		if err != nil && st.handles[h.revision] == h {
			delete(st.handles, h.revision) // the next Fetch tries again
		}
		s.mu.Unlock()
		// First, so that a Close after the last Fetch finds the Provider idle.
		s.release(in.ID, st, h)
		close(h.ready)
	})
	return h, nil
}

// openSafely calls open. Its error is what the caller may be told.
func openSafely(ctx context.Context, open Opener, in *integration.Integration) (p Provider, err error) {
	defer func() {
		if v := recover(); v != nil {
			// What it carries may be a credential.
			p, err = nil, secret.AsError(fmt.Errorf("provider: the opener panicked with a %T", v))
		}
	}()
	if p, err = open(ctx, in); err != nil {
		// The cause names the broker's files, which is the operator's
		// business and not the caller's.
		return nil, secret.Errorf(secret.AsError(err).Reason,
			"the integration's credential or settings cannot be used; the broker's log says why, by the request id").WithCause(err)
	}
	return p, nil
}

// release gives a handle back, and closes its Provider if that was the last use.
func (s *Set) release(id string, st *state, h *handle) {
	s.mu.Lock()
	h.users--
	idle := s.retire(id, st)
	s.mu.Unlock()
	closeAll(idle)
}

// retire takes away the handles that are not used and will not be, and returns
// their Providers to be closed. s.mu is held.
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

// closeAll closes Providers outside of any lock: it may wait for connections.
func closeAll(idle []Provider) {
	for _, p := range idle {
		_ = p.Close() // there is no caller to report it to
	}
}

// maxRemovals is about how many removed integrations a Set remembers, in two
// generations of which the older one is forgotten as a whole. A Fetch may be
// late by a few seconds, in which fewer than half of these are removed.
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
