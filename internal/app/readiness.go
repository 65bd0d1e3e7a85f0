package app

import (
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/server"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// problems lists the problems that /readyz reports.
func problems(identity *trust.Store, integrations *integrationStore, places *placement.Rules, auditLog *audit.Log, settings *config.Live, working *manage.Watcher) []server.Problem {
	var ps []server.Problem
	for _, text := range identity.Problems() {
		ps = append(ps, server.Problem{Component: "tls", Text: text})
	}
	ps = append(ps, integrations.problems()...)
	for _, text := range places.Violations(integrations.List()) {
		ps = append(ps, server.Problem{Component: "placement", Text: text})
	}
	failures := working.Failures()
	for _, id := range slices.Sorted(maps.Keys(failures)) {
		ps = append(ps, server.Problem{Component: "validation", Text: id + ": " + failures[id]})
	}
	if text := auditLog.Problem(); text != "" {
		ps = append(ps, server.Problem{Component: "audit", Text: text})
	}
	if text := settings.Problem(); text != "" {
		ps = append(ps, server.Problem{Component: "configuration", Text: text})
	}
	return ps
}
