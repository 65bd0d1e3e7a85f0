package config

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// Live is the configuration in effect. Reload reads the file again and applies a few
// settings: those that an operator may need when the broker cannot be restarted now (roles,
// limits on calls, CRLs, shutdown). All others are applied only at the start. An invalid file
// changes nothing. Live is safe for concurrent use.
type Live struct {
	log  *slog.Logger
	load func() (*Config, error)
	// OnChange, if not nil, is called by each Reload with the configuration that takes effect.
	// If it returns an error, the file counts as invalid. It must be set before the first
	// Reload.
	OnChange func(*Config) error
	// Applied, if not nil, is called by each Reload that succeeds, when all settings, also the
	// Roles, are in effect. It must be set before the first Reload, and must not call Reload,
	// Current or Problem.
	Applied func()

	// roles are the roles on all integrations.
	roles atomic.Pointer[authz.Roles]

	mu      sync.Mutex
	inForce *Config
	// problem describes what is on disk but not in effect, and reason is its kind; both
	// are "" if nothing is.
	reason, problem string
}

// NewLive returns a Live with the configuration cfg in effect. load reads the file again.
func NewLive(cfg *Config, load func() (*Config, error), log *slog.Logger) (*Live, error) {
	l := &Live{log: log, load: load, inForce: cfg}
	roles, err := rolesOf(cfg)
	if err != nil {
		return nil, err
	}
	l.roles.Store(roles)
	return l, nil
}

// rolesOf compiles the roles on all integrations.
func rolesOf(cfg *Config) (*authz.Roles, error) {
	roles, err := authz.NewRoles(cfg.Roles.Bindings())
	if fault, ok := errors.AsType[*authz.RoleError](err); ok {
		return nil, fmt.Errorf("roles.%s: entry %d: %s", strings.ToLower(string(fault.Role)), fault.Index+1, fault.Text)
	}
	return roles, err
}

// withReloadable returns old with those settings of next that a reload applies.
func withReloadable(old, next *Config) *Config {
	c := *old
	c.Roles = next.Roles
	c.Limits.MaxCallsPerSecondPerPrincipal = next.Limits.MaxCallsPerSecondPerPrincipal
	c.Limits.MaxConcurrentCallsPerPrincipal = next.Limits.MaxConcurrentCallsPerPrincipal
	c.Limits.MaxConcurrentCalls = next.Limits.MaxConcurrentCalls
	c.Shutdown = next.Shutdown
	c.TLS.CRLFiles, c.TLS.CRLDir = next.TLS.CRLFiles, next.TLS.CRLDir
	return &c
}

// Roles returns the roles on all integrations that are in effect.
func (l *Live) Roles() *authz.Roles { return l.roles.Load() }

// Current returns the configuration in effect. Callers must not change it.
func (l *Live) Current() *Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inForce
}

// The reasons of Problem.
const (
	// InvalidConfiguration: the file is invalid, and nothing of it is in effect.
	InvalidConfiguration = "INVALID_CONFIGURATION"
	// RestartRequired: some of the changed settings take effect only after a restart.
	RestartRequired = "RESTART_REQUIRED"
)

// Problem describes what is on disk but not in effect. Both results are "" if nothing is.
func (l *Live) Problem() (reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reason, l.problem
}

// Reload reads the file again. If the file is invalid, Reload returns an error and changes
// nothing.
func (l *Live) Reload() error {
	next, err := l.load()
	var roles *authz.Roles
	if err == nil {
		roles, err = rolesOf(next)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.reason, l.problem = InvalidConfiguration, "the broker's configuration on disk is invalid, and the broker would not start with it; the previous configuration stays in effect: "+err.Error()
		return err
	}
	merged := withReloadable(l.inForce, next)
	if l.OnChange != nil {
		if err := l.OnChange(merged); err != nil {
			l.reason, l.problem = InvalidConfiguration, "the broker's configuration on disk cannot take effect; the previous configuration stays in effect: "+err.Error()
			return err
		}
	}
	if changed := l.inForce.Differences(merged); len(changed) > 0 {
		l.log.Info("settings changed", "settings", changed)
	}
	l.inForce, l.reason, l.problem = merged, "", ""
	l.roles.Store(roles)
	if l.Applied != nil {
		l.Applied()
	}
	if waiting := merged.Differences(next); len(waiting) > 0 {
		slices.Sort(waiting)
		l.reason, l.problem = RestartRequired, "changed on disk, but in effect only after a restart: "+strings.Join(waiting, ", ")
		l.log.Warn("settings changed that need a restart", "settings", waiting)
	}
	return nil
}
