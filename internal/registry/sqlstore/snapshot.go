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

	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// shards is the number of parts of a snapshot. A change copies only the parts that it
// affects.
const shards = 256

var shardSeed = maphash.MakeSeed()

// shardOf returns the shard that an integration belongs to.
func shardOf(id string) int { return int(maphash.String(shardSeed, id) % shards) }

// snapshot is the content of the database at one point in time. It is immutable.
// Consecutive snapshots share the parts that did not change.
type snapshot struct {
	read     bool // false for the initial snapshot, which is empty
	revision int64
	stamp    string
	byID     [shards]map[string]*kept
	entries  []*kept                    // those of byID, sorted by id
	sorted   []*integration.Integration // those that are served, sorted by ID
	faults   []registry.FileFault       // sorted by File
	denials  *denial.List
}

// kept is one integration as the database stores it.
type kept struct {
	row
	credentials map[string]integration.Credential
	digests     map[string]integration.Digest // of the sealed credentials
	names       []string                      // of the credentials, sorted
	parsed      integration.Parsed            // its Faults include sealedFaults
	// sealedFaults are the faults of credentials that no key opens.
	sealedFaults strictyaml.Faults
	// serving is the integration that is served, or nil.
	serving *integration.Integration
}

// identity returns the fields that show whether an integration has changed.
func (k *kept) identity() []any { return []any{&k.id, &k.etag} }

// get returns an integration, or nil.
func (n *snapshot) get(id string) *kept { return n.byID[shardOf(id)][id] }

// serving returns the integration that is served under this id, or nil.
func (n *snapshot) serving(id string) *integration.Integration {
	if k := n.get(id); k != nil {
		return k.serving
	}
	return nil
}

// differences returns the listed integrations that differ from the snapshot, and nil for
// every id in the snapshot that is not listed.
func (n *snapshot) differences(listed []*kept) map[string]*kept {
	changes := make(map[string]*kept)
	found := make(map[string]bool, len(listed))
	for _, k := range listed {
		found[k.id] = true
		if old := n.get(k.id); old == nil || old.etag != k.etag {
			changes[k.id] = k
		}
	}
	for _, k := range n.entries {
		if !found[k.id] {
			changes[k.id] = nil
		}
	}
	return changes
}

// manyChanges is the number of changes from which sorting the lists again is faster than
// inserting into them.
const manyChanges = 64

// with returns a snapshot with the given integrations replaced or, where nil, removed. It
// also returns their ids, sorted.
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
	next.entries, next.sorted, next.faults = slices.Clone(n.entries), slices.Clone(n.sorted), slices.Clone(n.faults)
	for _, id := range ids {
		var entry []*kept
		var in []*integration.Integration
		var faults []registry.FileFault
		if k := changes[id]; k != nil {
			entry = []*kept{k}
			in, faults = k.listed()
		}
		next.entries = replace(next.entries, id, func(k *kept) string { return k.id }, entry)
		next.sorted = replace(next.sorted, id, func(in *integration.Integration) string { return in.ID }, in)
		next.faults = replace(next.faults, id, func(f registry.FileFault) string { return f.File }, faults)
	}
	return &next, ids
}

// replace replaces the entries of one id in a sorted list by the given entries, at most
// one.
func replace[E any](list []E, id string, key func(E) string, entries []E) []E {
	at, found := slices.BinarySearchFunc(list, id, func(e E, id string) int { return cmp.Compare(key(e), id) })
	end := at
	if found {
		end++
	}
	return slices.Replace(list, at, end, entries...)
}

// arrange rebuilds the sorted lists.
func (n *snapshot) arrange() {
	n.entries, n.sorted, n.faults = nil, nil, nil
	for _, shard := range n.byID {
		n.entries = slices.AppendSeq(n.entries, maps.Values(shard))
	}
	slices.SortFunc(n.entries, func(a, b *kept) int { return cmp.Compare(a.id, b.id) })
	for _, k := range n.entries {
		in, faults := k.listed()
		n.sorted, n.faults = append(n.sorted, in...), append(n.faults, faults...)
	}
}

// listed returns the entries of an integration in the sorted lists.
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

// parse parses the document. If it is not acceptable, what old serves stays in force only
// while the document is the same: a change that this release cannot understand, for
// example one made by a newer release, may have revoked a grant.
func (s *Store) parse(ctx context.Context, k, old *kept, look *integration.Look) *kept {
	k.parsed = s.cfg.Kinds.ParseDocument([]byte(k.spec), integration.DocumentConfig{Name: k.id, Credentials: k.credentials, Digests: k.digests, Files: s.cfg.Files, Look: look})
	k.sealedFaults = s.sealedFaults(ctx, k.id, k.parsed.Used, k.credentials)
	k.parsed.Faults = append(k.parsed.Faults, k.sealedFaults...)
	in := k.parsed.Integration
	switch {
	case in == nil && old != nil && old.etag == k.etag:
		k.serving = old.serving
	case in == nil:
	default:
		sum := sha256.Sum256([]byte(k.etag + "/" + k.parsed.FilesSum))
		in.UID = k.uid
		in.Revision = hex.EncodeToString(sum[:])[:16]
		if old != nil && old.serving != nil && old.serving.Revision == in.Revision {
			in = old.serving
		}
		k.serving = in
	}
	return k
}

// sealedCredential is a row of the credentials table.
type sealedCredential struct {
	integration, name string
	sealed            []byte
}

func (c *sealedCredential) fields() []any { return []any{&c.integration, &c.name, &c.sealed} }

// addCredentials assigns credentials to the integrations in to, and ignores those of other
// integrations.
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

// publish makes next the current snapshot and reports the differences. ids must include
// every integration that differs. The caller holds s.turn.
func (s *Store) publish(next *snapshot, ids []string) {
	last := s.current.Swap(next)
	if s.cfg.OnDenials != nil && last.denials != next.denials {
		s.cfg.OnDenials(next.denials)
		s.cfg.Logger.Info("deny list loaded", "entries", len(next.denials.Entries()))
	}
	var removed, changed []*integration.Integration
	for _, id := range ids {
		before, after := last.serving(id), next.serving(id)
		switch {
		case before == after:
		case after == nil:
			removed = append(removed, before)
			s.cfg.Logger.Info("integration removed", "integration_id", id)
		default:
			changed = append(changed, after)
			s.cfg.Logger.Info("integration loaded", "integration_id", id, "integration_revision", after.Revision)
		}
		s.tellFaults(last.get(id), next.get(id))
	}
	if s.cfg.OnChange != nil && len(removed)+len(changed) > 0 {
		s.cfg.OnChange(removed, changed)
	}
}

// tellFaults logs the faults that are new.
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
	s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "integration is not valid",
		slog.String("integration_id", after.id), slog.String("faults", text), slog.String("still_serving", serving))
}

// checkFiles finds changes of the files that documents refer to.
func (s *Store) checkFiles() {
	s.recheck(func(k *kept) bool { return k.parsed.FilesSum != "" || len(k.parsed.Faults) > 0 })
}

// recheck parses integrations whose meaning may have changed although their documents did
// not. It reads files, which may block, before it acquires s.turn.
func (s *Store) recheck(may func(*kept) bool) {
	last, look := s.current.Load(), integration.NewLook()
	differ := make(map[string]*kept)
	for _, old := range last.entries {
		if !may(old) {
			continue
		}
		k := *old
		now := s.parse(s.ctx, &k, old, look)
		if now.serving != old.serving || now.parsed.Faults.Error() != old.parsed.Faults.Error() {
			differ[old.id] = now
		}
	}
	if len(differ) == 0 {
		return
	}
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	current := s.current.Load()
	maps.DeleteFunc(differ, func(id string, _ *kept) bool { return current.get(id) != last.get(id) }) // changed in the meantime
	s.publish(current.with(differ))
}
