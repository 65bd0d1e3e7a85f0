package config

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// TestLive: a reload applies all settings that can be applied, or none.
func TestLive(t *testing.T) {
	const first, second = authz.Principal("spiffe://example.org/ops/first"), authz.Principal("spiffe://example.org/ops/second")
	onDisk := Config{Roles: Roles{Auditor: []string{string(first)}}}
	var faulty error
	var limits []int
	start := onDisk
	s, err := NewLive(&start, func() (*Config, error) { c := onDisk; return &c, faulty }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.OnChange = func(c *Config) error {
		limits = append(limits, c.Limits.MaxConcurrentCalls)
		return nil
	}
	var applied []*authz.Roles
	s.Applied = func() { applied = append(applied, s.Roles()) }
	expect := func(auditor authz.Principal, drain time.Duration, limitsSet int, problem string) {
		t.Helper()
		for _, who := range []authz.Principal{first, second} {
			a := authz.Authority{Organisation: s.Roles()}
			if got := a.May(who, authz.ToExplain); got != (who == auditor) {
				t.Errorf("%s: auditor %v", who, got)
			}
		}
		if got := time.Duration(s.Current().Shutdown.DrainDelay); got != drain {
			t.Errorf("drain delay %v", got)
		}
		if len(limits) != limitsSet {
			t.Errorf("limits were set to %v", limits)
		}
		if n := len(applied); n != limitsSet || n > 0 && applied[n-1] != s.Roles() {
			t.Errorf("Applied was called %d times, or before the roles were in effect", n)
		}
		if _, got := s.Problem(); (got == "") != (problem == "") || !strings.Contains(got, problem) {
			t.Errorf("problem %q, want one with %q", got, problem)
		}
	}
	expect(first, 0, 0, "")

	onDisk.Roles.Auditor = []string{string(second)}
	onDisk.Shutdown.DrainDelay = 1e9 // a second
	onDisk.Limits.MaxConcurrentCalls = 7
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	expect(second, time.Second, 1, "")
	if limits[0] != 7 {
		t.Errorf("limit %d", limits[0])
	}

	onDisk.Roles.Auditor = []string{string(first), "*"}
	if err := s.Reload(); err == nil {
		t.Error("an unknown caller is an auditor")
	}
	expect(second, time.Second, 1, "roles.auditor")

	onDisk.Roles.Auditor = []string{string(first)}
	faulty = errors.New("line 1: no")
	if err := s.Reload(); err == nil {
		t.Error("an invalid file is in effect")
	}
	expect(second, time.Second, 1, "line 1: no")

	faulty = nil
	onDisk.Listen = ":1"
	onDisk.Cache.TTL++
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	expect(first, time.Second, 2, "restart: cache.ttl, listen")
	if s.Current().Listen != "" {
		t.Error("listen is in effect")
	}

	onDisk.Listen = ""
	onDisk.Cache.TTL--
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	expect(first, time.Second, 3, "")
}
