package events

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// event requests a read of the secret of an event through each integration that the event
// concerns and that holds it.
func (s *source) event(ctx context.Context, m *provider.EventMessage, e *provider.Event) (Outcome, error) {
	if !hasStore(s.in, e.Store) {
		return ForeignStore, nil
	}
	s.mu.Lock()
	covers := s.covers
	s.mu.Unlock()
	ids := []string{s.in.ID}
	if covers != nil {
		if ids = s.receiver.candidates(e.Store); len(ids) == 0 {
			ids = s.receiver.candidates(s.in.CanonicalStore(e.Store))
		}
	}
	outcome := NotHeld
	for _, id := range ids {
		if covers != nil && !covers(id) {
			continue
		}
		if err := s.checks.Wait(ctx); err != nil {
			return outcome, err
		}
		in, err := s.receiver.integrations.Get(id)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			return outcome, errNoIntegrations
		}
		if in.Kind == s.in.Kind && hasStore(in, e.Store) {
			outcome = max(outcome, s.hint(in, m, e))
		}
	}
	return outcome, nil
}

var errNoIntegrations = secret.Errorf(secret.ReasonRegistryUnavailable, "the broker cannot read its integrations now; messages stay in the queue")

// hint requests a read through one integration.
func (s *source) hint(in *integration.Integration, m *provider.EventMessage, e *provider.Event) Outcome {
	held := s.receiver.holder.Held(in, e)
	if len(held) == 0 {
		return NotHeld
	}
	if e.Name != "" {
		s.explained(changeKey{in.ID, strings.Clone(in.CanonicalStore(e.Store)), strings.Clone(e.Name)})
	}
	known := e.Version != ""
	for i := range held {
		known = known && held[i].Ref.Version == currentLabel(e) && held[i].Version == e.Version
	}
	if known {
		return Known
	}
	key := secretKey{in.ID, in.CanonicalStore(e.Store), e.Name, e.Label}
	s.receiver.reads.hint(s.queue, key, e, youngUntil(m, e, time.Now()))
	return Read
}

// youngUntil returns until when the store may answer the version before the event. A clock
// of the cloud that differs from this machine's makes it a time that is too early or late,
// which costs repeats or saves them.
func youngUntil(m *provider.EventMessage, e *provider.Event, now time.Time) time.Time {
	at := e.At
	if at.IsZero() {
		at = m.SentAt
	}
	if at.IsZero() || at.After(now) {
		return now.Add(young)
	}
	return now.Add(young - now.Sub(at))
}
