//go:build unix

package sqlstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
)

var leaked = denial.Subject{Principal: "spiffe://example.org/connect/leaked"}

func denies(s *Store, subject denial.Subject) bool { return s.Denials().Get(subject) != nil }

// TestDenialsOnEveryReplica: a second replica has a denial within a second, and loses it
// within a second after it was removed; a restarted one has it from the start. Integrations
// are not read again because of it.
func TestDenialsOnEveryReplica(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		var told atomic.Int64
		one := running(t, open.must(t, Config{Kinds: kinds.All()}))
		two := running(t, open.must(t, Config{Kinds: kinds.All(), OnDenials: func(*denial.List) { told.Add(1) }}))
		if told.Load() != 1 {
			t.Errorf("OnDenials was called %d times before Open returned", told.Load())
		}
		entry := denial.Entry{Subject: leaked, Reason: "laptop stolen", ExpiresAt: time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond), CreatedAt: time.Now().UTC().Truncate(time.Microsecond), CreatedBy: "dns:owner"}
		stored, err := one.Deny(t.Context(), entry)
		if err != nil || stored != entry {
			t.Fatalf("%+v, %v; want %+v", stored, err, entry)
		}
		if !denies(one, leaked) {
			t.Error("the replica that stored the entry does not have it")
		}
		begin := time.Now()
		await(t, "the other replica has the entry", func() bool { return denies(two, leaked) })
		if took := time.Since(begin); took > time.Second {
			t.Errorf("that took %v", took)
		}
		if e := two.Denials().Entries()[0]; e != entry {
			t.Errorf("it has %+v", e)
		}
		if told.Load() != 2 {
			t.Errorf("OnDenials was called %d times", told.Load())
		}
		if later := open.must(t, Config{Kinds: kinds.All()}); !denies(later, leaked) {
			t.Error("a replica that starts later does not have the entry")
		}
		begin = time.Now()
		if err := two.Undeny(t.Context(), leaked); err != nil {
			t.Fatal(err)
		}
		await(t, "the first replica has lost the entry", func() bool { return !denies(one, leaked) })
		if took := time.Since(begin); took > time.Second {
			t.Errorf("that took %v", took)
		}
		if err := one.Undeny(t.Context(), leaked); !errors.Is(err, denial.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	})
}

// TestDenialsNeverEndEarlier: a second denial of the same subject cannot shorten the first.
func TestDenialsNeverEndEarlier(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		s := open.must(t, Config{Kinds: kinds.All()})
		hour, day := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond), time.Now().Add(24*time.Hour).UTC().Truncate(time.Microsecond)
		for i, step := range []struct{ give, want time.Time }{{hour, hour}, {day, day}, {hour, day}, {time.Time{}, time.Time{}}, {hour, time.Time{}}} {
			e, err := s.Deny(t.Context(), denial.Entry{Subject: leaked, ExpiresAt: step.give, CreatedAt: time.Now(), Reason: fmt.Sprint(i)})
			if err != nil || !e.ExpiresAt.Equal(step.want) || e.Reason != fmt.Sprint(i) || len(s.Denials().Entries()) != 1 {
				t.Errorf("step %d: %+v, %v; want %v", i, e, err, step.want)
			}
		}
	})
}

// TestDenialsAreBounded: the list does not grow beyond its maximum, and expired entries make
// room.
func TestDenialsAreBounded(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		s := open.must(t, Config{Kinds: kinds.All()})
		fill := `INSERT INTO denials (subject, principal, sha256, serial, issuer, reason, expires_at, created_at, created_by)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT 'dns:h' || i, 'dns:h' || i, '', '', '', '', 0, 1, '' FROM n`
		if _, err := s.db.ExecContext(t.Context(), fill); err != nil {
			t.Fatal(err)
		}
		soon := denial.Entry{Subject: denial.Subject{Principal: "dns:soon"}, ExpiresAt: time.Now().Add(time.Hour), CreatedAt: time.Now()}
		if _, err := s.Deny(t.Context(), soon); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Denials().Entries()); n != denial.MaxEntries {
			t.Fatalf("%d entries", n)
		}
		if _, err := s.Deny(t.Context(), denial.Entry{Subject: leaked, CreatedAt: time.Now()}); !errors.Is(err, denial.ErrFull) {
			t.Errorf("got %v", err)
		}
		if _, err := s.Deny(t.Context(), denial.Entry{Subject: denial.Subject{Principal: "dns:h1"}, Reason: "again", CreatedAt: time.Now()}); err != nil {
			t.Errorf("an existing entry: %v", err)
		}
		if _, err := s.db.ExecContext(t.Context(), `UPDATE denials SET expires_at = 1 WHERE subject = 'dns:soon'`); err != nil {
			t.Fatal(err)
		}
		await(t, "the expired entry makes room", func() bool {
			_, err := s.Deny(t.Context(), denial.Entry{Subject: leaked, CreatedAt: time.Now()})
			return err == nil
		})
		if denies(s, soon.Subject) || !denies(s, leaked) {
			t.Error("the wrong entry is gone")
		}
	})
}

// TestDenialsDuringAnOutage: a replica that cannot read the database keeps the list.
func TestDenialsDuringAnOutage(t *testing.T) {
	s := running(t, closingMust(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All(), PollInterval: 10 * time.Millisecond}))
	if _, err := s.Deny(t.Context(), denial.Entry{Subject: leaked, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.ExecContext(t.Context(), `ALTER TABLE denials RENAME TO away`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.ExecContext(t.Context(), `UPDATE registry_state SET stamp = 'x'`); err != nil {
		t.Fatal(err)
	}
	await(t, "the look fails", func() bool { return s.Status().Problem != "" })
	if !denies(s, leaked) {
		t.Error("the entry is forgotten")
	}
	if _, err := s.Deny(t.Context(), denial.Entry{Subject: leaked, CreatedAt: time.Now()}); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func closingMust(t *testing.T, file string, c Config) *Store {
	t.Helper()
	s, err := closing(t)(OpenSQLite(t.Context(), file, c))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
