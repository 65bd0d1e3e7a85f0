//go:build unix

package sqlstore

import (
	"context"
	cryptorand "crypto/rand"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/netfault"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
)

// TestRoundTripsOfAWrite: a write, including what its Store then reads, takes at most three
// round trips, the first one four.
func TestRoundTripsOfAWrite(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	way := newProxy(t, server)
	s := openPostgres(t, through(way), Config{Kinds: kinds.All(), Sealer: newKeys(t)})
	count := func(what string, want uint64, do func() error) {
		t.Helper()
		// After a second without use, a connection is tried first, which takes a round trip.
		for _, c := range []*sql.DB{s.db, s.looks} {
			if err := c.PingContext(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		before := way.Stats()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := way.Stats().Sub(before)
		t.Logf("%s: %d round trips, %d B to the server, %d B from it", what, got.RoundTrips, got.ToServer, got.ToClient)
		if got.RoundTrips > want {
			t.Errorf("%s took %d round trips, want at most %d", what, got.RoundTrips, want)
		}
	}
	change := func(c registry.Change, write func(context.Context, registry.Change) (registry.Record, error)) func() error {
		return func() error { _, err := write(t.Context(), c); return err }
	}
	for i := range 2 { // the second time without setup
		count("Create", uint64(4-i), change(registry.Change{Document: secretDocument("a"), Credentials: secrets(planted)}, s.Create))
		count("Update", 3, change(registry.Change{Document: secretDocument("a"), Credentials: secrets(planted)}, s.Update))
		count("validating", 0, change(registry.Change{Document: secretDocument("a"), ValidateOnly: true}, s.Update))
		count("Record", 0, func() error { _, err := s.Record(t.Context(), "a"); return err })
		count("Records", 0, func() error { _, err := s.Records(t.Context(), registry.Page{}); return err })
		count("Refresh", 1, func() error { return s.Refresh(t.Context()) })
		count("Delete", 3, func() error { return s.Delete(t.Context(), "a", "") })
		count("a look", 1, func() error { return s.follow(t.Context(), false) })
		count("a probe", 2, func() error { s.probe(t.Context()); return nil })
	}
	use := []registry.Usage{{Integration: "a", Principal: worker, FirstAt: time.Unix(1, 0), LastAt: time.Unix(2, 0)}}
	// Two to merge the entries, and two to look for surplus ones.
	count("usage", 4, func() error { return s.MergeUsage(t.Context(), use) })
}

// TestSlowLink: a link with a latency of 400 ms each way is not taken for an outage;
// changes are seen, and a write succeeds.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	const oneWay = 400 * time.Millisecond
	server := pgtest.New(t)
	way := newProxy(t, server)
	direct := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	grant(t, direct)
	s := openPostgres(t, through(way), Config{Kinds: kinds.All(), MaxOutage: 15 * time.Second})
	way.SetDelay(oneWay)
	running(t, s)
	revoke(t, direct)
	t.Logf("a change is seen after %v", awaitRevoked(t, s).Round(time.Millisecond))
	began := time.Now()
	update(t, s, document("a", "abc", worker))
	took := time.Since(began)
	t.Logf("a write takes %v", took.Round(time.Millisecond))
	if _, err := s.Get("a"); err != nil {
		t.Error(err)
	}
	// Connecting takes several round trips.
	fresh, err := OpenPostgres(t.Context(), Postgres{URL: through(way)}, Config{Kinds: kinds.All()})
	if err != nil {
		t.Fatal(err)
	}
	_ = fresh.Close()
	if st := s.Status(); st.Problem != "" || st.Refuses {
		t.Errorf("%+v", st)
	}
}

// fill inserts n integrations without using a Store.
func fill(t *testing.T, server *pgtest.Server, n int) {
	t.Helper()
	server.Query("postgres", fmt.Sprintf(`
		INSERT INTO integrations (id, spec, etag, created_at, created_by, updated_at, updated_by)
		SELECT 'i' || n, replace('%s', 'ID', 'i' || n), md5(n::text), 1, '', 1, '' FROM generate_series(1, %d) AS n;
		UPDATE registry_state SET stamp = stamp || 'x'`, strings.ReplaceAll(string(document("ID", "abc", worker)), "'", "''"), n))
}

// TestAChangeCostsWhatChanged: the cost of one change for a replica does not grow with the
// number of integrations.
func TestAChangeCostsWhatChanged(t *testing.T) {
	t.Parallel()
	const integrations = 5000
	server := pgtest.New(t)
	writer := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All(), MaxIntegrations: integrations + 1})
	fill(t, server, integrations)
	writer.Reload()
	way := newProxy(t, server)
	s := openPostgres(t, through(way), Config{Kinds: kinds.All()})
	grant(t, writer) // from here on the log has no gap
	s.Reload()
	read := func(what string) netfault.Stats {
		t.Helper()
		// After a second without use, a connection is tried first, which takes a round trip. A
		// Store that runs uses it twice a second.
		if err := s.looks.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := way.Stats()
		if err := s.follow(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if s.current.Load().stamp != writer.current.Load().stamp || len(s.List()) != len(writer.List()) {
			t.Errorf("%s: the reader has not read everything", what)
		}
		got := way.Stats().Sub(before)
		t.Logf("%s: %d round trips, %d B from the server", what, got.RoundTrips, got.ToClient)
		return got
	}
	revoke(t, writer)
	if one := read("one change"); one.ToClient > 4096 || one.RoundTrips != 1 {
		t.Errorf("one change among %d integrations: %+v", integrations, one)
	}
	for i := range 20 {
		update(t, writer, document(fmt.Sprint("i", i+1), "xyz", worker))
	}
	if err := writer.Delete(t.Context(), "i4000", ""); err != nil {
		t.Fatal(err)
	}
	if many := read("21 changes"); many.ToClient > 16<<10 || many.RoundTrips != 1 {
		t.Errorf("21 changes among %d integrations: %+v", integrations, many)
	}
	if in, err := s.Get("i7"); err != nil || in.Settings.StoreNames()[0] != "https://xyz.vault.azure.net" {
		t.Errorf("a changed integration: %v", err)
	}
	if _, err := s.Get("i4000"); err == nil {
		t.Error("a deleted integration is still served")
	}
	server.Query("postgres", `UPDATE integrations SET etag = etag || 'x' WHERE id = 'i9'; UPDATE registry_state SET stamp = stamp || 'x'`)
	writer.Reload()
	if list := read("an edit by hand"); list.ToClient < integrations*32 {
		t.Errorf("an edit by hand did not make the reader read the complete list: %+v", list)
	}
}

// stateTables are the tables that a backup contains. save copies their content, and
// restore writes it back in one transaction, as pg_restore and SQLite's .restore do.
var stateTables = []string{"registry_state", "registry_changes", "integrations", "credentials"}

func save(t *testing.T, s *Store, name string) {
	t.Helper()
	for _, table := range stateTables {
		saved := "saved_" + name + "_" + table
		execute(t, s, "DROP TABLE IF EXISTS "+saved, "CREATE TABLE "+saved+" AS SELECT * FROM "+table)
	}
}

func restore(t *testing.T, s *Store, name string) {
	t.Helper()
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range stateTables {
		for _, query := range []string{`DELETE FROM ` + table, `INSERT INTO ` + table + ` SELECT * FROM saved_` + name + `_` + table} {
			if _, err := tx.ExecContext(t.Context(), query); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// TestReadersEndUpRight: no matter what happens to a database between two looks, a reader
// ends up with its content: writes of this release and the previous one, restored backups,
// manual edits.
func TestReadersEndUpRight(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		s := open.must(t, Config{Kinds: kinds.All()})
		older := open.must(t, Config{Kinds: kinds.All(), program: changesVersion - 1})
		readers := []*Store{open.must(t, Config{Kinds: kinds.All()}), open.must(t, Config{Kinds: kinds.All()}), older}
		save(t, s, "0")
		save(t, s, "1")
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		steps := []func(id string) string{
			func(id string) string { return write(t, s, id) },
			func(id string) string { return write(t, s, id) },
			func(id string) string { return write(t, older, id) + " by the older release" },
			func(id string) string { _ = s.Delete(t.Context(), id, ""); return "delete " + id },
			func(id string) string {
				_ = older.Delete(t.Context(), id, "")
				return "delete by the older release " + id
			},
			func(string) string { save(t, s, "0"); return "save 0" },
			func(string) string { save(t, s, "1"); return "save 1" },
			func(string) string { restore(t, s, "0"); return "restore 0" },
			func(string) string { restore(t, s, "1"); return "restore 1" },
			func(id string) string {
				execute(t, s, `UPDATE integrations SET etag = etag || 'x' WHERE id = '`+id+`'`, `UPDATE registry_state SET stamp = '`+cryptorand.Text()+`'`)
				return "edit by hand " + id
			},
		}
		var history []string
		for range 150 {
			history = append(history, steps[random.IntN(len(steps))](fmt.Sprint("i", random.IntN(5))))
			r := readers[random.IntN(len(readers))]
			r.Reload()
			if got, want := held(r.current.Load()), inDatabase(t, s); got != want {
				t.Fatalf("the reader has\n%s\nthe database has\n%s\nafter %q", got, want, history)
			}
		}
	})
}

// write creates or changes an integration.
func write(t *testing.T, s *Store, id string) string {
	t.Helper()
	doc := document(id, "abc", worker)
	if _, err := s.Create(t.Context(), registry.Change{Document: doc}); err == nil {
		return "create " + id
	}
	update(t, s, doc)
	return "update " + id
}

// held returns the ids and etags in a snapshot, inDatabase those in the database.
func held(n *snapshot) (text string) {
	for _, in := range n.sorted {
		text += in.ID + " " + n.get(in.ID).etag + "\n"
	}
	return text
}

func inDatabase(t *testing.T, s *Store) (text string) {
	t.Helper()
	err := s.d.alone(t.Context(), s.db, stmt{query: `SELECT id, etag FROM integrations ORDER BY id`, row: func(scan func(...any) error) error {
		var id, etag string
		err := scan(&id, &etag)
		text += id + " " + etag + "\n"
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestOldChangesAreForgotten: the change log is bounded, and a reader that is too far
// behind reads the complete list.
func TestOldChangesAreForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.db")
	s, behind := openSQLite(t, file, Config{Kinds: kinds.All()}), openSQLite(t, file, Config{Kinds: kinds.All()})
	grant(t, s)
	behind.Reload()
	execute(t, s, fmt.Sprintf(`UPDATE registry_state SET revision = revision + %d`, keptChanges))
	revoke(t, s)
	var entries int
	if err := s.db.QueryRowContext(t.Context(), `SELECT count(*) FROM registry_changes`).Scan(&entries); err != nil || entries != 1 {
		t.Errorf("%d entries, %v", entries, err)
	}
	behind.Reload()
	if is, err := allowed(behind, "a", worker); is || err != nil {
		t.Errorf("a reader that is behind: %v, %v", is, err)
	}
}
