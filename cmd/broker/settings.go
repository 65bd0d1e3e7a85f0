package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// settings is the broker.yaml in force. A reload puts a few settings in force,
// those that an operator needs when the broker must not be restarted just now;
// all others are taken at start alone. A faulty file changes nothing at all.
type settings struct {
	log  *slog.Logger
	load func() (*config.Config, error)
	// limitCalls puts limits in force.
	limitCalls func(admission.Limits)

	// roles are those for all integrations.
	roles atomic.Pointer[authz.Roles]

	mu      sync.Mutex
	inForce *config.Config
	// problem is what is to be said of the file on disk, empty if all of it is in
	// force.
	problem string
}

// newSettings takes the configuration that the broker starts with.
func newSettings(cfg *config.Config, load func() (*config.Config, error), log *slog.Logger) (*settings, error) {
	s := &settings{log: log, load: load, inForce: cfg}
	roles, err := rolesOf(cfg)
	if err != nil {
		return nil, err
	}
	s.roles.Store(roles)
	return s, nil
}

func rolesOf(cfg *config.Config) (*authz.Roles, error) {
	roles, err := authz.NewRoles(cfg.Roles.Bindings())
	if fault, ok := errors.AsType[*authz.RoleError](err); ok {
		return nil, fmt.Errorf("roles.%s: entry %d: %s", strings.ToLower(string(fault.Role)), fault.Index+1, fault.Text)
	}
	return roles, err
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

// mayExplain says whether who may have decisions about an integration explained
// just now, about all integrations for nil.
func (s *settings) mayExplain(who authz.Principal, in *registry.Integration) bool {
	a := authz.Authority{Organisation: s.roles.Load()}
	if in != nil {
		a.Integration = in.Roles
	}
	return a.May(who, authz.ToExplain)
}

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
	var roles *authz.Roles
	if err == nil {
		roles, err = rolesOf(next)
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
	s.roles.Store(roles)
	s.limitCalls(callLimits(merged))
	if waiting := merged.Differences(next); len(waiting) > 0 {
		slices.Sort(waiting)
		s.problem = "changed on disk and not in force before a restart: " + strings.Join(waiting, ", ")
		s.log.Warn("settings have changed that take a restart", "settings", waiting)
	}
	return nil
}
