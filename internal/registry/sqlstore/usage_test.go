//go:build unix

package sqlstore

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgtest"
)

// TestUsageIsShared: one principal that invents names of connectors takes no place of
// another one's older entries, and what is no longer told apart still counts as used.
func TestUsageIsShared(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) *Store{
		"sqlite": func(t *testing.T) *Store {
			return openSQLite(t, filepath.Join(t.TempDir(), "r.db"), Config{Kinds: kinds.All()})
		},
		"postgres": func(t *testing.T) *Store {
			return openPostgres(t, pgtest.New(t).URL("postgres"), Config{Kinds: kinds.All()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			s.maxUsage = 20
			create(t, s, document("a", "abc", "dns:*.example.org"))
			create(t, s, document("b", "abc", "dns:*.example.org"))
			noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
			merge := func(in string, who authz.Principal, from, n int) {
				t.Helper()
				var batch []registry.Usage
				for i := from; i < from+n; i++ {
					at := noon.Add(time.Duration(i) * time.Minute)
					batch = append(batch, registry.Usage{Integration: in, Principal: who, Connector: fmt.Sprint("c", i), Store: "https://s", Secret: "x", FirstAt: at, LastAt: at})
				}
				if err := s.MergeUsage(t.Context(), batch); err != nil {
					t.Fatal(err)
				}
			}
			merge("a", "dns:old", 0, 5)
			merge("b", "dns:old", 0, 20) // which is not too much
			merge("a", "dns:flood", 100, 200)
			merge("a", "dns:flood", 300, 50)
			of := func(in string) (entries map[authz.Principal]int, folded map[authz.Principal]registry.Usage) {
				t.Helper()
				entries, folded = make(map[authz.Principal]int), make(map[authz.Principal]registry.Usage)
				all, err := s.Usage(t.Context(), in, time.Time{}, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range all {
					if entries[u.Principal]++; u.Secret == "" {
						folded[u.Principal] = u
					}
				}
				return entries, folded
			}
			entries, folded := of("a")
			if entries["dns:old"] != 5 || len(folded) != 1 {
				t.Errorf("%v, folded %v", entries, folded)
			}
			if n := entries["dns:old"] + entries["dns:flood"]; n > s.maxUsage || n < s.maxUsage/2 {
				t.Errorf("%d entries are kept", n)
			}
			f := folded["dns:flood"]
			if !f.FirstAt.Equal(noon.Add(100*time.Minute)) || f.LastAt.Before(noon.Add(330*time.Minute)) || f.Connector != "" || f.Store != "" {
				t.Errorf("folded into %+v", f)
			}
			if entries, folded := of("b"); entries["dns:old"] != 20 || len(folded) != 0 {
				t.Errorf("another integration has %v, folded %v", entries, folded)
			}
		})
	}
}
