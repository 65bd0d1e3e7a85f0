//go:build unix

package sqlstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
	"github.com/secretbroker/secretbroker/internal/replica"
)

// fleet is replicas that share a database, each with a cache of one entry per secret.
type fleet struct {
	t      *testing.T
	server *pgtest.Server
}

type fleetMember struct {
	*replica.Tracker
	store  *Store
	mu     sync.Mutex
	cached map[replica.Key]seenVersion
	stop   func()
}

type seenVersion struct {
	version string
	at      time.Time
}

var shared = replica.Key{Integration: "it", Store: "https://v.vault.azure.net", Name: "password"}

func (m *fleetMember) has() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cached[shared].version
}

func (m *fleetMember) read(version string) time.Time {
	began := time.Now()
	m.Saw(shared, "", version)
	if !m.Superseded(shared, version, began) {
		m.mu.Lock()
		m.cached[shared] = seenVersion{version, began}
		m.mu.Unlock()
	}
	return began
}

// join starts a replica; notified is whether it gets notifications.
func (f *fleet) join(name, url string, notified bool) *fleetMember {
	f.t.Helper()
	s := openPostgres(f.t, url, Config{Kinds: kinds.All()})
	if !notified {
		s.listen = nil
	}
	m := &fleetMember{store: s, cached: make(map[replica.Key]seenVersion)}
	m.Tracker = replica.New(replica.Config{
		Table: s.Replicas(), Name: name, ServesFor: 15 * time.Minute,
		Drop: func(k replica.Key, old func(string, time.Time) bool) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			e, ok := m.cached[k]
			if ok = ok && old(e.version, e.at); ok {
				delete(m.cached, k)
			}
			return ok
		},
		DropAll: func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			clear(m.cached)
		},
	})
	if err := m.Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	running.Go(func() { _ = m.Run(ctx) })
	m.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	f.t.Cleanup(m.stop)
	return m
}

// TestPostgresSightings: what one replica has seen reaches the other through PostgreSQL,
// with notifications, by polls, and after the database was away.
func TestPostgresSightings(t *testing.T) {
	t.Parallel()
	f := &fleet{t, pgtest.New(t)}
	way := newProxy(t, f.server)
	url := f.server.URL("postgres")
	a, b, polling := f.join("a", url, true), f.join("b", through(way), true), f.join("polling", url, false)
	all := []*fleetMember{a, b, polling}
	for _, m := range all {
		m.read("v1")
	}
	await(t, "the version is written", func() bool { return f.server.Query("postgres", "SELECT version FROM sightings") == "v1" })
	await(t, "it is known", func() bool { return a.Stats().Rows+b.Stats().Rows+polling.Stats().Rows == 3 })
	start := time.Now()
	a.read("v2")
	await(t, "b drops the old version", func() bool { return b.has() == "" })
	notified := time.Since(start)
	await(t, "so does the one that polls", func() bool { return polling.has() == "" })
	t.Logf("dropped after %v with a notification, %v by polling", notified.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	b.read("v2")
	polling.read("v2")
	rows := f.server.Query("postgres", "SELECT seq FROM sightings")

	way.Cut()
	way.Refuse(true)
	b.read("v3") // cannot be written
	await(t, "b notices", func() bool { return len(b.Stats().Problems) > 0 })
	if a.has() != "v2" || f.server.Query("postgres", "SELECT seq FROM sightings") != rows {
		t.Error("a known version was written")
	}
	a.read("v4")
	await(t, "a's version is written", func() bool { return f.server.Query("postgres", "SELECT version FROM sightings") == "v4" })
	way.Refuse(false)
	await(t, "b drops its older version", func() bool { return b.has() == "" })
	await(t, "b has written what it had seen", func() bool { return b.Stats().Pending == 0 && len(b.Stats().Problems) == 0 })
	if got := f.server.Query("postgres", "SELECT version FROM sightings"); got != "v4" || a.has() != "v4" {
		t.Errorf("the row has %q and a %q", got, a.has())
	}
}

// TestPostgresConfirm: a refresh returns when all replicas have applied it, names one that
// has no contact to the database, and a replica that stops leaves no lease.
func TestPostgresConfirm(t *testing.T) {
	t.Parallel()
	f := &fleet{t, pgtest.New(t)}
	way := newProxy(t, f.server)
	a, b := f.join("a", f.server.URL("postgres"), true), f.join("b", through(way), true)
	b.read("v1")
	await(t, "the version is known", func() bool { return a.Stats().Rows == 1 })
	confirm := func() replica.Coverage {
		began := a.read("v1")
		return a.Confirm(t.Context(), []replica.Read{{Key: shared, Version: "v1", Began: began, Ended: time.Now()}})
	}
	var c replica.Coverage
	start := time.Now()
	if c = confirm(); c.State != replica.AllReplicas || b.has() != "" || a.has() != "v1" {
		t.Errorf("%+v, a has %q, b has %q", c, a.has(), b.has())
	}
	t.Logf("acknowledged after %v", time.Since(start).Round(time.Millisecond))
	b.read("v1")

	way.Hold() // the connections stay open and nothing arrives
	if c = confirm(); c.State != replica.SomeReplicas || len(c.Behind) != 1 || c.Behind[0].Name != "b" || c.Behind[0].SeenAt.IsZero() || b.has() != "v1" {
		t.Errorf("without contact: %+v", c)
	}
	way.Release()
	await(t, "b drops its read", func() bool { return b.has() == "" })
	await(t, "b acknowledges later refreshes", func() bool { return confirm().State == replica.AllReplicas })
	b.stop()
	if got := f.server.Query("postgres", "SELECT name FROM replicas"); got != "a" {
		t.Errorf("leases of %q", got)
	}
	a.stop()
	if got := f.server.Query("postgres", "SELECT count(*) FROM replicas"); got != "0" {
		t.Errorf("%s leases are left", got)
	}
}

// TestPostgresPrune: rows are bounded by age and number, and a replica knows if it has
// missed some.
func TestPostgresPrune(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	s := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	table := s.Replicas()
	for batch := range 4 {
		var some []replica.Sighting
		for i := range 10 {
			some = append(some, replica.Sighting{ID: replica.ID{byte(batch), byte(i)}, Key: replica.Key{Integration: "it", Name: fmt.Sprint(i)}, Seen: "v"})
		}
		if _, err := table.WriteSightings(t.Context(), "a", some); err != nil {
			t.Fatal(err)
		}
	}
	count := func() string { return server.Query("postgres", "SELECT count(*) FROM sightings") }
	if err := table.PruneSightings(t.Context(), time.Hour, 25); err != nil || count() != "20" {
		t.Errorf("%s rows, %v; whole writes are deleted", count(), err)
	}
	c, err := table.Changes(t.Context(), 0)
	if err != nil || len(c.Rows) != 20 || c.Pruned == 0 || c.Rows[0].Seq <= c.Pruned || c.Seq != c.Rows[19].Seq {
		t.Errorf("%d rows, pruned %d, %v", len(c.Rows), c.Pruned, err)
	}
	server.Query("postgres", "UPDATE sightings SET written_at = written_at - 7200000000 WHERE seq < (SELECT seq FROM sighting_state)")
	if err := table.PruneSightings(t.Context(), time.Hour, 25); err != nil || count() != "10" {
		t.Errorf("%s rows, %v", count(), err)
	}
	if err := table.PruneSightings(t.Context(), time.Hour, 25); err != nil || count() != "10" {
		t.Errorf("%s rows, %v", count(), err)
	}
	plan := server.Query("postgres", "SET enable_seqscan = off; EXPLAIN SELECT 1 FROM sighting_state AS st LEFT JOIN sightings AS r ON r.seq > 5 WHERE st.id = 1 ORDER BY r.seq")
	if !strings.Contains(plan, "sightings_seq") {
		t.Errorf("the poll cannot use the index:\n%s", plan)
	}
}

// TestPostgresSightingOrder: a row keeps the version of the latest read, however late an
// older one is written, and a clock that was set back does not keep it forever.
func TestPostgresSightingOrder(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	s := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	table := s.Replicas()
	write := func(by, version string, age time.Duration, forced bool) int64 {
		t.Helper()
		seq, err := table.WriteSightings(t.Context(), by, []replica.Sighting{{ID: replica.ID{1}, Key: shared, Seen: version, Age: age, Forced: forced, ForcedAge: age + time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}
	row := func() replica.Row {
		t.Helper()
		c, err := table.Changes(t.Context(), 0)
		if err != nil || len(c.Rows) != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
		return c.Rows[0]
	}
	first := write("a", "v1", time.Minute, false)
	if r := row(); r.Seen != "v1" || r.By != "a" || r.Age < time.Minute || r.Age > 2*time.Minute || r.Forced || r.Seq != first || r.Key != shared {
		t.Errorf("%+v", r)
	}
	write("b", "v1", time.Second, false) // known
	write("b", "v0", time.Hour, false)   // older
	if r := row(); r.Seq != first || r.By != "a" {
		t.Errorf("%+v", r)
	}
	if second := write("b", "v2", 0, false); row().Seen != "v2" || row().Seq != second || second <= first {
		t.Errorf("%+v", row())
	}
	write("a", "v2", 0, true)
	if r := row(); r.ForcedBy != "a" || !r.Forced || r.ForcedAge < time.Second || r.Seen != "v2" {
		t.Errorf("%+v", r)
	}
	older := write("b", "v0", time.Hour, true) // an older refresh and an older read; b waits for the row
	if r := row(); r.ForcedBy != "a" || r.Seen != "v2" || r.Seq != older {
		t.Errorf("%+v", r)
	}
	forcedMark := row().ForcedMark
	confirm := func(by, version string, age time.Duration) {
		t.Helper()
		if _, err := table.WriteSightings(t.Context(), by, []replica.Sighting{{ID: replica.ID{1}, Key: shared, Seen: version, Fresh: true, FreshAge: age, Confirmation: true}}); err != nil {
			t.Fatal(err)
		}
	}
	before := row()
	confirm("b", "v1", 0) // the row has another version
	if r := row(); r.Seq != before.Seq || r.Fresh {
		t.Errorf("%+v", r)
	}
	confirm("b", "v2", time.Minute)
	if r := row(); r.Seq <= before.Seq || !r.Fresh || r.FreshBy != "b" || r.FreshAge < time.Minute || r.FreshAge > 2*time.Minute ||
		r.Seen != "v2" || r.By != before.By || r.Age < before.Age || r.ForcedBy != "a" || r.ForcedMark != forcedMark {
		t.Errorf("%+v", r)
	}
	confirm("a", "v2", time.Hour) // older
	if r := row(); r.FreshBy != "b" || r.FreshAge > 2*time.Minute {
		t.Errorf("%+v", r)
	}
	server.Query("postgres", "UPDATE sightings SET fresh_at = fresh_at + 3600000000")
	confirm("a", "v2", 0)
	if r := row(); r.FreshBy != "a" || r.FreshAge < 0 {
		t.Errorf("%+v", r)
	}
	server.Query("postgres", "UPDATE sightings SET read_at = read_at + 3600000000, forced_at = forced_at + 3600000000")
	write("b", "v3", 0, true)
	if r := row(); r.Seen != "v3" || r.ForcedBy != "b" || r.ForcedMark == forcedMark || r.Fresh {
		t.Errorf("%+v", r)
	}
}
