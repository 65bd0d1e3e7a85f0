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

// openPostgres opens a Store that closes with the test.
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

// document is an integration that one principal may use.
func document(id, vault, principal string) []byte {
	return fmt.Appendf(nil, "id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  credential: {type: managed_identity}\n  vaults: [https://%s.vault.azure.net]\ngrants:\n  - principals: ['%s']\n",
		id, vault, principal)
}

func secretDocument(id string) []byte {
	return fmt.Appendf(nil, "id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: 11111111-2222-3333-4444-555555555555\n  client_id: 66666666-7777-8888-9999-aaaaaaaaaaaa\n  credential: {type: client_secret}\n  vaults: [https://abc.vault.azure.net]\n", id)
}

// await waits for something that takes a moment.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.After(30 * time.Second); !is(); {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
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

// Replicas that start together on an empty database do not get in each other's way.
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

// decide is what a replica says of one principal's call.
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

// newProxy makes what can happen between a replica and its database.
func newProxy(t *testing.T, server *pgtest.Server) *netfault.Proxy {
	t.Helper()
	p, err := netfault.Listen("127.0.0.1:0", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// through is the URL of the database behind a proxy.
func through(p *netfault.Proxy) string {
	return "postgres://postgres@" + p.Addr() + "/postgres?sslmode=disable"
}

// A revoked grant is gone on the other replicas soon, however the news comes
// through.
func TestPostgresRevocation(t *testing.T) {
	const worker = "spiffe://example.org/connect/worker-1"
	server := pgtest.New(t)
	writer := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	create(t, writer, document("a", "abc", worker))
	way := newProxy(t, server)
	notified := running(t, openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All(), PollInterval: time.Hour}))
	polling := openPostgres(t, server.URL("postgres"), Config{Kinds: kinds.All()})
	polling.listen = nil // every notice is lost
	running(t, polling)
	dropped := running(t, openPostgres(t, through(way), Config{Kinds: kinds.All()}))
	replicas := map[string]*Store{"by notice alone": notified, "by the poll alone": polling, "with its connections cut": dropped}
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
					t.Errorf("%s: waited in vain", name)
				}
				t.Logf("%s: %v", name, took)
			})
		}
		waiting.Wait()
	}
	// The listener is there once one notice has come through.
	await(t, "the first notice", func() bool {
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

// While the database is away a replica serves what it saw last, says so, and
// refuses in the end; when it is back, so is the replica.
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
		if _, err := s.Records(t.Context(), registry.Page{}); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: Records: %v", round, err)
		}
		clock.add(2 * time.Minute)
		if _, err := s.Get("a"); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: after max_outage: %v", round, err)
		}
		if _, err := s.Get("none"); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("round %d: what is not there looks different: %v", round, err)
		}
		server.Start()
		await(t, "the database is back", func() bool { return s.Status().Problem == "" })
		if is, err := allowed(s, "a", worker); !is || err != nil {
			t.Errorf("round %d: after the outage: %v, %v", round, is, err)
		}
		update(t, s, document("a", "abc", worker))
	}
}

// A server that is there and says nothing is an outage too.
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

// Whatever isolation the database's owner has made the default, writers come
// through.
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
					if !strings.Contains(err.Error(), "40001") { // given up after some tries
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
