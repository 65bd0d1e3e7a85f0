package app

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestOutdatedUses: after a rotation, the connectors that have not read the new version are
// listed, and the record of the first read of each version is where the list says.
func TestOutdatedUses(t *testing.T) {
	b := newBroker(t, nil)
	worker, auditor := b.as(t, b.Worker), b.as(t, b.Auditor)
	reference := vault + "::postgres-password"
	resolve := func(connector string) {
		t.Helper()
		req := request("p", reference)
		req.Connector = connector
		if _, err := worker.Resolve(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	list := func(filter string) map[string]client.Usage {
		t.Helper()
		found := make(map[string]client.Usage)
		for page, err := range auditor.ListUsage(t.Context(), client.ListUsageRequest{IntegrationID: client.AllIntegrations, Filter: `secret = postgres-password AND ` + filter}) {
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range page.Usage {
				found[u.Connector] = u
			}
		}
		return found
	}
	for _, connector := range []string{"orders", "payments", ""} {
		resolve(connector)
	}
	if all := list("current"); len(all) != 3 || all["orders"].Attribution != client.UsageOfConnector || all[""].Attribution != client.UsageOfPrincipal {
		t.Fatalf("before the rotation: %+v", all)
	}
	old := list("current")["orders"].Version
	if err := edit(b.SecretsFile, "correct-horse-battery-staple", "rotated-horse-battery-staple"); err != nil {
		t.Fatal(err)
	}
	// The broker notices the rotation, but no connector has read it.
	asynctest.Eventually(t, "the broker has seen the new version", func() bool {
		res, err := worker.Refresh(t.Context(), client.RefreshRequest{IntegrationID: devmode.IntegrationID, Configs: map[string]string{"p": reference}})
		return err == nil && res.Configs["p"].Version != old
	})
	if outdated := list("outdated"); len(outdated) != 3 || outdated["orders"].CurrentVersion == old || outdated["orders"].Version != old {
		t.Fatalf("after the rotation: %+v", outdated)
	}
	resolve("orders")
	if outdated := list("outdated"); len(outdated) != 2 || outdated["payments"].Version != old {
		t.Errorf("after one connector has read it: %+v", outdated)
	}
	if holders := list(`version = "` + old + `"`); len(holders) != 2 {
		t.Errorf("%d uses of the old version", len(holders))
	}
	checkFirstReads(t, b, list("current")["orders"])
}

// checkFirstReads compares the versions of a use with the records of the audit log.
func checkFirstReads(t *testing.T, b *broker, u client.Usage) {
	t.Helper()
	if len(u.Versions) != 2 || u.Versions[0].Version != u.CurrentVersion {
		t.Fatalf("versions %+v", u.Versions)
	}
	data, err := os.ReadFile(filepath.Join(b.Dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	type record struct {
		Seq       int64  `json:"seq"`
		RequestID string `json:"request_id"`
		Connector string `json:"connector"`
		Version   string `json:"version"`
		Outcome   string `json:"outcome"`
	}
	records := make(map[int64]record)
	for line := range bytes.Lines(data) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		records[r.Seq] = r
	}
	for _, v := range u.Versions {
		want := record{v.AuditSequence, v.RequestID, u.Connector, v.Version, "served"}
		if records[v.AuditSequence] != want || v.RequestID == "" || v.Replica == "" {
			t.Errorf("the record is %+v, the list has %+v", records[v.AuditSequence], v)
		}
	}
}
