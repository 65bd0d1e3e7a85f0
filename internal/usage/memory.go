package usage

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// Memory is a registry.UsageStore for integrations in files. It has only the usage since
// the start of the process.
type Memory struct {
	most  int
	since time.Time // when the Memory was made
	// keeps reports whether an integration still exists; nil keeps all.
	keeps func(id string) bool

	mu      sync.Mutex
	entries map[string]map[useKey]*registry.Usage  // by integration
	seen    map[string]map[secretKey]registry.Seen // by integration
}

// secretKey identifies a secret of an integration.
type secretKey struct{ store, secret string }

// useKey identifies a use of an integration.
type useKey struct {
	principal                     authz.Principal
	connector, store, secret, key string
	grantID                       string
}

func keyOf(u *registry.Usage) useKey {
	return useKey{u.Principal, u.Connector, u.Store, u.Secret, u.Key, u.GrantID}
}

var _ registry.UsageStore = (*Memory)(nil)

// NewMemory returns a Memory that stores at most the given number of entries for each
// integration, and one more for each principal; 0 means 10,000.
func NewMemory(most int) *Memory {
	return &Memory{most: cmp.Or(most, 10_000), since: time.Now().UTC(), entries: make(map[string]map[useKey]*registry.Usage), seen: make(map[string]map[secretKey]registry.Seen)}
}

// Keep sets a function that reports whether an integration still exists. MergeUsage removes
// the usage of integrations that do not. Keep must be called before m is used.
func (m *Memory) Keep(keeps func(id string) bool) { m.keeps = keeps }

// MergeUsage implements registry.UsageStore.
func (m *Memory) MergeUsage(_ context.Context, batch []registry.Usage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range batch {
		u := batch[i] // a copy, so that the entry does not retain the batch
		of := m.entries[u.Integration]
		if of == nil {
			of = make(map[useKey]*registry.Usage)
			m.entries[u.Integration] = of
		}
		k := keyOf(&u)
		old := of[k]
		if old == nil {
			old = &registry.Usage{}
			*old, of[k] = u, old
		}
		*old = registry.MergeUsage(*old, u)
	}
	for id, of := range m.entries {
		if m.keeps != nil && !m.keeps(id) {
			delete(m.entries, id)
			delete(m.seen, id)
			continue
		}
		m.shrink(of)
	}
	return nil
}

// shrink reduces the entries of an integration that has too many. It replaces some of them,
// more than necessary so that this is rare, by one entry for each principal without
// connector and secret, so that the integration does not look unused.
// Principals share the entries fairly: the k-th latest entry of every principal is kept
// before the k+1-th of any, so that a principal with many entries cannot displace others.
func (m *Memory) shrink(of map[useKey]*registry.Usage) {
	if len(of) <= m.most {
		return
	}
	byPrincipal := make(map[authz.Principal][]*registry.Usage)
	for _, u := range of {
		byPrincipal[u.Principal] = append(byPrincipal[u.Principal], u)
	}
	nth := make(map[*registry.Usage]int, len(of))
	for _, own := range byPrincipal {
		slices.SortFunc(own, func(a, b *registry.Usage) int { return b.LastAt.Compare(a.LastAt) })
		for i, u := range own {
			nth[u] = i
		}
	}
	order := slices.SortedFunc(maps.Values(of), func(a, b *registry.Usage) int {
		return cmp.Or(cmp.Compare(nth[a], nth[b]), b.LastAt.Compare(a.LastAt))
	})
	for _, u := range order[m.most-m.most/10:] {
		if u.Secret == "" {
			continue // tells nothing apart already
		}
		delete(of, keyOf(u))
		folded := registry.Usage{Integration: u.Integration, Principal: u.Principal, FirstAt: u.FirstAt, LastAt: u.LastAt}
		if old := of[keyOf(&folded)]; old != nil {
			folded = registry.MergeUsage(*old, folded)
		}
		of[keyOf(&folded)] = &folded
	}
}

// Usage implements registry.UsageStore.
func (m *Memory) Usage(_ context.Context, integration string, since time.Time, limit int) ([]registry.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []registry.Usage
	for _, u := range m.entries[integration] {
		if !u.LastAt.Before(since) {
			all = append(all, *u)
		}
	}
	slices.SortFunc(all, func(a, b registry.Usage) int {
		return cmp.Or(b.LastAt.Compare(a.LastAt), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Connector, b.Connector),
			cmp.Compare(a.Store, b.Store), cmp.Compare(a.Secret, b.Secret), cmp.Compare(a.Key, b.Key), cmp.Compare(a.GrantID, b.GrantID))
	})
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all, nil
}

// UsagePage implements registry.UsageStore.
func (m *Memory) UsagePage(_ context.Context, q registry.UsageQuery) ([]registry.Usage, error) {
	type found struct {
		id string
		registry.Usage
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []found
	for _, integration := range q.Integrations {
		for _, u := range m.entries[integration] {
			if q.Secret != "" && u.Secret != q.Secret || integration < q.AfterIntegration {
				continue
			}
			if id := u.ID(); integration > q.AfterIntegration || id > q.AfterID {
				all = append(all, found{id, *u})
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.Integration, b.Integration), cmp.Compare(a.id, b.id))
	})
	page := make([]registry.Usage, min(len(all), q.Limit))
	for i := range page {
		page[i] = all[i].Usage
	}
	return page, nil
}

// CountVersions implements registry.UsageStore.
func (m *Memory) CountVersions(_ context.Context, limit int) ([]registry.VersionCount, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := make(map[registry.VersionCount]int)
	for integration, of := range m.entries {
		for _, u := range of {
			k := registry.VersionCount{Integration: integration, Store: u.Store, Secret: u.Secret, Version: u.Version}
			if u.Secret == "" || counts[k] == 0 && len(counts) >= limit {
				continue
			}
			counts[k]++
		}
	}
	all := make([]registry.VersionCount, 0, len(counts))
	for k, n := range counts {
		k.Count = n
		all = append(all, k)
	}
	return all, nil
}

// MergeSeen implements registry.UsageStore. Of an integration with too many secrets it
// drops new ones.
func (m *Memory) MergeSeen(_ context.Context, batch []registry.Seen) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range batch {
		v.UID = ""
		of := m.seen[v.Integration]
		if of == nil {
			of = make(map[secretKey]registry.Seen)
			m.seen[v.Integration] = of
		}
		k := secretKey{v.Store, v.Secret}
		old, known := of[k]
		if known && !v.ReadAt.Before(old.ReadAt) || !known && len(of) < m.most {
			of[k] = v
		}
	}
	for id := range m.seen {
		if m.keeps != nil && !m.keeps(id) {
			delete(m.seen, id)
		}
	}
	return nil
}

// Seen implements registry.UsageStore.
func (m *Memory) Seen(_ context.Context, secrets []string) ([]registry.Seen, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []registry.Seen
	for _, of := range m.seen {
		for _, v := range of {
			if secrets == nil || slices.Contains(secrets, v.Secret) {
				all = append(all, v)
			}
		}
	}
	return all, nil
}

// Recording implements registry.UsageStore.
func (m *Memory) Recording() registry.Recording {
	return registry.Recording{Since: m.since, ReplicaOnly: true}
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
