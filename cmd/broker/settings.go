package main

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/config"
)

// settings is the broker.yaml in force. A reload puts a few settings in force,
// those that an operator needs when the broker must not be restarted just now;
// all others are taken at start alone. A faulty file changes nothing at all.
type settings struct {
	log  *slog.Logger
	load func() (*config.Config, error)
	// limitCalls puts limits in force.
	limitCalls func(admission.Limits)

	auditors atomic.Pointer[authz.Principals]

	mu      sync.Mutex
	inForce *config.Config
	// problem is what is to be said of the file on disk, empty if all of it is in
	// force.
	problem string
}

// newSettings takes the configuration that the broker starts with.
func newSettings(cfg *config.Config, load func() (*config.Config, error), log *slog.Logger) (*settings, error) {
	s := &settings{log: log, load: load, inForce: cfg}
	auditors, err := auditorsOf(cfg)
	if err != nil {
		return nil, err
	}
	s.auditors.Store(auditors)
	return s, nil
}

func auditorsOf(cfg *config.Config) (*authz.Principals, error) {
	auditors, err := authz.NewPrincipals(cfg.Roles.Auditor)
	if err != nil {
		return nil, fmt.Errorf("roles.auditor: %w", err)
	}
	return auditors, nil
}

func callLimits(cfg *config.Config) admission.Limits {
	return admission.Limits{
		PerSecond: cfg.Limits.MaxCallsPerSecondPerPrincipal,
		PerCaller: cfg.Limits.MaxConcurrentCallsPerPrincipal,
		Total:     cfg.Limits.MaxConcurrentCalls,
	}
}

// withReloadable returns old with the settings of next that a reload puts in
// force.
func withReloadable(old, next *config.Config) *config.Config {
	c := *old
	c.Roles = next.Roles
	c.Limits.MaxCallsPerSecondPerPrincipal = next.Limits.MaxCallsPerSecondPerPrincipal
	c.Limits.MaxConcurrentCallsPerPrincipal = next.Limits.MaxConcurrentCallsPerPrincipal
	c.Limits.MaxConcurrentCalls = next.Limits.MaxConcurrentCalls
	c.Shutdown = next.Shutdown
	return &c
}

// isAuditor says whether who is an auditor just now.
func (s *settings) isAuditor(who authz.Principal) bool { return s.auditors.Load().Contains(who) }

// current is the configuration in force.
func (s *settings) current() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inForce
}

// trouble says what of the file on disk is not in force, empty if nothing.
func (s *settings) trouble() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// reload reads the file again. It fails, and then has changed nothing, if the
// file is faulty.
func (s *settings) reload() error {
	next, err := s.load()
	var auditors *authz.Principals
	if err == nil {
		auditors, err = auditorsOf(next)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.problem = "the broker's configuration on disk is faulty, and the broker would not start with it; what was read before stays in force: " + err.Error()
		return err
	}
	merged := withReloadable(s.inForce, next)
	if changed := s.inForce.Differences(merged); len(changed) > 0 {
		s.log.Info("settings changed", "settings", changed)
	}
	s.inForce, s.problem = merged, ""
	s.auditors.Store(auditors)
	s.limitCalls(callLimits(merged))
	if waiting := merged.Differences(next); len(waiting) > 0 {
		slices.Sort(waiting)
		s.problem = "changed on disk and not in force before a restart: " + strings.Join(waiting, ", ")
		s.log.Warn("settings have changed that take a restart", "settings", waiting)
	}
	return nil
}
