//go:build unix

package manage_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// storm makes 120 changes at the same time, without an etag, by services in turn:
// grants, most of which are revoked again.
func storm(t *testing.T, b *bench, services ...*manage.Service) {
	t.Helper()
	const grants, kept = 64, 8 // one in so many
	var running sync.WaitGroup
	var mu sync.Mutex
	reasons := make(map[secret.Reason]int)
	note := func(err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			reasons[reasonOf(err)]++
		}
	}
	for i := range grants {
		s := services[i%len(services)]
		running.Go(func() {
			g := manage.Grant{Principals: []string{fmt.Sprintf("dns:h%d.example.org", i)}}
			_, err := s.Grant(t.Context(), as(assigner), "cspi", g, manage.WriteOptions{})
			note(err)
			if i%kept > 0 && err == nil {
				_, err := s.Revoke(t.Context(), as(assigner), "cspi", g, manage.WriteOptions{})
				note(err)
			}
		})
	}
	running.Wait()
	if len(reasons) > 0 {
		t.Errorf("of %d changes failed: %v", 2*grants-grants/kept, reasons)
	}
	if err := b.cfg.Store.Refresh(t.Context()); err != nil { // the last change may be another replica's
		t.Error(err)
	}
	var got, want []string
	for _, g := range b.get(t, "cspi").Document.Grants[1:] { // the first is the sample's
		got = append(got, g.Principals...)
	}
	for i := 0; i < grants; i += kept {
		want = append(want, fmt.Sprintf("dns:h%d.example.org", i))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d grants are there, want %d", len(got), len(want))
	}
}

// Nobody who changes an integration without an etag has to try again, and no change
// is lost.
func TestConcurrentChangesSQLite(t *testing.T) {
	b := newSampleBench(t)
	storm(t, b, b.Service)
}

func TestConcurrentChangesPostgres(t *testing.T) {
	b := newBench(t, placement.Config{})
	url := pgtest.New(t).URL("postgres")
	var services []*manage.Service
	var stores []*sqlstore.Store
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range 2 {
		store, err := sqlstore.OpenPostgres(t.Context(), sqlstore.Postgres{URL: url}, sqlstore.Config{Kinds: kinds.All(), Sealer: b.keys})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() {
			if err := store.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		stores = append(stores, store)
		cfg := b.cfg
		cfg.Store, cfg.Usage = store, store
		services = append(services, manage.New(cfg))
	}
	b.Service, b.cfg.Store = services[0], stores[0]
	b.create(t, "cspi")
	for _, s := range services[1:] { // which learn of it within a second
		for {
			if _, err := s.Get(t.Context(), as(assigner), "cspi"); err == nil {
				break
			} else if reasonOf(err) != secret.ReasonAccessDenied {
				t.Fatal(err)
			}
		}
	}
	storm(t, b, services...)
}
