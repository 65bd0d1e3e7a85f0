package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// snapshot is what was in the database at one time. It is immutable.
type snapshot struct {
	stamp  string
	byID   map[string]*kept
	sorted []*registry.Integration // those that are served, by ID
	faults []registry.FileFault    // by File
}

// kept is one integration as it is in the database.
type kept struct {
	id, etag    string
	spec        []byte
	credentials map[string]registry.Credential
	digests     map[string]registry.Digest // of the credentials, sealed
	names       []string                   // of the credentials, sorted
	parsed      registry.Parsed            // its Faults include sealedFaults
	// sealedFaults are those of credentials that no key opens.
	sealedFaults strictyaml.Faults
	// serving is what is served, nil if nothing is.
	serving *registry.Integration
}

// parse says what the document means now. What old served goes on being served
// only while it is the same document: a change that cannot be understood here,
// such as one of a newer release, may have taken a grant away.
func (s *Store) parse(k, old *kept, look *registry.Look) *kept {
	k.parsed = registry.ParseDocument(k.spec, registry.DocumentConfig{Name: k.id, Credentials: k.credentials, Digests: k.digests, Files: s.cfg.Files, Look: look})
	k.sealedFaults = s.sealedFaults(k.id, k.parsed.Used, k.credentials)
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

// refresh makes what is in the database what is served, and notes whether the
// database could be reached.
func (s *Store) refresh(ctx context.Context) error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	begin := s.cfg.Now()
	err := s.update(ctx)
	if err == nil {
		s.seen.Store(&begin)
		if s.outage.Swap(nil) != nil {
			s.cfg.Logger.Info("the integrations' database can be reached again", "backend", s.d.name)
		}
		return nil
	}
	if seen := s.seen.Load(); seen != nil && ctx.Err() == nil { // neither while opening nor given up by the caller
		o := &outage{
			problem:   "the integrations' database cannot be reached; what was seen last is served: " + err.Error(),
			refusesAt: seen.Add(s.cfg.MaxOutage),
		}
		if s.outage.Swap(o) == nil {
			s.cfg.Logger.Error("the integrations' database cannot be reached; what was seen last is served for a while",
				"backend", s.d.name, "refuses_at", o.refusesAt.UTC().Format(time.RFC3339), "error", err)
		}
	}
	return err
}

func (s *Store) update(ctx context.Context) error {
	last := s.current.Load()
	if last.byID != nil {
		look, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		var stamp string
		if err := s.db.QueryRowContext(look, `SELECT stamp FROM registry_state WHERE id = 1`).Scan(&stamp); err != nil {
			return err
		}
		if stamp == last.stamp {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	next, err := s.load(ctx, last)
	if err != nil {
		return err
	}
	s.publish(next)
	return nil
}

// load reads the whole list, and of it what is not as it was. Going by the list
// and not by a log of changes, it ends up right whatever happened in between:
// lost commits after a failover, a restored backup, an edit by hand.
func (s *Store) load(ctx context.Context, last *snapshot) (*snapshot, error) {
	next := &snapshot{}
	err := inTx(ctx, s.db, s.d, s.d.read, func(t tx) error {
		next.byID = make(map[string]*kept)
		if err := t.row(ctx, `SELECT stamp FROM registry_state WHERE id = 1`).Scan(&next.stamp); err != nil {
			return err
		}
		rows, err := t.query(ctx, `SELECT id, etag FROM integrations`)
		if err != nil {
			return err
		}
		changed, err := collect(rows, func(k *kept) []any { return []any{&k.id, &k.etag} })
		if err != nil {
			return err
		}
		changed = slices.DeleteFunc(changed, func(k *kept) bool {
			if old := last.byID[k.id]; old != nil && old.etag == k.etag {
				next.byID[k.id] = old
				return true
			}
			return false
		})
		if len(changed) > 32 { // one by one that would take longer than all together
			return s.readAll(ctx, t, next)
		}
		for _, k := range changed {
			next.byID[k.id] = k
			if err := s.readOne(ctx, t, k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	look := registry.NewLook()
	for id, k := range next.byID {
		if k != last.byID[id] {
			next.byID[id] = s.parse(k, last.byID[id], look)
		}
	}
	next.arrange()
	return next, nil
}

// readOne reads document and credentials of k.
func (s *Store) readOne(ctx context.Context, t tx, k *kept) error {
	if err := t.row(ctx, `SELECT spec FROM integrations WHERE id = ?`, k.id).Scan(&k.spec); err != nil {
		return err
	}
	rows, err := t.query(ctx, `SELECT integration_id, name, sealed FROM credentials WHERE integration_id = ?`, k.id)
	if err != nil {
		return err
	}
	return s.addCredentials(rows, map[string]*kept{k.id: k})
}

// readAll reads documents and credentials of all integrations that next does not
// have.
func (s *Store) readAll(ctx context.Context, t tx, next *snapshot) error {
	rows, err := t.query(ctx, `SELECT id, etag, spec FROM integrations`)
	if err != nil {
		return err
	}
	all, err := collect(rows, func(k *kept) []any { return []any{&k.id, &k.etag, &k.spec} })
	if err != nil {
		return err
	}
	fresh := make(map[string]*kept)
	for _, k := range all {
		if next.byID[k.id] == nil {
			next.byID[k.id], fresh[k.id] = k, k
		}
	}
	if rows, err = t.query(ctx, `SELECT integration_id, name, sealed FROM credentials`); err != nil {
		return err
	}
	return s.addCredentials(rows, fresh)
}

// sealedCredential is a row of the table credentials.
type sealedCredential struct {
	integration, name string
	sealed            []byte
}

func (s *Store) addCredentials(rows *sql.Rows, to map[string]*kept) error {
	all, err := collect(rows, func(c *sealedCredential) []any { return []any{&c.integration, &c.name, &c.sealed} })
	if err != nil {
		return err
	}
	for _, c := range all {
		k := to[c.integration]
		if k == nil {
			continue
		}
		if k.credentials == nil {
			k.credentials, k.digests = make(map[string]registry.Credential), make(map[string]registry.Digest)
		}
		k.digests[c.name] = sha256.Sum256(c.sealed)
		k.credentials[c.name] = s.opener(c.integration, c.name, c.sealed)
		k.names = slices.Sorted(maps.Keys(k.credentials))
	}
	return nil
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, fields func(*T) []any) ([]*T, error) {
	defer rows.Close() // rows.Err tells
	var all []*T
	for rows.Next() {
		v := new(T)
		if err := rows.Scan(fields(v)...); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// arrange makes the lists of byID.
func (n *snapshot) arrange() {
	n.sorted, n.faults = nil, nil
	for _, id := range slices.Sorted(maps.Keys(n.byID)) {
		k := n.byID[id]
		if k.serving != nil {
			n.sorted = append(n.sorted, k.serving)
		}
		if len(k.parsed.Faults) > 0 {
			ff := registry.FileFault{File: id, Faults: k.parsed.Faults}
			if k.serving != nil {
				ff.Serving = id
			}
			n.faults = append(n.faults, ff)
		}
	}
}

// publish makes next the current snapshot and tells what is different. Callers
// hold s.refreshing.
func (s *Store) publish(next *snapshot) {
	last := s.current.Swap(next)
	serving := func(n *snapshot, id string) *registry.Integration {
		if k := n.byID[id]; k != nil {
			return k.serving
		}
		return nil
	}
	var removed, changed []*registry.Integration
	for _, in := range last.sorted {
		if serving(next, in.ID) == nil {
			removed = append(removed, in)
			s.cfg.Logger.Info("integration removed", "integration", in.ID)
		}
	}
	for _, in := range next.sorted {
		if serving(last, in.ID) != in {
			changed = append(changed, in)
			s.cfg.Logger.Info("integration loaded", "integration", in.ID, "revision", in.Revision)
		}
	}
	known := make(map[string]string, len(last.faults))
	for _, ff := range last.faults {
		known[ff.File] = ff.Faults.Error()
	}
	for _, ff := range next.faults {
		if text := ff.Faults.Error(); known[ff.File] != text {
			s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "integration is not acceptable",
				slog.String("integration", ff.File), slog.String("faults", text), slog.String("still_serving", ff.Serving))
		}
	}
	if s.cfg.OnChange != nil && len(removed)+len(changed) > 0 {
		s.cfg.OnChange(removed, changed)
	}
}

// checkFiles finds changes of the files that documents name.
func (s *Store) checkFiles() {
	s.recheck(func(k *kept) bool { return k.parsed.FilesSum != "" || len(k.parsed.Faults) > 0 })
}

// recheck parses again what may mean something else although its document is the
// same.
func (s *Store) recheck(may func(*kept) bool) {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	last := s.current.Load()
	next := &snapshot{stamp: last.stamp, byID: maps.Clone(last.byID)}
	differs, look := false, registry.NewLook()
	for id, old := range last.byID {
		if !may(old) {
			continue
		}
		k := *old
		now := s.parse(&k, old, look)
		if now.serving != old.serving || now.parsed.Faults.Error() != old.parsed.Faults.Error() {
			next.byID[id], differs = now, true
		}
	}
	if differs {
		next.arrange()
		s.publish(next)
	}
}
