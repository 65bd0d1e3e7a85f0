package main

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/config"
)

// TestSettings: what a reload puts in force is all there is to it, or nothing.
func TestSettings(t *testing.T) {
	const first, second = authz.Principal("spiffe://example.org/ops/first"), authz.Principal("spiffe://example.org/ops/second")
	onDisk := config.Config{Roles: config.Roles{Auditor: []string{string(first)}}}
	var faulty error
	var limits []admission.Limits
	start := onDisk
	s, err := newSettings(&start, func() (*config.Config, error) { c := onDisk; return &c, faulty }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.limitCalls = func(l admission.Limits) { limits = append(limits, l) }
	expect := func(auditor authz.Principal, drain time.Duration, limitsSet int, problem string) {
		t.Helper()
		for _, who := range []authz.Principal{first, second} {
			if s.mayExplain(who, nil) != (who == auditor) {
				t.Errorf("%s: auditor %v", who, s.mayExplain(who, nil))
			}
		}
		if got := time.Duration(s.current().Shutdown.DrainDelay); got != drain {
			t.Errorf("drain delay %v", got)
		}
		if len(limits) != limitsSet {
			t.Errorf("limits were set to %v", limits)
		}
		if got := s.trouble(); (got == "") != (problem == "") || !strings.Contains(got, problem) {
			t.Errorf("problem %q, want one with %q", got, problem)
		}
	}
	expect(first, 0, 0, "")

	onDisk.Roles.Auditor = []string{string(second)}
	onDisk.Shutdown.DrainDelay = 1e9 // a second
	onDisk.Limits.MaxConcurrentCalls = 7
	if err := s.reload(); err != nil {
		t.Fatal(err)
	}
	expect(second, time.Second, 1, "")
	if limits[0].Total != 7 {
		t.Errorf("limits %+v", limits[0])
	}

	onDisk.Roles.Auditor = []string{string(first), "*"}
	if err := s.reload(); err == nil {
		t.Error("everyone is an auditor")
	}
	expect(second, time.Second, 1, "roles.auditor")

	onDisk.Roles.Auditor = []string{string(first)}
	faulty = errors.New("line 1: no")
	if err := s.reload(); err == nil {
		t.Error("a faulty file is in force")
	}
	expect(second, time.Second, 1, "line 1: no")

	faulty = nil
	onDisk.Listen = ":1"
	onDisk.Cache.TTL++
	if err := s.reload(); err != nil {
		t.Fatal(err)
	}
	expect(first, time.Second, 2, "restart: cache.ttl, listen")
	if s.current().Listen != "" {
		t.Error("listen is in force")
	}

	onDisk.Listen = ""
	onDisk.Cache.TTL--
	if err := s.reload(); err != nil {
		t.Fatal(err)
	}
	expect(first, time.Second, 3, "")
}
