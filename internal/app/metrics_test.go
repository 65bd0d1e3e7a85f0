package app

import (
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp/otlptest"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

var update = flag.Bool("update", false, "rewrite the generated documents and golden files")

// stableMetrics are the metrics whose name, type and labels do not change within a major
// version (docs/compatibility.md). Do not remove one. A new metric is experimental until
// it is added here.
var stableMetrics = []string{
	"secretbroker_audit_batches_total",
	"secretbroker_audit_copy_dropped_total",
	"secretbroker_audit_failures_total",
	"secretbroker_audit_records_total",
	"secretbroker_audit_sequence",
	"secretbroker_audit_write_seconds_total",
	"secretbroker_build_info",
	"secretbroker_cache_bytes",
	"secretbroker_cache_entries",
	"secretbroker_cache_evictions_total",
	"secretbroker_cache_lookups_total",
	"secretbroker_cache_rejected_sets_total",
	"secretbroker_cache_stale_answers_total",
	"secretbroker_calls_over_limit_total",
	"secretbroker_configs_total",
	"secretbroker_connections_cut_total",
	"secretbroker_grpc_call_duration_seconds",
	"secretbroker_grpc_calls_total",
	"secretbroker_integrations",
	"secretbroker_integrations_validated",
	"secretbroker_registry_age_seconds",
	"secretbroker_registry_held_integrations",
	"secretbroker_registry_up",
	"secretbroker_registry_writes_up",
	"secretbroker_store_breakers_open",
	"secretbroker_store_read_duration_seconds",
	"secretbroker_store_reads_refused_total",
	"secretbroker_store_reads_running",
	"secretbroker_store_reads_total",
	"secretbroker_store_reads_waiting",
	"secretbroker_store_throttled_total",
	"secretbroker_tls_certificate_expiration_timestamp_seconds",
	"secretbroker_tls_connections_cut_total",
	"secretbroker_tls_handshake_failures_total",
	"secretbroker_tls_reload_failures_total",
}

// metricsFile is a document whose tables TestMetricsAreDocumented generates.
const metricsFile = "../../docs/metrics.md"

// TestMetricsAreDocumented compares docs/metrics.md with the metrics that brokers with
// every optional part register. make docs rewrites the document.
func TestMetricsAreDocumented(t *testing.T) {
	rows, registered := make(map[string]string), make(map[string]bool)
	for _, b := range []*broker{brokerWithFiles(t), brokerWithDatabase(t)} {
		documentMetrics(t, b.metrics, rows)
		descs := make(chan *prometheus.Desc)
		go func() { b.metrics.Describe(descs); close(descs) }()
		for d := range descs {
			registered[describedName.FindStringSubmatch(d.String())[1]] = true
		}
	}
	for name := range registered {
		if strings.HasPrefix(name, "secretbroker_") && rows[name] == "" {
			t.Errorf("%s has no series, so its type and labels are unknown: this test must cause one", name)
		}
	}
	var stable, experimental strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if slices.Contains(stableMetrics, name) {
			stable.WriteString(rows[name])
		} else {
			experimental.WriteString(rows[name])
		}
	}
	for _, name := range stableMetrics {
		if rows[name] == "" {
			t.Errorf("the stable metric %s does not exist", name)
		}
	}
	document := readFile(metricsFile)
	want := replaceSection(t, document, "stable metrics", stable.String())
	want = replaceSection(t, want, "experimental metrics", experimental.String())
	if *update && !t.Failed() {
		if err := os.WriteFile(metricsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, document); diff != "" {
		t.Errorf("docs/metrics.md differs from the registered metrics; check that the change is compatible and run make docs (-want +got):\n%s", diff)
	}
}

// brokerWithFiles returns a broker with every part that has metrics, except a database. It
// has answered a call of each kind.
func brokerWithFiles(t *testing.T) *broker {
	ca := trusttest.NewCA(t, "clients")
	files := ca.Write(t.TempDir())
	collector := otlptest.Start(t, nil)
	audits, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { audits.Close() })
	b := newBroker(t, func(env *devmode.Environment) error {
		if err := tracingTo("endpoint: '" + collector.Addr + "', insecure: true")(env); err != nil {
			return err
		}
		if err := edit(env.ConfigFile, "file: audit.jsonl", "file: audit.jsonl, copies: [{syslog: udp://"+audits.LocalAddr().String()+"}]"); err != nil {
			return err
		}
		return edit(env.ConfigFile, devTLS, fmt.Sprintf("tls: {cert_file: %s, key_file: %s, client_ca_file: %s, crl_files: [%s], trust_domain: example.org}",
			files.Cert, files.Key, files.ClientCA, files.CRL))
	})
	c := b.worker(t, ca, ca.Client(b.Worker.ID))
	if err := read1(t, c); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Check(t.Context(), client.CheckRequest{IntegrationID: devmode.IntegrationID, Configs: map[string]string{"p": vault + "::sqlserver-db-secret"}}); err != nil {
		t.Fatal(err)
	}
	return b
}

// brokerWithDatabase returns a broker that keeps its integrations in SQLite.
func brokerWithDatabase(t *testing.T) *broker {
	file := t.TempDir() + "/registry.db"
	db := newTestDatabase(t, "sqlite: {file: '"+file+"'}", func(c sqlstore.Config) (*sqlstore.Store, error) { return sqlstore.OpenSQLite(t.Context(), file, c) })
	return db.broker(t, t.TempDir())
}

// describedName finds the name in the text of a prometheus.Desc, which has no other access.
var describedName = regexp.MustCompile(`fqName: "([^"]+)"`)

// documentMetrics adds a row of the table for each of the broker's own metrics to rows.
func documentMetrics(t *testing.T, reg *prometheus.Registry, rows map[string]string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		name := f.GetName()
		if !strings.HasPrefix(name, "secretbroker_") {
			continue
		}
		labels := make(map[string]bool)
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels["`"+l.GetName()+"`"] = true
			}
		}
		rows[name] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()),
			strings.Join(slices.Sorted(maps.Keys(labels)), ", "), f.GetHelp())
	}
}

// replaceSection replaces the rows of the table between two comments of a document.
func replaceSection(t *testing.T, document, section, rows string) string {
	t.Helper()
	begin, end := "<!-- begin "+section+" -->\n", "<!-- end "+section+" -->"
	before, rest, ok := strings.Cut(document, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("the document does not have the section %q", section)
	}
	return before + begin + "| metric | type | labels | meaning |\n|---|---|---|---|\n" + rows + end + after
}

// TestCertificateExpirationAbsent: there is no series for what does not expire, because an
// alert on a time in the past would fire for ever.
func TestCertificateExpirationAbsent(t *testing.T) {
	b := newBroker(t, nil)
	page := b.get(t, "/metrics")
	for which, want := range map[string]bool{"server": true, "client_ca": true, "crl": false} {
		if got := strings.Contains(page, `secretbroker_tls_certificate_expiration_timestamp_seconds{which="`+which+`"}`); got != want {
			t.Errorf("a series for %s: %v, want %v", which, got, want)
		}
	}
}

// TestConfigsAreCountedByMethod: values that left the broker can be told from dry runs.
func TestConfigsAreCountedByMethod(t *testing.T) {
	b := newBroker(t, nil)
	c := b.as(t, b.Worker)
	good, bad := vault+"::sqlserver-db-secret", vault+"::oracle-password"
	if _, err := c.Resolve(t.Context(), request("a", good, "b", good)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), request("a", bad)); err == nil {
		t.Fatal("the caller has no grant for this secret")
	}
	if _, err := c.Check(t.Context(), client.CheckRequest{IntegrationID: devmode.IntegrationID, Configs: map[string]string{"a": good, "b": bad}}); err != nil {
		t.Fatal(err)
	}
	page := b.get(t, "/metrics")
	for _, want := range []string{
		`secretbroker_configs_total{method="Resolve",reason="OK"} 2`,
		`secretbroker_configs_total{method="Resolve",reason="ACCESS_DENIED"} 1`,
		`secretbroker_configs_total{method="Check",reason="OK"} 1`,
		`secretbroker_configs_total{method="Check",reason="ACCESS_DENIED"} 1`,
		`secretbroker_grpc_calls_total{code="PERMISSION_DENIED",method="secretbroker.v1.ResolverService/Resolve"} 1`,
		`secretbroker_cache_lookups_total{result="miss"} 1`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("the metrics do not have %s", want)
		}
	}
}
