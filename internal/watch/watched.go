package watch

import "github.com/secretbroker/secretbroker/internal/secret"

// Watched is a reference by which a secret is watched.
type Watched struct {
	Ref secret.Ref
	// Version is that of the last read; "" if it failed, or if there was none.
	Version string
}

// Watched returns the references by which a secret of an integration is watched by callers
// that may. store is the canonical name of the store, as in a cache.Key. The references
// include those with a version.
func (h *Hub) Watched(integrationID, store, name string) []Watched {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Watched
	for t := range h.names[Key{Integration: integrationID, Store: store, Name: name}] {
		all = append(all, t.watched())
	}
	return all
}

// WatchedOf returns the references by which secrets of a store are watched, as Watched does.
func (h *Hub) WatchedOf(integrationID, store string) []Watched {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Watched
	for t := range h.of[integrationID] {
		if t.load != (Key{}) && t.load.Store == store {
			all = append(all, t.watched())
		}
	}
	return all
}

func (t *target) watched() Watched {
	w := Watched{Ref: t.ref}
	if t.known && t.err == nil {
		w.Version = t.version
	}
	return w
}
