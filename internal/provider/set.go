package provider

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Set holds one open Provider for each integration that has been read from. It
// is safe for concurrent use.
type Set struct {
	openers map[secret.Kind]Opener
	observe func(kind secret.Kind, err error, took time.Duration)

	mu     sync.Mutex
	closed bool
	slots  map[string]*slot // integration id -> its open provider
}

// slot is one open Provider and how many Fetches use it. Its fields but the
// first two are guarded by Set.mu.
type slot struct {
	revision string
	provider Provider
	users    int
	retired  bool
}

// NewSet makes a Set of these openers. observe, if not nil, is told of every
// read of a store: what came of it (nil or a *secret.Error) and how long it
// took.
func NewSet(openers map[secret.Kind]Opener, observe func(kind secret.Kind, err error, took time.Duration)) *Set {
	if observe == nil {
		observe = func(secret.Kind, error, time.Duration) {}
	}
	return &Set{openers: openers, observe: observe, slots: make(map[string]*slot)}
}

// Fetch reads ref through the integration's Provider, opening it if need be. A
// new revision of the integration replaces the Provider of the old one, which
// is closed when its last Fetch has ended.
func (s *Set) Fetch(ctx context.Context, in *registry.Integration, ref secret.Ref) (*secret.Secret, error) {
	sl, idle, err := s.acquire(ctx, in)
	closeIdle(idle)
	if err != nil {
		return nil, err
	}
	defer func() { closeIdle(s.release(sl)) }()
	start := time.Now()
	sec, err := sl.provider.Fetch(ctx, ref)
	s.observe(in.Kind, err, time.Since(start))
	return sec, err
}

// Remove closes the Provider of an integration that no longer exists.
func (s *Set) Remove(id string) {
	s.mu.Lock()
	sl := s.slots[id]
	delete(s.slots, id)
	idle := retire(sl)
	s.mu.Unlock()
	closeIdle(idle)
}

// Close closes every Provider. The caller has seen to it that no Fetch is under
// way.
func (s *Set) Close() error {
	s.mu.Lock()
	s.closed = true
	slots := s.slots
	s.slots = nil
	s.mu.Unlock()
	var errs []error
	for _, sl := range slots {
		errs = append(errs, sl.provider.Close())
	}
	return errors.Join(errs...)
}

// acquire returns the slot of the integration's revision, with one user more,
// and the Provider that has thereby become superseded and idle, if any.
func (s *Set) acquire(ctx context.Context, in *registry.Integration) (sl *slot, idle Provider, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, secret.Errorf(secret.ReasonStoreUnavailable, "the broker is shutting down; try another replica")
	}
	old := s.slots[in.ID]
	if old != nil && old.revision == in.Revision {
		old.users++
		return old, nil, nil
	}
	open, ok := s.openers[in.Kind]
	if !ok {
		return nil, nil, secret.Errorf(secret.ReasonInternal, "this broker has no support for integrations of kind %s", in.Kind)
	}
	p, err := open(ctx, in) // reads a few small files; contacts nobody
	if err != nil {
		// What stands in the way names the broker's files, which is the operator's
		// business and not the caller's.
		return nil, nil, secret.Errorf(secret.AsError(err).Reason,
			"the integration's credential or settings cannot be used; the broker's log says why, by the request id").WithCause(err)
	}
	sl = &slot{revision: in.Revision, provider: p, users: 1}
	s.slots[in.ID] = sl
	return sl, retire(old), nil
}

// release gives a slot back and returns its Provider if it is to be closed now.
func (s *Set) release(sl *slot) (idle Provider) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl.users--
	if sl.retired && sl.users == 0 {
		return sl.provider
	}
	return nil
}

// retire marks sl as superseded and returns its Provider if nobody uses it;
// otherwise the last user's release does.
func retire(sl *slot) (idle Provider) {
	if sl == nil {
		return nil
	}
	sl.retired = true
	if sl.users > 0 {
		return nil
	}
	return sl.provider
}

// closeIdle closes p outside of any lock: it may wait for connections.
func closeIdle(p Provider) {
	if p != nil {
		_ = p.Close() // nobody is left to be told
	}
}
