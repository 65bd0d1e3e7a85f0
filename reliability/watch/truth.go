package main

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// item is a secret of an integration.
type item struct{ integration, secret string }

// access is the use of an integration by a principal.
type access struct{ who, integration string }

// span is a period of time.
type span struct{ from, until time.Time }

func (s span) overlaps(o span) bool { return !s.from.After(o.until) && !o.from.After(s.until) }

// change is a change of what is true. It takes effect between from and by.
type change struct {
	span
	allowed bool
	version string
}

// fault is a period in which something failed.
type fault struct {
	span
	kind string
}

// databaseFault is the kind of the faults during which a replica may not learn of a lost
// grant: it then uses what it knows for registry.max_outage.
const databaseFault = "database"

// truth records which versions secrets had, who could read them, and what failed. It is
// safe for concurrent use.
type truth struct {
	mu       sync.Mutex
	versions map[item][]change
	access   map[access][]change
	faults   []fault
	ended    time.Time
}

func newTruth() *truth {
	return &truth{versions: make(map[item][]change), access: make(map[access][]change)}
}

// rotated records that secrets got new versions.
func (t *truth) rotated(during span, versions map[item]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for it, v := range versions {
		t.versions[it] = append(t.versions[it], change{span: during, version: v})
	}
}

// allows records who may read an integration's secrets now.
func (t *truth) allows(during span, all map[access]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a, allowed := range all {
		if is := t.access[a]; len(is) == 0 || is[len(is)-1].allowed != allowed {
			t.access[a] = append(is, change{span: during, allowed: allowed})
		}
	}
}

// failed records a fault.
func (t *truth) failed(kind string, during span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults = append(t.faults, fault{during, kind})
}

// end sets the end of the observation.
func (t *truth) end(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = at
}

// segment is a period in which the picture of one item for one principal did not change.
type segment struct {
	span
	picture
	// began is the start of the change before it, which took effect at from at the latest.
	began time.Time
	cause string
}

// picture is what a client knows, or should know, about an item: that it may not read it, or
// the version.
type picture struct {
	denied  bool
	version string
}

// The causes of segments.
const (
	causeRotated = "rotated"
	causeRevoked = "access lost"
	causeGranted = "access gained"
)

// segments returns the periods of an item for a principal, in order.
func (t *truth) segments(who string, it item) []segment {
	t.mu.Lock()
	defer t.mu.Unlock()
	type event struct {
		change
		access bool
	}
	var events []event
	for _, c := range t.versions[it] {
		events = append(events, event{change: c})
	}
	for _, c := range t.access[access{who, it.integration}] {
		events = append(events, event{c, true})
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Or(a.from.Compare(b.from), a.until.Compare(b.until)) })
	var all []segment
	now := picture{denied: true}
	version := ""
	for _, e := range events {
		next, cause := now, causeRotated
		switch {
		case e.access && e.allowed:
			next, cause = picture{version: version}, causeGranted
		case e.access:
			next, cause = picture{denied: true}, causeRevoked
		case now.denied:
			version = e.version
		default:
			version = e.version
			next = picture{version: version}
		}
		if next == now && len(all) > 0 {
			continue
		}
		if len(all) > 0 {
			all[len(all)-1].until = e.from
		}
		all = append(all, segment{span: span{e.until, t.ended}, picture: next, began: e.from, cause: cause})
		now = next
	}
	return all
}

// faultsWithin returns the faults that overlap a period, of one kind or, if it is empty, of all.
func (t *truth) faultsWithin(s span, kind string) (found []span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.faults {
		if f.overlaps(s) && (kind == "" || f.kind == kind) {
			found = append(found, f.span)
		}
	}
	return found
}

// had reports whether a secret had a version at some time in a period.
func (t *truth) had(it item, version string, during span) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	changes := t.versions[it]
	for i, c := range changes {
		until := during.until
		if i+1 < len(changes) {
			until = changes[i+1].until
		}
		if c.version == version && during.overlaps(span{c.from, until}) {
			return true
		}
	}
	return false
}

// is returns what is true now.
func (t *truth) is(who string, it item) picture {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.access[access{who, it.integration}]
	if len(a) == 0 || !a[len(a)-1].allowed {
		return picture{denied: true}
	}
	v := t.versions[it]
	return picture{version: v[len(v)-1].version}
}
