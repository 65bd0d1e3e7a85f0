//go:build unix

package sqlstore

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// BenchmarkOpen measures the start with a thousand integrations.
func BenchmarkOpen(b *testing.B) {
	file := filepath.Join(b.TempDir(), "r.db")
	s, err := OpenSQLite(b.Context(), file, Config{Kinds: kinds.All(), MaxIntegrations: 1000})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := range 1000 {
		if _, err := s.Create(b.Context(), registry.Change{Document: document(fmt.Sprint("i", i), "abc", "dns:a.example.org")}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		again, err := OpenSQLite(b.Context(), file, Config{Kinds: kinds.All()})
		if err != nil || len(again.List()) != 1000 {
			b.Fatal(err)
		}
		_ = again.Close()
	}
}

// BenchmarkGet measures the lookup that every call makes.
func BenchmarkGet(b *testing.B) {
	s, err := OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "r.db"), Config{Kinds: kinds.All()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Create(b.Context(), registry.Change{Document: document("a", "abc", "dns:a.example.org")}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Get("a"); err != nil {
			b.Fatal(err)
		}
	}
}
