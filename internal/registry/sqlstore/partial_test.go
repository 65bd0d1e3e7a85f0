//go:build unix

package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
)

const worker, stranger = "spiffe://example.org/connect/worker-1", "spiffe://example.org/somebody/else"

// revoke revokes the worker's grant of integration "a".
func revoke(t *testing.T, s *Store) {
	t.Helper()
	update(t, s, document("a", "abc", stranger))
}

func grant(t *testing.T, s *Store) {
	t.Helper()
	_, err := s.Create(t.Context(), registry.Change{Document: document("a", "abc", worker)})
	if errors.Is(err, registry.ErrExists) {
		_, err = s.Update(t.Context(), registry.Change{Document: document("a", "abc", worker)})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// awaitRevoked waits until a Store applies the revocation, and returns how long that took.
func awaitRevoked(t *testing.T, s *Store) time.Duration {
	t.Helper()
	began := time.Now()
	await(t, "the revocation takes effect", func() bool { is, err := allowed(s, "a", worker); return !is && err == nil })
	return time.Since(began)
}

// TestAgeDecides: no matter what hangs, a snapshot older than max_outage is not served,
// and a Store that cannot look reports it.
func TestAgeDecides(t *testing.T) {
	clock := newClock()
	s := openSQLite(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All(), MaxOutage: time.Minute, Now: clock.now})
	grant(t, s)
	s.turn <- struct{}{} // a look that hangs
	if is, err := allowed(s, "a", worker); !is || err != nil {
		t.Errorf("just after a look: %v, %v", is, err)
	}
	clock.add(30 * time.Second)
	if is, err := allowed(s, "a", worker); !is || err != nil {
		t.Errorf("after half of max_outage: %v, %v", is, err)
	}
	if st := s.Status(); st.Problem == "" || st.Refuses || st.RefusesAt.Sub(st.SeenAt) != time.Minute {
		t.Errorf("after half of max_outage: %+v", st)
	}
	clock.add(31 * time.Second)
	if _, err := s.Get("a"); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("after max_outage: %v", err)
	}
	if st := s.Status(); st.Problem == "" || !st.Refuses {
		t.Errorf("after max_outage: %+v", st)
	}
	<-s.turn
	if is, err := allowed(s, "a", worker); !is || err != nil {
		t.Errorf("when looks are possible again: %v, %v", is, err)
	}
	if st := s.Status(); st.Problem != "" || st.Refuses {
		t.Errorf("when looks are possible again: %+v", st)
	}
}

// TestAgeByBothClocks: suspending a machine advances its wall clock but not its monotonic
// clock; setting the wall clock back does the opposite.
func TestAgeByBothClocks(t *testing.T) {
	seen := time.Now()
	for name, tt := range map[string]struct {
		now     time.Time
		refuses bool
	}{
		"suspended for eight hours": {seen.Round(0).Add(8 * time.Hour), true},
		"two minutes later":         {seen.Add(2 * time.Minute), true},
		"half a minute later":       {seen.Add(30 * time.Second), false},
	} {
		s := newStore(Config{Kinds: kinds.All(), MaxOutage: time.Minute, Now: func() time.Time { return tt.now }}, nil, nil, &sqliteDialect)
		s.seen.Store(&seen)
		s.plan(seen, 0)
		s.stop() // no look is possible
		if got := !s.mayServe(tt.now); got != tt.refuses || s.Status().Refuses != got {
			t.Errorf("%s: refuses: %v", name, got)
		}
	}
}

// TestPauseAsksForALook: after the process was suspended, a call waits for a look before
// it is answered, and all calls share that look.
func TestPauseAsksForALook(t *testing.T) {
	clock := newClock()
	file := filepath.Join(t.TempDir(), "r.db")
	s, other := openSQLite(t, file, Config{Kinds: kinds.All(), Now: clock.now}), openSQLite(t, file, Config{Kinds: kinds.All()})
	grant(t, s)
	revoke(t, other)
	if is, _ := allowed(s, "a", worker); !is {
		t.Fatal("the change is known without a look")
	}
	clock.add(10 * time.Second)
	if is, err := allowed(s, "a", worker); is || err != nil {
		t.Errorf("after a pause: %v, %v", is, err)
	}
	// The overdue look has begun, but has not ended.
	grant(t, s)
	revoke(t, other)
	clock.add(10 * time.Second)
	s.planLook(clock.now(), time.Second)
	if is, err := allowed(s, "a", worker); is || err != nil {
		t.Errorf("after a pause, in the next look: %v, %v", is, err)
	}
	// A look that began before the pause counts as old even if it ends after it.
	grant(t, s)
	revoke(t, other)
	began := clock.now()
	clock.add(10 * time.Second)
	s.seen.Store(&began)
	s.plan(began, 0)
	if is, err := allowed(s, "a", worker); is || err != nil {
		t.Errorf("after a pause in a look: %v, %v", is, err)
	}
}

// TestBlackHoleInReseal: connections become a black hole while credentials are sealed
// again; nothing older than max_outage is served.
func TestBlackHoleInReseal(t *testing.T) {
	t.Parallel()
	const maxOutage = 3 * time.Second
	server := pgtest.New(t)
	way := newProxy(t, server)
	path, keys := keyFile(t)
	s := openPostgres(t, through(way), Config{Kinds: kinds.All(), Sealer: keys, MaxOutage: maxOutage})
	grant(t, s)
	create(t, s, secretDocument("sealed"), planted)
	changeKeys(t, path, keys, seal.Add, seal.Use)
	s.Reload() // except for the credentials: the last look is now
	way.Hold()
	held := time.Now()
	running(t, s)
	await(t, "calls are refused", func() bool {
		// Both are read before the answer, so the answer may use nothing older.
		age, refuses := s.age(time.Now()), s.Status().Refuses
		_, err := s.Get("a")
		if err == nil && (age > maxOutage || refuses) {
			t.Fatalf("served at an age of %v", age)
		}
		return errors.Is(err, registry.ErrUnavailable)
	})
	t.Logf("refused after %v", time.Since(held).Round(time.Millisecond))
	if st := s.Status(); !st.Refuses || st.Problem == "" {
		t.Errorf("%+v", st)
	}
	way.Release()
	way.Cut()
	await(t, "the database is read again", func() bool { _, err := s.Get("a"); return err == nil && s.Status().Problem == "" })
}

// lock runs SQL in a transaction that stays open until the test ends or calls the returned
// func.
func lock(t *testing.T, server *pgtest.Server, query string) (release func()) {
	t.Helper()
	db, err := sql.Open("pgx", server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(context.Background(), nil)
	if err == nil {
		_, err = tx.ExecContext(t.Context(), query)
	}
	if err != nil {
		t.Fatal(err)
	}
	release = func() { _, _ = tx.Rollback(), db.Close() }
	t.Cleanup(release)
	return release
}

// TestLockedUsage: VACUUM FULL locks the table that usage is pruned from. A revocation
// takes effect meanwhile, and the failing writes are reported.
func TestLockedUsage(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	writer := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	grant(t, writer)
	s := running(t, openPostgres(t, server.URL("postgres")+"&lock_timeout=1500", Config{Kinds: kinds.All(), upkeep: 20 * time.Millisecond}))
	release := lock(t, server, "LOCK TABLE integration_usage")
	await(t, "pruning waits for the table", func() bool {
		return server.Query("postgres", "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM integration_usage%'") == "t"
	})
	revoke(t, writer)
	t.Logf("in effect after %v", awaitRevoked(t, s))
	await(t, "failing writes are reported", func() bool { return strings.Contains(s.Status().WriteProblem, uses) })
	if got := server.Query("postgres", "SELECT count(*) FROM pg_locks WHERE relation = 'integration_usage'::regclass AND mode = 'AccessExclusiveLock' AND granted"); got != "1" {
		t.Errorf("the table is no longer locked: %s", got)
	}
	release()
	await(t, "writes succeed again", func() bool { return s.Status().WriteProblem == "" })
}

// TestWritesThatWouldFailShow: a database that does not accept writes is reported before a
// write is needed.
func TestWritesThatWouldFailShow(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	s := running(t, openPostgres(t, server.URL("postgres")+"&lock_timeout=100", Config{Kinds: kinds.All(), probing: 50 * time.Millisecond}))
	check := func(what, want string, end func()) {
		t.Helper()
		await(t, what+" shows", func() bool { return strings.Contains(s.Status().WriteProblem, want) })
		if st := s.Status(); st.Problem != "" || !strings.Contains(st.WriteProblem, "revoked") {
			t.Errorf("%s: %+v", what, st)
		}
		end()
		await(t, what+" is over", func() bool { return s.Status().WriteProblem == "" })
	}
	check("a locked row", "pg_stat_activity", lock(t, server, "SELECT 1 FROM registry_state FOR UPDATE"))
	server.Query("postgres", `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$`)
	server.Query("postgres", `CREATE TRIGGER full_disk BEFORE UPDATE ON registry_state FOR EACH ROW EXECUTE FUNCTION full_disk()`)
	check("a full disk", "No space left", func() { server.Query("postgres", "DROP TRIGGER full_disk ON registry_state") })
}

// TestProbesAreFew: of many replicas, one writes a probe in each interval.
func TestProbesAreFew(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	stores := []*Store{openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()}), openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})}
	written := func() string { return server.Query("postgres", "SELECT xmin FROM registry_state") }
	before := written()
	stores[0].probe(t.Context())
	first := written()
	if first == before {
		t.Error("the probe wrote nothing")
	}
	for i := range 10 {
		stores[i%2].probe(t.Context())
	}
	if written() != first {
		t.Error("the following probes wrote as well")
	}
}

// TestCutOffWriter: a replica that is cut off while it holds the lock that writers wait
// for, which can happen with earlier releases, delays revocations by other replicas only
// for seconds.
func TestCutOffWriter(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	way := newProxy(t, server)
	other := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	grant(t, other)
	cut := openPostgres(t, through(way), Config{Kinds: kinds.All()})
	tx, err := cut.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), `UPDATE registry_state SET revision = revision`); err != nil {
		t.Fatal(err)
	}
	way.Hold()
	began := time.Now()
	await(t, "another replica can revoke", func() bool {
		_, err := other.Update(t.Context(), registry.Change{Document: document("a", "abc", stranger)})
		return err == nil
	})
	t.Logf("revoked after %v", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("revoked after %v", took)
	}
	way.Release()
}

// TestWriterHoldsNoLockWhileItWaits: a write never waits for its client while it holds a
// lock. The connection is held back at every possible point, and other replicas revoke at
// once.
func TestWriterHoldsNoLockWhileItWaits(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	way := newProxy(t, server)
	other := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	grant(t, other)
	slow := openPostgres(t, through(way), Config{Kinds: kinds.All()})
	for i := range 12 {
		way.SetDelay(30 * time.Millisecond)
		ended := make(chan error, 1)
		go func() {
			_, err := slow.Create(context.Background(), registry.Change{Document: document(fmt.Sprint("i", i), "abc", worker)})
			ended <- err
		}()
		<-time.After(time.Duration(i) * 20 * time.Millisecond)
		way.Hold()
		if got := server.Query("postgres", "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"); got != "0" {
			t.Errorf("%s sessions wait for their clients in a transaction", got)
		}
		update(t, other, document("a", "abc", stranger))
		way.Release()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
