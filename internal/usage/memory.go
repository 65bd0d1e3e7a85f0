package usage

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// Memory is a registry.UsageStore for integrations that are files: it knows what
// this process has seen since its start, and no more.
type Memory struct {
	most int

	mu      sync.Mutex
	entries map[string]map[registry.Usage]registry.Usage // by integration, then without version and times
}

var _ registry.UsageStore = (*Memory)(nil)

// NewMemory makes a Memory of at most so many entries for each integration; 0
// means 10,000.
func NewMemory(most int) *Memory {
	return &Memory{most: cmp.Or(most, 10_000), entries: make(map[string]map[registry.Usage]registry.Usage)}
}

// MergeUsage implements registry.UsageStore.
func (m *Memory) MergeUsage(_ context.Context, batch []registry.Usage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range batch {
		of := m.entries[u.Integration]
		if of == nil {
			of = make(map[registry.Usage]registry.Usage)
			m.entries[u.Integration] = of
		}
		k := u
		k.Version, k.FirstAt, k.LastAt = "", time.Time{}, time.Time{}
		if old, ok := of[k]; ok {
			u = registry.MergeUsage(old, u)
		}
		of[k] = u
	}
	for _, of := range m.entries {
		m.shrink(of)
	}
	return nil
}

// shrink forgets the oldest of what is too much, and some more so that this is
// rare.
func (m *Memory) shrink(of map[registry.Usage]registry.Usage) {
	if len(of) <= m.most {
		return
	}
	keys := slices.SortedFunc(maps.Keys(of), func(a, b registry.Usage) int { return of[a].LastAt.Compare(of[b].LastAt) })
	for _, k := range keys[:len(keys)-m.most+m.most/10] {
		delete(of, k)
	}
}

// Usage implements registry.UsageStore.
func (m *Memory) Usage(_ context.Context, integration string, since time.Time, limit int) ([]registry.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []registry.Usage
	for _, u := range m.entries[integration] {
		if !u.LastAt.Before(since) {
			all = append(all, u)
		}
	}
	slices.SortFunc(all, func(a, b registry.Usage) int {
		return cmp.Or(b.LastAt.Compare(a.LastAt), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Connector, b.Connector),
			cmp.Compare(a.Store, b.Store), cmp.Compare(a.Secret, b.Secret), cmp.Compare(a.Key, b.Key))
	})
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, nil
}

// LastUsed implements registry.UsageStore.
func (m *Memory) LastUsed(context.Context) (map[string]time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := make(map[string]time.Time, len(m.entries))
	for id, of := range m.entries {
		for _, u := range of {
			if u.LastAt.After(last[id]) {
				last[id] = u.LastAt
			}
		}
	}
	return last, nil
}
