package main

import (
	"context"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode"
)

// abuse is one case.
type abuse struct {
	name, title string
	// attack is the key in attacks of the attackers' behavior; integration and reference
	// are its targets.
	attack                 string
	integration, reference string
	// postgres runs two replicas with a database, of which one is attacked. Without it,
	// integrations are files.
	postgres bool
	// assigners makes the attackers assigners of the large integration.
	assigners bool
	// fresh makes the victim read the embedded Key Vault in each call.
	fresh bool
	// newcomers adds honest callers that reconnect for each call.
	newcomers bool
	// disk, if not nil, prepares a disk for the audit log and returns the log's file.
	disk func(b *bed) (string, error)
	// during, if not nil, runs during the attack.
	during func(ctx context.Context, r *running) error
	// judge, if not nil, adds the case's own figures.
	judge func(r *running)
}

// The integrations and secrets that attackers use; file: is replaced by the directory of the
// files.
const (
	anyFile   = "file:v-0"
	largeFile = "file:big"
	nobodys   = "mine" // the victim's integration; attackers have no grant for it
)

var cases = []*abuse{
	{name: "unfinished", title: "256 requests per connection that never end", attack: "unfinished", integration: nobodys},
	{name: "untaken", title: "answers of 25 MB to connections with an HTTP/2 window of 0", attack: "untaken", integration: "lent", reference: largeFile},
	{name: "deaf", title: "answers of 25 MB to connections that are never read", attack: "deaf", integration: "lent", reference: largeFile},
	{name: "reset", title: "rapid reset on 48 connections", attack: "reset", integration: nobodys, reference: anyFile},
	{name: "audit", title: "refused calls with long names that the audit log escapes", attack: "audit", integration: nobodys, reference: anyFile, judge: judgeAudit},
	{name: "full-disk", title: "refused calls while the disk of the audit log is full", attack: "audit", integration: nobodys, reference: anyFile, disk: smallDisk, during: fillDisk},
	{name: "usage", title: "invented connector names, then deletion of integrations in use", attack: "usage", integration: "lent", reference: "file:v-", postgres: true, during: deleteUsed},
	{name: "queue", title: "64 names that do not exist in each call, in the queue of a store", attack: "queue", integration: "vaulted", reference: devmode.VaultURL + "::missing-", fresh: true},
	{name: "list", title: "ListIntegrations and GetIntegration without a role, 800 integrations", attack: "list", postgres: true},
	{name: "validate", title: "64 concurrent GrantUse(validate_only) on a large integration", attack: "validate", postgres: true, assigners: true},
	{name: "get", title: "GetIntegration by a stranger: an existing one against a missing one", attack: "get", postgres: true, judge: judgeGet},
	{name: "connects", title: "connections from one address that say nothing", attack: "connects", newcomers: true, judge: judgeNewcomers},
	{name: "handshakes", title: "TLS handshakes from one address without a certificate", attack: "handshakes", newcomers: true, judge: judgeNewcomers},
	{name: "watch-open", title: "streams of 1,000 secrets that do not exist, opened and ended again and again", attack: "watch-open", integration: "watched", reference: devmode.VaultURL + "::missing-", during: watchRotations, judge: judgeKept},
	{name: "watch-hold", title: "as many Watch streams as possible, never read", attack: "watch-hold", integration: "watched", reference: devmode.VaultURL + "::missing-", during: watchRotations, judge: judgeKept},
	{name: "watch-large", title: "Watch calls with 70,000 known versions", attack: "watch-large", integration: "watched", reference: devmode.VaultURL + "::missing-", during: watchRotations, judge: judgeKept},
	{name: "continuation", title: "CONTINUATION frames without end", attack: "continuation"},
	{name: "ping", title: "PING frames", attack: "ping"},
	{name: "settings", title: "SETTINGS frames", attack: "settings"},
}

func caseOf(name string) *abuse {
	for _, c := range cases {
		if c.name == name {
			return c
		}
	}
	return nil
}

// callers returns the well-behaved callers of a case: the victim, the prober whose grant is
// revoked periodically, and newcomers if the case has them.
func (c *abuse) callers(b *bed) []caller {
	victim := caller{Name: victimName, Identity: b.victim, Integration: "mine", References: []string{b.reference("v-0")}, PerSecond: 50}
	if c.fresh {
		// The victim's share of the store's rate, one ninth, is less than 50 per second.
		victim.Integration, victim.Fresh, victim.References, victim.PerSecond = "vaulted", true, nil, 20
		for i := range 64 {
			victim.References = append(victim.References, fmt.Sprintf("%s::v-%d", devmode.VaultURL, i))
		}
	}
	all := []caller{victim, {Name: proberName, Identity: b.prober, Integration: "revocable", References: []string{b.reference("v-0")}, PerSecond: 100}}
	if c.newcomers {
		all = append(all, caller{
			Name: newcomerName, Identity: b.victim, Integration: "mine", References: []string{b.reference("v-0")}, PerSecond: 10,
			Reconnect: true, Source: "127.0.0.3", RoundTrip: 60 * time.Millisecond,
		})
	}
	return all
}

// The names of the well-behaved callers.
const (
	victimName   = "victim"
	proberName   = "prober"
	newcomerName = "newcomer"
)

// judgeAudit limits what eight principals without a grant can write: 64 KiB per second each,
// and as much again for all other callers.
func judgeAudit(r *running) {
	r.figure("audit log", "MiB/s", r.auditRate, 1)
}

// judgeGet compares medians to reduce noise.
func judgeGet(r *running) {
	most := 1.15
	if r.options.slack {
		most = 1.4
	}
	r.figure("time of an existing integration to that of a missing one", "x", r.Attackers["existing to missing"], most)
	r.figure("time of a large integration to that of a missing one", "x", r.Attackers["large to missing"], most)
	if r.Attackers["existing to missing"] == 0 {
		r.fail("nothing was measured")
	}
}

// judgeNewcomers reports the share of newcomers without an answer.
func judgeNewcomers(r *running) {
	p := phaseOf(r.calls.of(newcomerName, r.begun, r.ended))
	r.figure("newcomers without an answer", "%", 100*(1-p.Share), 100*(1-r.options.demands().share))
}
