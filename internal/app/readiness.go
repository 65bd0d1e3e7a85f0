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
func problems(identity *trust.Store, denials *denyList, integrations *integrationStore, places *placement.Rules, auditLog *audit.Log, settings *config.Live, working *manage.Watcher) []server.Problem {
	var ps []server.Problem
	for _, p := range identity.Problems() {
		ps = append(ps, server.Problem{Component: "tls", Reason: p.Reason, Message: p.Message})
	}
	if text := denials.problem(); text != "" {
		ps = append(ps, server.Problem{Component: "denials", Reason: "DENIALS_UNREADABLE", Message: text})
	}
	ps = append(ps, integrations.problems()...)
	for _, text := range places.Violations(integrations.List()) {
		ps = append(ps, server.Problem{Component: "placement", Reason: "PLACEMENT_VIOLATED", Message: text})
	}
	failures := working.Failures()
	for _, id := range slices.Sorted(maps.Keys(failures)) {
		ps = append(ps, server.Problem{Component: "validation", Reason: "VALIDATION_FAILED", Message: id + ": " + failures[id]})
	}
	if text := auditLog.Problem(); text != "" {
		reason := "AUDIT_DEGRADED"
		if auditLog.Refuses() {
			reason = "AUDIT_UNAVAILABLE"
		}
		ps = append(ps, server.Problem{Component: "audit", Reason: reason, Message: text})
	}
	if reason, text := settings.Problem(); reason != "" {
		ps = append(ps, server.Problem{Component: "configuration", Reason: reason, Message: text})
	}
	return ps
}
