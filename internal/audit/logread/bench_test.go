package logread

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
)

var benchEvent = audit.Event{
	Type: audit.TypeAccess, Time: time.Now(), RequestID: "r1", Method: "Resolve", Principal: "spiffe://example.org/w", IntegrationID: "i", Connector: "c",
	Config: "password", Reference: "https://my-vault.vault.azure.net::s", Store: "https://my-vault.vault.azure.net", Secret: "s", Outcome: audit.Served, Version: "v", Source: "hit",
}

// BenchmarkVerify measures the time per line of a log.
func BenchmarkVerify(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.jsonl")
	l := open(b, audit.Config{Path: path})
	if err := l.Write(b.Context(), slices.Repeat([]audit.Event{benchEvent}, b.N)); err != nil {
		b.Fatal(err)
	}
	closeLog(b, l)
	b.ReportAllocs()
	b.ResetTimer()
	if r := verify(b, VerifyConfig{}, path); r.Break != nil || r.Records != b.N+1 {
		b.Errorf("%d records, found %v", r.Records, r.Break)
	}
}

// BenchmarkQuery measures the time per line of a log.
func BenchmarkQuery(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.jsonl")
	l := open(b, audit.Config{Path: path})
	if err := l.Write(b.Context(), slices.Repeat([]audit.Event{benchEvent}, b.N)); err != nil {
		b.Fatal(err)
	}
	closeLog(b, l)
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := Query(b.Context(), &Filter{IntegrationID: "other"}, []string{path}, func(*Record) error { return nil }); err != nil {
		b.Error(err)
	}
}
