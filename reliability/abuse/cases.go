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
	// attack is what each attacker does, by its name in attacks, with an
	// integration and a reference.
	attack                 string
	integration, reference string
	// postgres has two replicas on a database, of which one is attacked. Without
	// it integrations are files.
	postgres bool
	// assigners gives the attackers that role on the large integration.
	assigners bool
	// fresh has the victim read the embedded Key Vault with each call.
	fresh bool
	// newcomers are honest callers that connect again for each call.
	newcomers bool
	// disk, if not nil, makes a place for the audit log and returns its file.
	disk func(b *bed) (string, error)
	// during, if not nil, is what else happens while the attack lasts.
	during func(ctx context.Context, r *running) error
	// judge, if not nil, adds the case's own figures.
	judge func(r *running)
}

// The integrations and secrets that attackers ask for; file: is replaced by the
// place of the files.
const (
	anyFile   = "file:v-0"
	largeFile = "file:big"
	nobodys   = "mine" // the victim's, of which the attackers have no grant
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

// callers are the well-behaved ones of a case: the victim, the prober whose grant
// is revoked now and then, and perhaps newcomers.
func (c *abuse) callers(b *bed) []caller {
	victim := caller{Name: victimName, Identity: b.victim, Integration: "mine", References: []string{b.reference("v-0")}, PerSecond: 50}
	if c.fresh {
		// A ninth of what the store takes, with the attackers, is less than 50 a second.
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

// judgeAudit bounds what eight principals without a grant can have written: 64 KiB
// a second each, and as much again for everybody else.
func judgeAudit(r *running) {
	r.figure("audit log", "MiB/s", r.auditRate, 1)
}

// judgeGet compares medians, so that noise does not count.
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

// judgeNewcomers says which share of those who connect from elsewhere get in.
func judgeNewcomers(r *running) {
	p := phaseOf(r.calls.of(newcomerName, r.begun, r.ended))
	r.figure("newcomers without an answer", "%", 100*(1-p.Share), 100*(1-r.options.demands().share))
}
