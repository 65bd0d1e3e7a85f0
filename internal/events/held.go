package events

import (
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// Held is a reference that an event concerns and whose secret is held.
type Held struct {
	Ref secret.Ref
	// Version is the version in which all holders have it; "" if they have different ones
	// or if one of them does not know.
	Version string
}

// Holder says which secrets are held. It is safe for concurrent use.
type Holder interface {
	// Held returns the references to read because of an event, each with another Version or
	// Suffix. The integration has the store of the event.
	Held(in *integration.Integration, e *provider.Event) []Held
}

// Holdings is the Holder of a broker.
type Holdings struct {
	Hub   *watch.Hub
	Cache *cache.Cache
	// Known is a replica.Tracker's; nil without a database for several replicas.
	Known func(k replica.Key) (version string, ok bool)
}

// Held implements Holder.
func (h *Holdings) Held(in *integration.Integration, e *provider.Event) []Held {
	store := in.CanonicalStore(e.Store)
	if e.Name == "" {
		return watched(h.Hub.WatchedOf(in.ID, store), e)
	}
	held := watched(h.Hub.Watched(in.ID, store, e.Name), e)
	version, found := h.stored(in, store, e)
	if !found {
		return held
	}
	label := currentLabel(e)
	for i := range held {
		if held[i].Ref.Version == label {
			if held[i].Version != version {
				held[i].Version = ""
			}
			return held
		}
	}
	if ref, ok := refOf(in, e); ok {
		held = append(held, Held{ref, version})
	}
	return held
}

// watched selects what an event concerns of what is watched.
func watched(all []watch.Watched, e *provider.Event) []Held {
	var held []Held
next:
	for _, w := range all {
		if !concerns(e, &w.Ref) {
			continue
		}
		for i := range held {
			if other := &held[i]; other.Ref.Name == w.Ref.Name && other.Ref.Version == w.Ref.Version && other.Ref.Suffix == w.Ref.Suffix {
				if other.Version != w.Version {
					other.Version = ""
				}
				continue next // the same secret by another name of its store
			}
		}
		held = append(held, Held(w))
	}
	return held
}

// concerns reports whether what ref names may have changed because of an event about its
// name.
func concerns(e *provider.Event, ref *secret.Ref) bool {
	if e.Suffix != "" && ref.Suffix != "" && e.Suffix != ref.Suffix {
		return false // another secret that has had the name
	}
	if e.Label == provider.AnyLabel || e.Name == "" {
		return !ref.IsPinned()
	}
	return ref.Version == e.Label
}

// currentLabel returns the Version of the references whose version the event names.
func currentLabel(e *provider.Event) string {
	if e.Label == provider.AnyLabel {
		return ""
	}
	return e.Label
}

// stored returns whether the secret is in the cache or was read by another replica, and its
// version, "" if they differ.
func (h *Holdings) stored(in *integration.Integration, store string, e *provider.Event) (version string, found bool) {
	key := cache.Key{Integration: in.ID, Revision: in.ReadRevision, Store: store, Name: e.Name, Version: currentLabel(e)}
	version, found = h.Cache.Version(&key)
	if h.Known == nil {
		return version, found
	}
	seen, ok := h.Known(replica.Key{Integration: key.Integration, Store: key.Store, Name: key.Name, Version: key.Version})
	switch {
	case !ok:
		return version, found
	case found && version != seen:
		return "", true
	default:
		return seen, true
	}
}

// refOf returns a reference to the secret of an event. ok is false if no reference can name
// it.
func refOf(in *integration.Integration, e *provider.Event) (ref secret.Ref, ok bool) {
	canonical := in.CanonicalStore(e.Store)
	for _, suffix := range [2]string{"", e.Suffix} {
		for _, store := range storesOf(in) {
			if in.CanonicalStore(store) != canonical {
				continue
			}
			ref := secret.Ref{Kind: in.Kind, Store: store, Name: strings.Clone(e.Name), Suffix: strings.Clone(suffix), Version: strings.Clone(currentLabel(e))}
			if parsed, err := secret.ParseRef(ref.String()); err == nil && parsed == ref {
				return ref, true
			}
		}
	}
	return secret.Ref{}, false
}

// storesOf returns the stores of an integration, by all of their names.
func storesOf(in *integration.Integration) []string {
	var all []string
	for _, store := range in.Settings.StoreNames() {
		all = append(all, aliasesOf(in, store)...)
	}
	return all
}

// aliasesOf returns the names that an integration has for a store.
func aliasesOf(in *integration.Integration, store string) []string {
	if aliaser, ok := in.Settings.(integration.Aliaser); ok {
		return aliaser.Aliases(store)
	}
	return []string{store}
}

// hasStore reports whether an integration has a store.
func hasStore(in *integration.Integration, store string) bool {
	canonical := in.CanonicalStore(store)
	for _, own := range in.Settings.StoreNames() {
		if in.CanonicalStore(own) == canonical {
			return true
		}
	}
	return false
}

// sharesStore reports whether a source's integration has a store of another integration. A
// name such as an AWS endpoint can be that of another store in each of them. It is the same
// store if one of them has all the names that the other has.
func sharesStore(source, other *integration.Integration, store string) bool {
	names := aliasesOf(other, store)
	containsAll := func(all, some []string) bool {
		return !slices.ContainsFunc(some, func(name string) bool { return !slices.Contains(all, name) })
	}
	for _, own := range source.Settings.StoreNames() {
		if same := aliasesOf(source, own); containsAll(names, same) || containsAll(same, names) {
			return true
		}
	}
	return false
}
