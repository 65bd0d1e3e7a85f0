package manage

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// usageFilter is a filter of usage.
type usageFilter filter

var usageGrammar = grammar{
	fields:   []string{"store", "secret", "json_key", "principal", "connector", "version", "attribution"},
	words:    []string{"outdated", "current"},
	expected: "expected store, secret, json_key, principal, connector, version or attribution with = or != and a value, or outdated or current",
}

// secret returns the name of the only secret whose usage can match, "" if there are several.
func (f usageFilter) secret() string {
	for _, t := range f {
		if t.field == "secret" && !t.not && !strings.HasSuffix(t.value, "*") {
			return t.value
		}
	}
	return ""
}

// needsState reports whether match depends on the state of the entry.
func (f usageFilter) needsState() bool {
	return slices.ContainsFunc(f, func(t term) bool { return t.field == "outdated" || t.field == "current" })
}

// match reports whether the entry, which belongs to rec, matches every term.
func (f usageFilter) match(rec *registry.Record, e *UsageEntry) bool {
	return f.matchTerms(rec, e, false)
}

// mayMatch is match for an entry whose state is not known yet.
func (f usageFilter) mayMatch(rec *registry.Record, e *UsageEntry) bool {
	return f.matchTerms(rec, e, true)
}

func (f usageFilter) matchTerms(rec *registry.Record, e *UsageEntry, anyState bool) bool {
	for _, t := range f {
		var holds bool
		switch t.field {
		case "store":
			holds = matchText(t.value, e.Store) || canonicalStore(rec, t.value) == canonicalStore(rec, e.Store)
		case "secret":
			holds = matchText(t.value, e.Secret)
		case "json_key":
			holds = matchText(t.value, e.Key)
		case "principal":
			holds = matchText(t.value, string(e.Principal))
		case "connector":
			holds = matchText(t.value, e.Connector)
		case "version":
			holds = matchText(t.value, e.Version)
		case "attribution":
			holds = matchText(t.value, string(e.Attribution))
		case "outdated":
			holds = e.State == VersionOutdated
		case "current":
			holds = e.State == VersionCurrent
		}
		if anyState && (t.field == "outdated" || t.field == "current") {
			continue
		}
		if holds == t.not {
			return false
		}
	}
	return true
}

// canonicalStore is Integration.CanonicalStore, also if the integration is invalid.
func canonicalStore(rec *registry.Record, store string) string {
	if rec == nil || rec.Integration == nil {
		return store
	}
	return rec.Integration.CanonicalStore(store)
}

// entryOf returns the entry of u, which belongs to rec, with an unknown state.
func entryOf(rec *registry.Record, u *registry.Usage) UsageEntry {
	e := UsageEntry{Usage: *u, State: VersionUnknown, Attribution: ByConnector}
	if e.Integration = rec.ID; u.Connector == "" {
		e.Attribution = ByPrincipal
	}
	return e
}

// currentVersions finds the current versions of secrets for one call.
type currentVersions struct {
	s *Service
	// visible reports whether the caller has a role on an integration.
	visible func(id string) (bool, error)
	known   map[string]bool // names of secrets that were looked up
	latest  map[secretName]registry.Seen
}

// secretName identifies a secret; the store is canonical.
type secretName struct{ store, name string }

// newVersions returns a currentVersions for a caller.
func (s *Service) newVersions(who authz.Principal) *currentVersions {
	v := &currentVersions{s: s, known: make(map[string]bool), latest: make(map[secretName]registry.Seen)}
	if s.readsAll(who) {
		v.visible = func(string) (bool, error) { return true, nil }
		return v
	}
	var own map[string]bool
	v.visible = func(id string) (bool, error) {
		if own == nil {
			list, err := s.cfg.Store.WithRole(who)
			if err != nil {
				return false, err
			}
			own = make(map[string]bool, len(list))
			for _, in := range list {
				own[in.ID] = authz.Authority{Integration: in.Roles}.May(who, authz.ToRead)
			}
		}
		return own[id], nil
	}
	return v
}

// find reads the current versions of the secrets with these names.
func (v *currentVersions) find(ctx context.Context, names []string) error {
	seen, err := v.s.cfg.Usage.Seen(ctx, names)
	if err != nil {
		return errorOf("", err)
	}
	for _, one := range seen {
		may, err := v.visible(one.Integration)
		if err != nil {
			return errorOf("", err)
		}
		if !may {
			continue
		}
		k := secretName{one.Store, one.Secret}
		if old, ok := v.latest[k]; !ok || v.after(one.ReadAt, old.ReadAt) {
			v.latest[k] = one
		}
	}
	return nil
}

// after reports whether a is later than b. Times in the future are those of a clock that was
// set back.
func (v *currentVersions) after(a, b time.Time) bool {
	now := v.s.cfg.Now()
	if future := b.After(now); future != a.After(now) {
		return future
	}
	return a.After(b)
}

// compare sets the current version and the state of entries. Their integrations are in byID.
func (v *currentVersions) compare(ctx context.Context, byID map[string]*registry.Record, entries []UsageEntry) error {
	var names []string
	for i := range entries {
		if name := entries[i].Secret; name != "" && !v.known[name] {
			v.known[name] = true
			names = append(names, name)
		}
	}
	for some := range slices.Chunk(names, usageRows) {
		if err := v.find(ctx, some); err != nil {
			return err
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.Secret == "" {
			continue
		}
		e.CurrentVersion = v.latest[secretName{canonicalStore(byID[e.Integration], e.Store), e.Secret}].Version
		switch e.CurrentVersion {
		case "":
		case e.Version:
			e.State = VersionCurrent
		default:
			e.State = VersionOutdated
		}
	}
	return nil
}
