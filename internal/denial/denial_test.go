package denial_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

var at = time.Date(2027, 1, 10, 12, 0, 0, 0, time.UTC)

// TestFind: each kind of subject denies its certificate and no other, until it expires.
func TestFind(t *testing.T) {
	ca := trusttest.NewCA(t, "clients")
	const who = authz.Principal("spiffe://example.org/a")
	cert, other := denial.CertificateOf(ca.Client(string(who)).Leaf, who), denial.CertificateOf(ca.Client("spiffe://example.org/b").Leaf, "spiffe://example.org/b")
	for _, s := range []denial.Subject{
		{Principal: who}, {SHA256: strings.ToUpper(cert.SHA256)}, {Serial: "00:" + strings.ToUpper(cert.Serial), Issuer: cert.Issuer}, {Serial: "0x" + cert.Serial, Issuer: cert.Issuer},
	} {
		e, err := denial.Entry{Subject: s, ExpiresAt: at}.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		l := denial.NewList([]denial.Entry{e})
		if l.Find(cert, at.Add(-1)) == nil || l.Find(cert, at) != nil || l.Find(other, at.Add(-1)) != nil || l.Find(denial.Certificate{}, at.Add(-1)) != nil {
			t.Errorf("%v finds the wrong certificates", s)
		}
	}
	if (*denial.List)(nil).Find(cert, at) != nil {
		t.Error("an empty list denies")
	}
}

// TestSet: the list of one source does not hide that of another.
func TestSet(t *testing.T) {
	s := denial.NewSet()
	a, b := denial.Subject{Principal: "dns:a"}, denial.Subject{Principal: "dns:b"}
	changed := s.Changed()
	s.Put(denial.FromFile, denial.NewList([]denial.Entry{{Subject: a, ExpiresAt: at}}))
	<-changed
	s.Put(denial.FromDatabase, denial.NewList([]denial.Entry{{Subject: a}, {Subject: b}}))
	if s.Current().Find(denial.Certificate{Principal: "dns:a"}, at) == nil || s.Current().Get(b) == nil || s.Count(denial.FromDatabase) != 2 {
		t.Error("entries are missing")
	}
	s.Put(denial.FromFile, denial.NewList(nil))
	if s.Current().Get(a) == nil {
		t.Error("the file's list removed an entry of the database")
	}
	before := s.Current()
	s.Put(denial.FromFile, denial.NewList(nil))
	if s.Current() == before {
		t.Error("a new list is the same pointer")
	}
}

const good = `denials:
  - principal: spiffe://example.org/a
    reason: stolen
    expire_time: 2027-04-01T00:00:00Z
  - certificate_serial: 12e4
    certificate_issuer: CN=clients
`

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestFile: a valid file takes effect, and a file that is missing, truncated or invalid
// removes no entry and is reported.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "denials.yaml")
	set := denial.NewSet()
	var log asynctest.Buffer
	cfg := denial.FileConfig{Path: path, Set: set, Logger: slog.New(slog.NewTextHandler(&log, nil)), Poll: time.Millisecond}
	if _, err := denial.OpenFile(cfg); err == nil {
		t.Fatal("a missing file was accepted at start")
	}
	put(t, path, "denials: [{principal: nobody}]")
	if _, err := denial.OpenFile(cfg); err == nil || !strings.Contains(err.Error(), "denials[0].principal") {
		t.Fatalf("got %v", err)
	}
	put(t, path, good)
	f, err := denial.OpenFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if e := set.Current().Get(denial.Subject{Serial: "12e4", Issuer: "CN=clients"}); len(set.Current().Entries()) != 2 || e == nil || !e.InFile {
		t.Fatalf("entries %+v", set.Current().Entries())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	for name, spoil := range map[string]func(){
		"missing":     func() { _ = os.Remove(path) },
		"empty":       func() { put(t, path, "") },
		"truncated":   func() { put(t, path, good[:len(good)-30]) },
		"no list":     func() { put(t, path, "{}") },
		"null":        func() { put(t, path, "denials:") },
		"typing":      func() { put(t, path, "denial: []") },
		"two at once": func() { put(t, path, "denials: [{principal: dns:a, certificate_sha256: ab}]") },
		"large":       func() { put(t, path, good+"#"+strings.Repeat("x", 1<<20)) },
		"directory":   func() { _ = os.Remove(path); _ = os.Mkdir(path, 0o700) },
	} {
		before := f.Failures()
		spoil()
		asynctest.Eventually(t, name+" is reported", func() bool { return f.Failures() > before && f.Problem() != "" })
		if len(set.Current().Entries()) != 2 {
			t.Errorf("%s: %d entries are left", name, len(set.Current().Entries()))
		}
		_ = os.RemoveAll(path)
		put(t, path, good)
		asynctest.Eventually(t, "recovered from "+name, func() bool { return f.Problem() == "" })
	}
	put(t, path, "denials: []\n")
	asynctest.Eventually(t, "the entries are removed", func() bool { return len(set.Current().Entries()) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLongFile: a file with as many denials as possible, and one more.
func TestLongFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "denials.yaml")
	text := "denials:\n" + strings.Repeat("- principal: dns:h\n", denial.MaxEntries)
	put(t, path, text)
	if err := denial.CheckFile(path); err != nil {
		t.Error(err)
	}
	put(t, path, text+"- principal: dns:h\n")
	if err := denial.CheckFile(path); err == nil {
		t.Error("too many denials were accepted")
	}
}

// BenchmarkFind looks a certificate up that is not denied.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{0, 1, denial.MaxEntries} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			entries := make([]denial.Entry, n)
			for i := range entries {
				entries[i].Principal = authz.Principal(fmt.Sprintf("spiffe://example.org/connect/worker-%d", i))
			}
			l := denial.NewList(entries)
			c := denial.Certificate{Principal: "spiffe://example.org/connect/other", SHA256: strings.Repeat("ab", 32), Serial: "a1", Issuer: "CN=clients"}
			for b.Loop() {
				if l.Find(c, at) != nil {
					b.Fatal("denied")
				}
			}
		})
	}
}
