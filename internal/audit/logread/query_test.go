package logread

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var day = time.Date(2027, 1, 10, 0, 0, 0, 0, time.UTC)

// writeEvents writes events an hour apart and returns the log's file.
func writeEvents(t testing.TB) string {
	t.Helper()
	const worker, other, version = "spiffe://example.org/connect/worker-1", "spiffe://example.org/ops", "5f3a0c9e7b1d4e2f8a6b0c1d2e3f4a5b"
	const one, two = "https://one.vault.azure.net::db", "https://two.vault.azure.net::db"
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, audit.Config{Path: path})
	for i, e := range []audit.Event{
		{RequestID: "r0", Principal: worker, IntegrationID: "a", Connector: "c", GrantID: "g1", CertificateSHA256: "ab", Reference: one + "::password", Outcome: audit.Served, Version: version},
		{RequestID: "r0", Principal: worker, IntegrationID: "a", Connector: "c", Reference: one + "::user", Outcome: audit.Served, Version: version},
		{RequestID: "r2", Principal: worker, IntegrationID: "a", Reference: one, Outcome: audit.Served, Version: strings.Repeat("0", 32)},
		{RequestID: "r3", Principal: other, IntegrationID: "a", Reference: one + "#" + version, Outcome: audit.Denied, Reason: "ACCESS_DENIED"},
		{RequestID: "r4", Principal: other, IntegrationID: "b", Reference: two, Outcome: audit.Checked},
		{RequestID: "r5", Principal: other, IntegrationID: "b", Outcome: audit.Rejected, Reason: "INVALID_REFERENCE"},
	} {
		e.Type, e.Time, e.Method = audit.TypeAccess, day.Add(time.Duration(i)*time.Hour), "Resolve"
		if e.Outcome == audit.Checked {
			e.Method = "Check"
		}
		if e.Reference != "" {
			r := ref(t, e.Reference)
			e.Store, e.Secret, e.JSONKey = r.Store, r.Name, r.Key
		}
		if err := l.Write(t.Context(), []audit.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	return path
}

func ref(t testing.TB, s string) secret.Ref {
	t.Helper()
	r, err := secret.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestQuery(t *testing.T) {
	file := writeEvents(t)
	principals := func(patterns ...string) *authz.Principals {
		p, err := authz.NewPrincipals(patterns)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const version = "#5F3A0C9E7B1D4E2F8A6B0C1D2E3F4A5B"
	for _, tt := range []struct {
		name   string
		filter Filter
		want   string // the hours
	}{
		{"everything", Filter{}, "012345"},
		{"a secret in another spelling", Filter{Secret: ref(t, "https://ONE.vault.azure.net:443/::DB")}, "0123"},
		{"a key: the whole secret has it", Filter{Secret: ref(t, "https://one.vault.azure.net::db::password")}, "023"},
		{"another key", Filter{Secret: ref(t, "https://one.vault.azure.net::db::port")}, "23"},
		{"a version, served or asked for", Filter{Secret: ref(t, "https://one.vault.azure.net::db"+version)}, "013"},
		{"another secret", Filter{Secret: ref(t, "https://one.vault.azure.net::db-2")}, ""},
		{"a principal", Filter{Principals: principals("spiffe://example.org/ops")}, "345"},
		{"a pattern", Filter{Principals: principals("spiffe://example.org/connect/*")}, "012"},
		{"an integration", Filter{IntegrationID: "b"}, "45"},
		{"a grant", Filter{GrantID: "g1"}, "0"},
		{"a certificate", Filter{CertificateSHA256: "ab"}, "0"},
		{"a method", Filter{Method: "Check"}, "4"},
		{"a type", Filter{Types: []audit.Type{audit.TypeManagement, audit.TypeAccess}}, "012345"},
		{"another type", Filter{Types: []audit.Type{audit.TypeManagement}}, ""},
		{"a connector", Filter{Connector: "c"}, "01"},
		{"a request", Filter{RequestID: "r0"}, "01"},
		{"outcomes", Filter{Outcomes: []audit.Outcome{audit.Denied, audit.Rejected}}, "35"},
		{"from", Filter{From: day.Add(2 * time.Hour)}, "2345"},
		{"to", Filter{To: day.Add(2 * time.Hour)}, "01"},
		{"who read it then", Filter{Secret: ref(t, "https://one.vault.azure.net::db"), Outcomes: []audit.Outcome{audit.Served}, From: day.Add(time.Hour), To: day.Add(3 * time.Hour)}, "12"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			unreadable, err := Query(t.Context(), &tt.filter, []string{file}, func(r *Record) error {
				got.WriteByte('0' + byte(r.Time.Hour()))
				if !json.Valid(r.Line) || r.N != r.Time.Hour()+2 || r.File != file {
					t.Errorf("%s:%d: %s", r.File, r.N, r.Line)
				}
				return nil
			})
			if err != nil || unreadable != 0 || got.String() != tt.want {
				t.Errorf("got %s, want %s; %d, %v", got.String(), tt.want, unreadable, err)
			}
		})
	}
}

func TestDistinct(t *testing.T) {
	file := writeEvents(t)
	all, unreadable, err := Distinct(t.Context(), &Filter{}, []string{file, file})
	if err != nil || unreadable != 0 {
		t.Fatal(unreadable, err)
	}
	const one, two = "https://one.vault.azure.net", "https://two.vault.azure.net"
	want := []Access{
		{"spiffe://example.org/connect/worker-1", "a", one, "db", audit.Served, 6, day, day.Add(2 * time.Hour)},
		{"spiffe://example.org/ops", "a", one, "db", audit.Denied, 2, day.Add(3 * time.Hour), day.Add(3 * time.Hour)},
		{"spiffe://example.org/ops", "b", "", "", audit.Rejected, 2, day.Add(5 * time.Hour), day.Add(5 * time.Hour)},
		{"spiffe://example.org/ops", "b", two, "db", audit.Checked, 2, day.Add(4 * time.Hour), day.Add(4 * time.Hour)},
	}
	if !slices.Equal(all, want) {
		t.Errorf("got %+v", all)
	}
}

func TestQueryUnreadable(t *testing.T) {
	file := writeEvents(t)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{}\nnonsense\n" + `{"v":2,"type":"access","outcome":"served"}` + "\n" + strings.Repeat("x", 3*chain.MaxLine) + "\n{\"outcome"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	unreadable, err := Query(t.Context(), &Filter{}, []string{file}, func(*Record) error { n++; return nil })
	if err != nil || unreadable != 5 || n != 6 {
		t.Errorf("%d unreadable, %d records, %v", unreadable, n, err)
	}
	enough := errors.New("enough")
	if _, err := Query(t.Context(), &Filter{}, []string{file}, func(*Record) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := os.WriteFile(file, []byte(strings.Repeat("x\n", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Query(ctx, &Filter{}, []string{file}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzQuery(f *testing.F) {
	data, err := os.ReadFile(writeEvents(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"v":1,"type":"access","time":"2027-01-10T00:00:00Z","outcome":"served","reference":"::","store":"https://one.vault.azure.net","secret":"db"}`))
	filter := Filter{Secret: secret.Ref{Store: "https://one.vault.azure.net", Name: "db"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Query(t.Context(), &filter, []string{path}, func(r *Record) error {
			if !json.Valid(r.Line) || r.Store != "https://one.vault.azure.net" {
				t.Errorf("%q", r.Line)
			}
			return nil
		})
		if err != nil && data[0] != 0x1f {
			t.Error(err)
		}
	})
}
