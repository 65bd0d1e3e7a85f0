//go:build unix

package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/netfault"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/registrytest"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// openPostgres opens a Store that closes when the test ends.
func openPostgres(t *testing.T, url string, c Config) *Store {
	t.Helper()
	s, err := OpenPostgres(t.Context(), Postgres{URL: url}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// running runs a Store until the test ends.
func running(t *testing.T, s *Store) *Store {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// document returns an integration that one principal may use.
func document(id, vault, principal string) []byte {
	return fmt.Appendf(nil, "id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  credential: {type: managed_identity}\n  vaults: [https://%s.vault.azure.net]\ngrants:\n  - principals: ['%s']\n",
		id, vault, principal)
}

func secretDocument(id string) []byte {
	return fmt.Appendf(nil, "id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: 11111111-2222-3333-4444-555555555555\n  client_id: 66666666-7777-8888-9999-aaaaaaaaaaaa\n  credential: {type: client_secret}\n  vaults: [https://abc.vault.azure.net]\n", id)
}

// await waits until is returns true.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.After(30 * time.Second); !is(); {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting for: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestPostgresConformance(t *testing.T) {
	server := pgtest.New(t)
	databases := 0
	registrytest.Run(t, func(t *testing.T) *registrytest.Backend {
		databases++
		name, keys := fmt.Sprintf("conformance%d", databases), newKeys(t)
		server.CreateDatabase(name)
		return &registrytest.Backend{Open: func(t *testing.T, s registrytest.Settings) registry.Store {
			return openPostgres(t, server.URL(name), Config{Kinds: kinds.All(), Sealer: keys, MaxIntegrations: s.MaxIntegrations, OnChange: s.OnChange})
		}}
	})
}

// TestPostgresManyOpenAtOnce: replicas that start at the same time on an empty database do
// not conflict.
func TestPostgresManyOpenAtOnce(t *testing.T) {
	server := pgtest.New(t)
	var opening sync.WaitGroup
	for range 8 {
		opening.Go(func() {
			s, err := OpenPostgres(t.Context(), Postgres{URL: server.URL("postgres")}, Config{Kinds: kinds.All()})
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	opening.Wait()
}

// allowed reports whether a replica allows a principal's call.
func allowed(s *Store, id string, who string) (bool, error) {
	in, err := s.Get(id)
	if err != nil {
		return false, err
	}
	ref, err := secret.ParseRef("https://abc.vault.azure.net::db")
	if err != nil {
		return false, err
	}
	return in.Policy.Decide(principal(who), ref).Effect.String() == "allowed", nil
}

// newProxy returns a proxy that can disturb the connection between a replica and its
// database.
func newProxy(t *testing.T, server *pgtest.Server) *netfault.Proxy {
	t.Helper()
	p, err := netfault.Listen("127.0.0.1:0", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// through returns the URL of the database behind a proxy.
func through(p *netfault.Proxy) string {
	return "postgres://postgres@" + p.Addr() + "/postgres?sslmode=disable"
}

// TestPostgresRevocation: a revocation takes effect on the other replicas soon, no matter
// how they learn of it.
func TestPostgresRevocation(t *testing.T) {
	const worker = "spiffe://example.org/connect/worker-1"
	server := pgtest.New(t)
	writer := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	create(t, writer, document("a", "abc", worker))
	way := newProxy(t, server)
	notified := running(t, openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All(), PollInterval: time.Hour}))
	polling := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	polling.listen = nil // every notification is lost
	running(t, polling)
	dropped := running(t, openPostgres(t, through(way), Config{Kinds: kinds.All()}))
	replicas := map[string]*Store{"by notification only": notified, "by polling only": polling, "with its connections cut": dropped}
	grant := func(who string, want bool) {
		t.Helper()
		began := time.Now()
		update(t, writer, document("a", "abc", who))
		way.Cut()
		var waiting sync.WaitGroup
		for name, s := range replicas {
			waiting.Go(func() {
				for is := !want; is != want && time.Since(began) < 30*time.Second; time.Sleep(time.Millisecond) {
					is, _ = allowed(s, "a", worker)
				}
				took := time.Since(began).Round(time.Millisecond)
				if took > 30*time.Second {
					t.Errorf("%s: timed out", name)
				}
				t.Logf("%s: %v", name, took)
			})
		}
		waiting.Wait()
	}
	// The first notification shows that the listener is connected.
	await(t, "the first notification", func() bool {
		update(t, writer, document("a", "abc", worker))
		w, _ := writer.Get("a")
		n, _ := notified.Get("a")
		return w.Revision == n.Revision
	})
	for range 3 {
		grant("spiffe://example.org/somebody/else", false)
		grant(worker, true)
	}
}

// TestPostgresOutage: while the database is down, a replica serves the last snapshot,
// reports the outage, and eventually refuses; it recovers with the database.
func TestPostgresOutage(t *testing.T) {
	const worker = "spiffe://example.org/connect/worker-1"
	server := pgtest.New(t)
	clock := newClock()
	s := running(t, openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All(), MaxOutage: time.Minute, PollInterval: 20 * time.Millisecond, Now: clock.now}))
	create(t, s, document("a", "abc", worker))
	for round := range 2 {
		server.Kill()
		await(t, "the outage is noticed", func() bool { return s.Status().Problem != "" })
		st := s.Status()
		if is, err := allowed(s, "a", worker); !is || err != nil {
			t.Errorf("round %d: just after the loss: %v, %v", round, is, err)
		}
		if left := st.RefusesAt.Sub(st.SeenAt); left != time.Minute {
			t.Errorf("round %d: refuses after %v", round, left)
		}
		if _, err := s.Update(t.Context(), registry.Change{Document: document("a", "abc", worker)}); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: Update: %v", round, err)
		}
		if err := s.Refresh(t.Context()); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: Refresh: %v", round, err)
		}
		if records, err := s.Records(t.Context(), registry.Page{}); err != nil || len(records) != 1 {
			t.Errorf("round %d: Records: %d, %v", round, len(records), err)
		}
		clock.add(2 * time.Minute)
		if _, err := s.Records(t.Context(), registry.Page{}); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: Records after max_outage: %v", round, err)
		}
		if _, err := s.Record(t.Context(), "a"); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: Record after max_outage: %v", round, err)
		}
		if _, err := s.Get("a"); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: after max_outage: %v", round, err)
		}
		if _, err := s.Get("none"); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: an unknown integration gets a different error: %v", round, err)
		}
		server.Start()
		await(t, "the database is back", func() bool { return s.Status().Problem == "" })
		if is, err := allowed(s, "a", worker); !is || err != nil {
			t.Errorf("round %d: after the outage: %v, %v", round, is, err)
		}
		update(t, s, document("a", "abc", worker))
	}
}

// TestPostgresSilence: a server that accepts connections but does not answer is an outage,
// too.
func TestPostgresSilence(t *testing.T) {
	server := pgtest.New(t)
	way := newProxy(t, server)
	s := running(t, openPostgres(t, through(way), Config{Kinds: kinds.All(), PollInterval: 20 * time.Millisecond}))
	create(t, s, document("a", "abc", "dns:a.example.org"))
	way.Hold()
	await(t, "the silence is noticed", func() bool { return s.Status().Problem != "" })
	if _, err := s.Get("a"); err != nil {
		t.Errorf("Get: %v", err)
	}
	way.Release()
	way.Cut()
	await(t, "the database is back", func() bool { return s.Status().Problem == "" })
}

// TestPostgresSerializable: writes succeed with any default isolation level of the
// database.
func TestPostgresSerializable(t *testing.T) {
	server := pgtest.New(t)
	server.Query("postgres", "ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'")
	stores := []*Store{openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()}), openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})}
	serializable := postgresDialect
	serializable.beginWrite = "BEGIN" // the database's default holds
	for _, d := range []*dialect{&postgresDialect, &serializable} {
		for _, s := range stores {
			s.d = d
		}
		var writers sync.WaitGroup
		for i := range 16 {
			writers.Go(func() {
				id := fmt.Sprintf("%d-%p", i, d)
				for {
					_, err := stores[i%2].Create(t.Context(), registry.Change{Document: document(id, "abc", "dns:a.example.org")})
					if err == nil || errors.Is(err, registry.ErrExists) {
						return
					}
					if !strings.Contains(err.Error(), "40001") { // that is, the retries are exhausted
						t.Error(err)
						return
					}
				}
			})
		}
		writers.Wait()
	}
	for _, s := range stores {
		s.Reload()
		if n := len(s.List()); n != 32 {
			t.Errorf("%d integrations, want 32", n)
		}
	}
}
