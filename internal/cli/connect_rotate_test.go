package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/campaign"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/connectapi/connecttest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func rotated(state campaign.State, connectors ...*campaign.Connector) *campaign.Campaign {
	t0 := time.Date(2027, 1, 10, 8, 30, 0, 0, time.UTC)
	return &campaign.Campaign{ID: "id", State: state, CreateTime: t0, EndTime: t0.Add(95 * time.Second), Connectors: connectors}
}

func rotatedConnector(name string, state campaign.State) *campaign.Connector {
	t0 := time.Date(2027, 1, 10, 8, 30, 0, 0, time.UTC)
	it := &campaign.Connector{Cluster: "prod", Name: name, State: state, References: []campaign.Reference{{Property: "p", Integration: "i", Reference: "r", Version: "v2"}}}
	switch state {
	case campaign.Verified:
		it.AcceptTime, it.VerifyTime, it.Weak = t0, t0.Add(40*time.Second), true
		it.Proof = []campaign.Read{{Principal: "spiffe://w", Version: "v2", RequestID: "request-1", AuditSequence: 7}}
	case campaign.Stalled:
		it.AcceptTime, it.Missing = t0, []string{"a read of version v2"}
	case campaign.Failed:
		it.AcceptTime, it.Reason = t0, "task 1 is FAILED on worker w"
	case campaign.Skipped:
		it.Reason = "it is PAUSED"
	}
	return it
}

// The report has the state of each connector with its proof or what is missing, and the exit
// code says whether there is something to do.
func TestRotationReport(t *testing.T) {
	halted := rotated(campaign.Halted, rotatedConnector("a", campaign.Failed), rotatedConnector("b", campaign.Pending))
	halted.Reason = "the canary a failed; correct the secret"
	for _, tt := range []struct {
		c     *campaign.Campaign
		ended error
		code  int
		line  string
		table []string
	}{
		{
			rotated(campaign.Verified, rotatedConnector("a", campaign.Verified), rotatedConnector("b", campaign.Skipped)), nil, exit.OK,
			"rotation VERIFIED: 1 verified, 1 skipped of 2 connectors in 1m35s", []string{"40s", "request-1", "   7", "weaker proof for 1 connectors", "prod/b: it is PAUSED", "to go back", "prod/a"},
		},
		{rotated(campaign.Verified), nil, exit.OK, "rotation VERIFIED: no connector uses the secret", nil},
		{
			rotated(campaign.Stalled, rotatedConnector("a", campaign.Stalled)), nil, exit.Findings,
			"rotation STALLED: 1 stalled of 1 connectors in 1m35s", []string{"prod/a: a read of version v2"},
		},
		{halted, nil, exit.Precondition, "rotation HALTED: 1 failed, 1 pending of 2 connectors in 1m35s; the canary a failed; correct the secret", []string{"prod/a: task 1 is FAILED"}},
		{rotated(campaign.Running, rotatedConnector("a", campaign.Running)), context.DeadlineExceeded, exit.Failure, "rotation RUNNING: 1 running of 1 connectors in 1m35s", nil},
		{rotated(campaign.Aborted, rotatedConnector("a", campaign.Pending)), nil, exit.Failure, "rotation ABORTED: 1 pending of 1 connectors in 1m35s", nil},
	} {
		for _, format := range []string{"line", "table", "json"} {
			var out bytes.Buffer
			cmd := &cobra.Command{}
			cmd.SetOut(&out)
			r := &rotation{output: format}
			code := exit.OK
			if e, ok := errors.AsType[*exit.Error](r.report(cmd, tt.c, tt.ended)); ok {
				code = e.Code
			}
			if code != tt.code || !strings.Contains(out.String(), tt.line) {
				t.Errorf("%s: exit code %d, want %d and %q\n%s", format, code, tt.code, tt.line, &out)
			}
			if format != "table" {
				continue
			}
			for _, want := range tt.table {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, &out)
				}
			}
		}
	}
}

// The order has the canary, and what is left alone with its reason. A cluster that does not
// answer is not skipped silently.
func TestRotateDryRun(t *testing.T) {
	var cluster connecttest.Cluster
	cluster.Put("a", map[string]string{"p": "${secretbroker:cspi:https://vlt.vault.azure.net::db}"}, 2, "w:1")
	cluster.Put("b", map[string]string{"p": "${secretbroker:cspi:https://vlt.vault.azure.net::db}"}, 1, "w:1")
	cluster.Put("c", map[string]string{"p": "${secretbroker:cspi:https://vlt.vault.azure.net::other}"}, 1, "w:1")
	cluster.SetState("a", 0, "FAILED")
	cluster.SetState("b", -1, "STOPPED")
	server := httptest.NewServer(&cluster)
	restarts := "    restarts: {include: [\"*\"], workers: [{worker: \"*\", principal: \"dns:w\"}]}\n"
	file := connectFile(t, restarts, "prod", server.URL)
	args := []string{"connect", "rotate", "--dry-run", "--config", file, "--secret", "https://vlt.vault.azure.net::db"}
	output, code := run(t, args...)
	if code != exit.OK || !strings.Contains(output, "a           2       restart first (canary)") || !strings.Contains(output, "leave alone: it is STOPPED") || strings.Contains(output, "prod      c") {
		t.Errorf("exit code %d\n%s", code, output)
	}
	if output, code := run(t, "connect", "rotate", "--config", file); code != exit.Usage || !strings.Contains(output, "--secret or --integration") {
		t.Errorf("exit code %d\n%s", code, output)
	}
	server.Close()
	if output, code := run(t, args...); code != exit.Unreachable || !strings.Contains(output, "nothing was restarted") {
		t.Errorf("exit code %d\n%s", code, output)
	}
	if len(cluster.Restarts()) != 0 {
		t.Error("restarted")
	}
}

func TestFilterOfSecret(t *testing.T) {
	for reference, want := range map[string]string{
		"https://vlt.vault.azure.net::db::k":                             `store = "https://vlt.vault.azure.net" AND secret = "db"`,
		"arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf": `store = "arn:aws:secretsmanager:eu-west-1:111122223333" AND secret = "db"`,
	} {
		ref, err := secret.ParseRef(reference)
		if err != nil {
			t.Fatal(err)
		}
		if got := filterOfSecret(ref); got != want {
			t.Errorf("%s: %s", reference, got)
		}
	}
}
