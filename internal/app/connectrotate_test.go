package app

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli"
	"github.com/secretbroker/secretbroker/internal/connectapi/connecttest"
)

const rotatedReference = "https://your-key-vault-name.vault.azure.net::postgres-password"

// connectWorkers is a cluster whose connectors read a secret through a broker when they start.
func connectWorkers(t *testing.T, b *broker) (cluster *connecttest.Cluster, file string) {
	t.Helper()
	worker := b.as(t, b.Worker)
	cluster = &connecttest.Cluster{Start: func(connector string, _ int, _ string) bool {
		label := ""
		if connector == "orders" {
			label = connector
		}
		_, err := worker.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "cspi-sqlserver", Configs: map[string]string{"p": rotatedReference}, Connector: label})
		return err == nil
	}}
	cluster.Put("orders", map[string]string{"connection.password": "${secretbroker:cspi-sqlserver/orders:" + rotatedReference + "}"}, 2, "worker-1:8083", "worker-2:8083")
	cluster.Put("plain", map[string]string{"connection.url": "jdbc:x?password=${secretbroker:cspi-sqlserver:" + rotatedReference + "}"}, 1, "worker-1:8083")
	cluster.Put("files", map[string]string{"file": "/tmp/x"}, 1, "worker-1:8083")
	server := httptest.NewServer(cluster)
	t.Cleanup(server.Close)
	file = filepath.Join(t.TempDir(), "connect.yaml")
	text := "clusters: [{name: prod, url: '" + server.URL + "', restarts: {include: ['*'], workers: [{worker: 'worker-*', principal: '" + devWorker + "'}], min_interval: 1s, settle: 1s, stuck_after: 10s, verify_timeout: 10s}}]"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return cluster, file
}

const devWorker = "spiffe://example.org/connect/worker-1"

// TestConnectRotate: the command restarts what uses the secret and nothing else, and proves by
// the broker's own records that it has the new version.
func TestConnectRotate(t *testing.T) {
	b := newBroker(t, nil)
	cluster, file := connectWorkers(t, b)
	for _, name := range []string{"orders", "plain"} {
		cluster.Start(name, 0, "")
	}
	if err := edit(b.SecretsFile, "correct-horse-battery-staple", "rotated-battery-staple"); err != nil {
		t.Fatal(err)
	}
	args := func(cert, key string, more ...string) []string {
		return append([]string{"connect", "rotate", "--config", file, "--secret", rotatedReference, "--addr", b.addr, "--ca", b.CAFile, "--cert", cert, "--key", key}, more...)
	}
	code, stdout, stderr := command(t, "connect", "rotate", "--dry-run", "--config", file, "--secret", rotatedReference)
	if code != exitOK || !strings.Contains(stdout, "restart first (canary)") || strings.Contains(stdout, "files") || len(cluster.Restarts()) != 0 {
		t.Fatalf("dry run: %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = command(t, args(b.OtherWorker.CertFile, b.OtherWorker.KeyFile)...)
	if code == exitOK || !strings.Contains(stderr, "nothing was restarted") || len(cluster.Restarts()) != 0 {
		t.Errorf("a caller without a role: %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = command(t, args(b.Owner.CertFile, b.Owner.KeyFile, "-o", "json")...)
	var report cli.RotationJSON
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != exitOK || report.State != "VERIFIED" || !slices.Equal(cluster.Restarts(), []string{"orders", "plain"}) {
		t.Fatalf("%v, %d, restarts %q\n%s%s", err, code, cluster.Restarts(), stdout, stderr)
	}
	audit := b.auditText(t)
	for i, weak := range []bool{false, true} {
		it := report.Connectors[i]
		if it.Weak != weak || len(it.Proof) != 1 || it.Proof[0].Version != it.References[0].Version || it.Proof[0].Principal != devWorker || !strings.Contains(audit, it.Proof[0].RequestID) || it.Proof[0].AuditSequence == 0 {
			t.Errorf("%+v", it)
		}
	}
	if strings.Contains(stdout+stderr, "battery-staple") {
		t.Error("the output has a value")
	}
}
