package sqlstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// shards is how many parts a snapshot has: a change copies one of them.
const shards = 256

var shardSeed = maphash.MakeSeed()

// shardOf is the part that an integration belongs to.
func shardOf(id string) int { return int(maphash.String(shardSeed, id) % shards) }

// snapshot is what was in the database at one time. It is immutable, and shares
// what has not changed with the one before.
type snapshot struct {
	read     bool // false of the first, which is empty
	revision int64
	stamp    string
	byID     [shards]map[string]*kept
	sorted   []*integration.Integration // those that are served, by ID
	faults   []registry.FileFault       // by File
}

// kept is one integration as it is in the database.
type kept struct {
	id, etag    string
	spec        []byte
	credentials map[string]integration.Credential
	digests     map[string]integration.Digest // of the credentials, sealed
	names       []string                      // of the credentials, sorted
	parsed      integration.Parsed            // its Faults include sealedFaults
	// sealedFaults are those of credentials that no key opens.
	sealedFaults strictyaml.Faults
	// serving is what is served, nil if nothing is.
	serving *integration.Integration
}

func (k *kept) fields() []any { return []any{&k.id, &k.etag, &k.spec} }

// get returns an integration, nil if there is none.
func (n *snapshot) get(id string) *kept { return n.byID[shardOf(id)][id] }

// serving returns what is served of an integration, nil if nothing is.
func (n *snapshot) serving(id string) *integration.Integration {
	if k := n.get(id); k != nil {
		return k.serving
	}
	return nil
}

// all calls do for every integration.
func (n *snapshot) all(do func(*kept)) {
	for _, shard := range n.byID {
		for _, k := range shard {
			do(k)
		}
	}
}

// differences returns what is not as n has it, and nil for what is not listed.
func (n *snapshot) differences(listed []*kept) map[string]*kept {
	changes := make(map[string]*kept)
	found := make(map[string]bool, len(listed))
	for _, k := range listed {
		found[k.id] = true
		if old := n.get(k.id); old == nil || old.etag != k.etag {
			changes[k.id] = k
		}
	}
	n.all(func(k *kept) {
		if !found[k.id] {
			changes[k.id] = nil
		}
	})
	return changes
}

// manyChanges is from how many changes on the lists are sorted again.
const manyChanges = 64

// with returns a snapshot with other integrations, nil taking one out, and the ids
// of these, sorted.
func (n *snapshot) with(changes map[string]*kept) (*snapshot, []string) {
	next := *n
	copied := make(map[int]bool)
	for id, k := range changes {
		at := shardOf(id)
		if !copied[at] {
			copied[at] = true
			if next.byID[at] = maps.Clone(n.byID[at]); next.byID[at] == nil {
				next.byID[at] = make(map[string]*kept)
			}
		}
		if k == nil {
			delete(next.byID[at], id)
		} else {
			next.byID[at][id] = k
		}
	}
	ids := slices.Sorted(maps.Keys(changes))
	if len(ids) > manyChanges {
		next.arrange()
		return &next, ids
	}
	next.sorted, next.faults = slices.Clone(n.sorted), slices.Clone(n.faults)
	for _, id := range ids {
		var in []*integration.Integration
		var faults []registry.FileFault
		if k := changes[id]; k != nil {
			in, faults = k.listed()
		}
		next.sorted = replace(next.sorted, id, func(in *integration.Integration) string { return in.ID }, in)
		next.faults = replace(next.faults, id, func(f registry.FileFault) string { return f.File }, faults)
	}
	return &next, ids
}

// replace puts the entries of one id, none or one, in the place of those that a
// sorted list has of it.
func replace[E any](list []E, id string, key func(E) string, entries []E) []E {
	at, found := slices.BinarySearchFunc(list, id, func(e E, id string) int { return cmp.Compare(key(e), id) })
	end := at
	if found {
		end++
	}
	return slices.Replace(list, at, end, entries...)
}

// arrange makes the lists of all integrations.
func (n *snapshot) arrange() {
	n.sorted, n.faults = nil, nil
	n.all(func(k *kept) {
		in, faults := k.listed()
		n.sorted, n.faults = append(n.sorted, in...), append(n.faults, faults...)
	})
	slices.SortFunc(n.sorted, func(a, b *integration.Integration) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(n.faults, func(a, b registry.FileFault) int { return cmp.Compare(a.File, b.File) })
}

// listed returns what the lists have of an integration.
func (k *kept) listed() (in []*integration.Integration, faults []registry.FileFault) {
	if k.serving != nil {
		in = append(in, k.serving)
	}
	if len(k.parsed.Faults) > 0 {
		ff := registry.FileFault{File: k.id, Faults: k.parsed.Faults}
		if k.serving != nil {
			ff.Serving = k.id
		}
		faults = append(faults, ff)
	}
	return in, faults
}

// parse says what the document means now. What old served goes on being served
// only while it is the same document: a change that cannot be understood here,
// such as one of a newer release, may have taken a grant away.
func (s *Store) parse(ctx context.Context, k, old *kept, look *integration.Look) *kept {
	k.parsed = s.cfg.Kinds.ParseDocument(k.spec, integration.DocumentConfig{Name: k.id, Credentials: k.credentials, Digests: k.digests, Files: s.cfg.Files, Look: look})
	k.sealedFaults = s.sealedFaults(ctx, k.id, k.parsed.Used, k.credentials)
	k.parsed.Faults = append(k.parsed.Faults, k.sealedFaults...)
	in := k.parsed.Integration
	switch {
	case in == nil && old != nil && old.etag == k.etag:
		k.serving = old.serving
	case in == nil:
	default:
		sum := sha256.Sum256([]byte(k.etag + "/" + k.parsed.FilesSum))
		in.Revision = hex.EncodeToString(sum[:])[:16]
		if old != nil && old.serving != nil && old.serving.Revision == in.Revision {
			in = old.serving
		}
		k.serving = in
	}
	return k
}

// sealedCredential is a row of the table credentials.
type sealedCredential struct {
	integration, name string
	sealed            []byte
}

func (c *sealedCredential) fields() []any { return []any{&c.integration, &c.name, &c.sealed} }

// addCredentials gives integrations their credentials; those of others are left out.
func (s *Store) addCredentials(all []*sealedCredential, to map[string]*kept) {
	for _, c := range all {
		k := to[c.integration]
		if k == nil {
			continue
		}
		if k.credentials == nil {
			k.credentials, k.digests = make(map[string]integration.Credential), make(map[string]integration.Digest)
		}
		k.digests[c.name] = sha256.Sum256(c.sealed)
		k.credentials[c.name] = s.opener(c.integration, c.name, c.sealed)
		k.names = slices.Sorted(maps.Keys(k.credentials))
	}
}

// publish makes next the current snapshot and tells what is different, which is
// the integrations of those ids at most. Callers hold s.turn.
func (s *Store) publish(next *snapshot, ids []string) {
	last := s.current.Swap(next)
	var removed, changed []*integration.Integration
	for _, id := range ids {
		before, after := last.serving(id), next.serving(id)
		switch {
		case before == after:
		case after == nil:
			removed = append(removed, before)
			s.cfg.Logger.Info("integration removed", "integration", id)
		default:
			changed = append(changed, after)
			s.cfg.Logger.Info("integration loaded", "integration", id, "revision", after.Revision)
		}
		s.tellFaults(last.get(id), next.get(id))
	}
	if s.cfg.OnChange != nil && len(removed)+len(changed) > 0 {
		s.cfg.OnChange(removed, changed)
	}
}

// tellFaults logs faults that were not there before.
func (s *Store) tellFaults(before, after *kept) {
	if after == nil || len(after.parsed.Faults) == 0 {
		return
	}
	text, serving := after.parsed.Faults.Error(), ""
	if before != nil && before.parsed.Faults.Error() == text {
		return
	}
	if after.serving != nil {
		serving = after.id
	}
	s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "integration is not acceptable",
		slog.String("integration", after.id), slog.String("faults", text), slog.String("still_serving", serving))
}

// checkFiles finds changes of the files that documents name.
func (s *Store) checkFiles() {
	s.recheck(func(k *kept) bool { return k.parsed.FilesSum != "" || len(k.parsed.Faults) > 0 })
}

// recheck parses again what may mean something else although its document is the
// same. It reads files, which may hang, before it takes its turn.
func (s *Store) recheck(may func(*kept) bool) {
	last, look := s.current.Load(), integration.NewLook()
	differ := make(map[string]*kept)
	last.all(func(old *kept) {
		if !may(old) {
			return
		}
		k := *old
		now := s.parse(s.ctx, &k, old, look)
		if now.serving != old.serving || now.parsed.Faults.Error() != old.parsed.Faults.Error() {
			differ[old.id] = now
		}
	})
	if len(differ) == 0 {
		return
	}
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	current := s.current.Load()
	maps.DeleteFunc(differ, func(id string, _ *kept) bool { return current.get(id) != last.get(id) }) // changed meanwhile
	s.publish(current.with(differ))
}
