package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/connectapi/connecttest"
)

// connectFile writes a connect.yaml with clusters at the URLs, by name in pairs.
func connectFile(t *testing.T, rest string, clusters ...string) string {
	t.Helper()
	text := "clusters:\n"
	for i := 0; i < len(clusters); i += 2 {
		text += "  - name: " + clusters[i] + "\n    url: " + clusters[i+1] + "\n" + rest
	}
	path := filepath.Join(t.TempDir(), "connect.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConnectPlan(t *testing.T) {
	const canary = "Canary-7f3a"
	var cluster connecttest.Cluster
	cluster.Put("orders", map[string]string{"password": "${secretbroker:cspi:https://vlt.vault.azure.net::db::password}", "plain": canary}, 2, "w:1")
	cluster.Put("paused", map[string]string{"password": "${secretbroker:other:https://vlt.vault.azure.net::db#0123456789abcdef0123456789abcdef::password}"}, 1, "w:1")
	cluster.Put("files", map[string]string{"file": "${file:/x:" + canary + "}", "topic": "t"}, 1, "w:1")
	cluster.Put("second", map[string]string{"password": "${secretbroker:cspi:https://vlt.vault.azure.net::second}"}, 1, "w:1")
	cluster.SetState("orders", 1, "FAILED")
	cluster.SetState("paused", -1, "PAUSED")
	server := httptest.NewServer(&cluster)
	defer server.Close()
	restarts := "    restarts: {include: [\"*\"], exclude: [sec*], workers: [{worker: \"*\", principal: \"dns:w\"}]}\n"
	file := connectFile(t, restarts, "prod", server.URL)

	output, code := run(t, "connect", "plan", "--config", file, "--secret", "https://vlt.vault.azure.net::DB::any")
	for _, want := range []string{
		"orders      RUNNING, 1 of 2 tasks FAILED   password   cspi          placeholder   yes",
		"https://vlt.vault.azure.net::db#0123456789abcdef0123456789abcdef", "no: it is PAUSED", "2 of 4 connectors use 1 secrets", "1 placeholders of the config provider file",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}
	if code != exit.OK || strings.Contains(output, canary) || strings.Contains(output, "second") {
		t.Errorf("exit code %d\n%s", code, output)
	}
	output, code = run(t, "connect", "plan", "--config", file, "--integration", "cspi", "-o", "json")
	var plan ConnectPlanJSON
	if err := json.Unmarshal([]byte(output), &plan); err != nil || code != exit.OK || len(plan.Secrets) != 2 || len(plan.Secrets[0].Uses) != 1 || plan.Secrets[0].Uses[0].JSONKey != "password" {
		t.Errorf("%v, exit code %d\n%s", err, code, output)
	}
	if got := plan.Secrets[1].Uses[0].Restart; !strings.HasPrefix(got, "no: include and exclude") {
		t.Errorf("an excluded connector: %s", got)
	}
	if output, code = run(t, "connect", "plan", "--config", file, "--secret", "https://vlt.vault.azure.net::unused"); code != exit.OK || !strings.Contains(output, "0 of 4 connectors") {
		t.Errorf("exit code %d\n%s", code, output)
	}
}

// What cannot be interpreted, and clusters that do not answer, are told and have exit codes.
func TestConnectPlanIncomplete(t *testing.T) {
	const canary = "Canary-7f3a"
	var cluster connecttest.Cluster
	cluster.Put("orders", map[string]string{"password": "${secretbroker:cspi:" + canary + "}"}, 2, "w:1")
	server, denying := httptest.NewServer(&cluster), httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer denying.Close()
	for _, format := range []string{"table", "json"} {
		output, code := run(t, "connect", "plan", "--config", connectFile(t, "", "prod", server.URL), "-o", format)
		if code != exit.Findings || !strings.Contains(output, "orders") || !strings.Contains(output, "not a reference") || strings.Contains(output, canary) {
			t.Errorf("exit code %d\n%s", code, output)
		}
	}
	file := connectFile(t, "", "prod", server.URL, "second", denying.URL)
	if output, code := run(t, "connect", "plan", "--config", file); code != exit.Denied || !strings.Contains(output, "orders") || !strings.Contains(output, `incomplete: cluster "second"`) {
		t.Errorf("exit code %d\n%s", code, output)
	}
	server.Close()
	if output, code := run(t, "connect", "plan", "--config", file, "--cluster", "prod", "-o", "json"); code != exit.Unreachable || !strings.Contains(output, "cannot be reached") {
		t.Errorf("exit code %d\n%s", code, output)
	}
	for _, args := range [][]string{
		{"--config", file, "--cluster", "absent"}, {"--config", file, "--secret", canary}, {"--config", file, "--integration", "A"}, {"--config", file + "x"}, {"--config", connectFile(t, "", "a", "ftp://x")},
	} {
		if output, code := run(t, append([]string{"connect", "plan"}, args...)...); code != exit.Usage || strings.Contains(output, canary) {
			t.Errorf("%q: exit code %d\n%s", args, code, output)
		}
	}
}
