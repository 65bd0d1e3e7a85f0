package provider

import (
	"context"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// member is what a Set knows of one integration. It is guarded by Set.mu.
type member struct {
	kind    secret.Kind
	fetches int // that run or wait
	// current is the revision whose Provider stays open while nobody uses it,
	// unless the integration is gone.
	current string
	gone    bool
	slots   map[string]*slot // by revision; more than one only while the others are in use
	// gates are the ways to its stores. They outlive revisions: what a store can
	// bear does not change with the integration.
	gates map[string]*gate
}

// forgetStores drops the gates of stores that nothing is to be remembered of:
// the integration may no longer list them.
func (m *member) forgetStores(now time.Time) {
	for store, g := range m.gates {
		if g.fetches == 0 && g.idle(now) {
			delete(m.gates, store)
		}
	}
}

// slot is the Provider of one revision.
type slot struct {
	revision string
	// ready is closed when the opening has ended, which sets provider or err.
	ready    chan struct{}
	provider Provider
	err      error
	// users are the Fetches that have the slot, and the opening. Guarded by
	// Set.mu.
	users int
}

// wait returns the slot's Provider once it is open.
func (sl *slot) wait(ctx context.Context) (Provider, error) {
	select {
	case <-sl.ready:
		return sl.provider, sl.err
	default: // it is not the files' fault if ctx has ended too
	}
	select {
	case <-sl.ready:
		return sl.provider, sl.err
	case <-ctx.Done():
		return nil, secret.Errorf(secret.ReasonStoreUnavailable,
			"the integration's files could not be read in time; the broker's operator should look at the disk they are on").WithCause(ctx.Err())
	}
}

// acquire returns the slot of the integration's revision, with one user more.
// If there is none, its opening begins.
func (s *Set) acquire(m *member, in *registry.Integration) (*slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if sl := m.slots[in.ReadRevision]; sl != nil {
		sl.users++
		return sl, nil
	}
	open, ok := s.cfg.Openers[in.Kind]
	if !ok {
		return nil, secret.Errorf(secret.ReasonInternal, "this broker has no support for integrations of kind %s", in.Kind)
	}
	sl := &slot{revision: in.ReadRevision, ready: make(chan struct{}), users: 2} // the caller and the opening
	m.slots[in.ReadRevision] = sl
	// In a goroutine of its own, and of no caller's context: files may lie where
	// reading them takes for ever, and others wait for the same.
	s.opened.Go(func() {
		p, err := openSafely(s.opening, open, in)
		s.mu.Lock()
		sl.provider, sl.err = p, err
		if err != nil && m.slots[sl.revision] == sl {
			delete(m.slots, sl.revision) // the next Fetch tries anew
		}
		s.mu.Unlock()
		// First, so that a Close after the last Fetch finds the Provider idle.
		s.release(in.ID, m, sl)
		close(sl.ready)
	})
	return sl, nil
}

// openSafely calls open. Its error is what the caller may be told.
func openSafely(ctx context.Context, open Opener, in *registry.Integration) (p Provider, err error) {
	defer func() {
		if v := recover(); v != nil {
			// What it carries may be a credential.
			p, err = nil, secret.AsError(fmt.Errorf("provider: the opener panicked with a %T", v))
		}
	}()
	if p, err = open(ctx, in); err != nil {
		// What stands in the way names the broker's files, which is the operator's
		// business and not the caller's.
		return nil, secret.Errorf(secret.AsError(err).Reason,
			"the integration's credential or settings cannot be used; the broker's log says why, by the request id").WithCause(err)
	}
	return p, nil
}

// release gives a slot back, and closes its Provider if that was the last use.
func (s *Set) release(id string, m *member, sl *slot) {
	s.mu.Lock()
	sl.users--
	idle := s.retire(id, m)
	s.mu.Unlock()
	closeAll(idle)
}

// retire takes away the slots that nobody uses and nobody will, and returns
// their Providers to be closed. s.mu is held.
func (s *Set) retire(id string, m *member) (idle []Provider) {
	for revision, sl := range m.slots {
		kept := revision == m.current && !m.gone && !s.closed
		if kept || sl.users > 0 {
			continue
		}
		delete(m.slots, revision)
		idle = append(idle, sl.provider)
	}
	s.drop(id, m)
	return idle
}

// closeAll closes Providers outside of any lock: it may wait for connections.
func closeAll(idle []Provider) {
	for _, p := range idle {
		_ = p.Close() // nobody is left to be told
	}
}

// maxRemovals is about how many removed integrations a Set remembers, in two
// generations of which the older one is forgotten as a whole. A Fetch may be
// late by a few seconds, in which fewer than half of these are removed.
const maxRemovals = 10_000

// removals are the ids of integrations removed of late. The zero value is ready
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
