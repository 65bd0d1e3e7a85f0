package manage

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// lastUsesAge is the age up to which the times of last uses are answered from memory.
	lastUsesAge = 10 * time.Second
	// lastUsesTime limits how long a call waits while it reads them.
	lastUsesTime = 2 * time.Second
)

// lastUses is when each integration was last used, as read from the usage store. Reading
// it takes longer than all other work of a read of integrations, and the store may hang,
// so at most one call in lastUsesAge reads it. The zero lastUses is ready for use. It is
// safe for concurrent use.
type lastUses struct {
	mu      sync.Mutex
	reading chan struct{}        // closed at the end of the read in progress; nil if there is none
	tried   time.Time            // when the last attempt to read began
	at      map[string]time.Time // immutable; nil if no attempt has succeeded
}

// lastUsed returns when each integration was last used, not older than lastUsesAge if the
// usage store can be read. The caller must not change the map. If nothing could be read
// yet, it returns nil, because integrations must be shown nevertheless.
func (s *Service) lastUsed(ctx context.Context) map[string]time.Time {
	if s.cfg.Usage == nil {
		return nil
	}
	u := &s.uses
	mine, reading := u.begin(s.cfg.Now())
	switch {
	case mine:
		s.readLastUses(ctx)
	case reading != nil: // and nothing is known yet
		select {
		case <-reading:
		case <-ctx.Done():
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.at
}

// Recording says what usage of an integration is recorded. The zero Recording means that this
// is unknown.
type Recording struct {
	// Since is since when uses are recorded. GrantsSince is since when those of the grants, as
	// they are now, are recorded: the last change of the integration, if that is later.
	Since, GrantsSince time.Time
	// ReplicaOnly: only the uses of this replica are recorded.
	ReplicaOnly bool
}

// recording returns what usage of an integration is recorded.
func (s *Service) recording(rec *registry.Record) Recording {
	if s.cfg.Usage == nil {
		return Recording{}
	}
	r := s.cfg.Usage.Recording()
	now := s.cfg.Now()
	latest := func(times ...time.Time) time.Time {
		t := slices.MaxFunc(times, time.Time.Compare)
		if t.After(now) { // the clock was set back
			t = now
		}
		return t.UTC()
	}
	return Recording{Since: latest(r.Since, rec.CreatedAt), GrantsSince: latest(r.Since, rec.CreatedAt, rec.UpdatedAt), ReplicaOnly: r.ReplicaOnly}
}

// withUse adds when an integration was last used. last is the result of lastUsed.
func (s *Service) withUse(in Integration, rec *registry.Record, last map[string]time.Time) Integration {
	if last != nil {
		in.LastUsedAt, in.Recording = last[rec.ID], s.recording(rec)
	}
	return in
}

// begin reports whether the caller must read. Otherwise, if there is no result yet, reading
// is the read to wait for, or nil.
func (u *lastUses) begin(now time.Time) (mine bool, reading <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.reading != nil && u.at == nil:
		return false, u.reading
	case u.reading != nil, !u.tried.IsZero() && now.Sub(u.tried) < lastUsesAge:
		return false, nil
	}
	u.reading, u.tried = make(chan struct{}), now
	return true, nil
}

// readLastUses reads from the usage store after begin. Other calls use the result, so it
// does not depend on the end of ctx.
func (s *Service) readLastUses(ctx context.Context) {
	u := &s.uses
	var at map[string]time.Time
	defer func() { // also if the store panics
		u.mu.Lock()
		defer u.mu.Unlock()
		if at != nil {
			u.at = at
		}
		close(u.reading)
		u.reading = nil
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastUsesTime)
	defer cancel()
	var err error
	if at, err = s.cfg.Usage.LastUsed(ctx); err != nil {
		at = nil
		s.cfg.Logger.WarnContext(ctx, "cannot read when integrations were last used", "error", err)
	}
}
