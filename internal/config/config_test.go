package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

func TestLoad(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		file string
		want Config
	}{
		{"full.yaml", Config{
			Listen:      "0.0.0.0:8443",
			AdminListen: "[::1]:9090",
			TLS: TLS{
				CertFile:     filepath.Join(dir, "tls/server.crt"),
				KeyFile:      "/etc/secretbroker/tls/server.key",
				ClientCAFile: filepath.Join(filepath.Dir(dir), "ca.crt"),
				CRLFiles:     []string{filepath.Join(dir, "ca.crl"), "/etc/secretbroker/tls/other.crl"},
				TrustDomain:  "example.org",
			},
			Registry: registryIn(filepath.Join(dir, "integrations")),
			Cache:    Cache{TTL: strictyaml.Duration(90 * time.Second), MaxBytes: 1 << 20},
			Audit: Audit{File: "/var/log/secretbroker/audit.jsonl", Sync: AuditSyncNone, KeyFile: filepath.Join(dir, "audit.key"), Copies: []AuditCopy{
				{Syslog: "unix:///dev/log", Required: true},
				{Syslog: "tls://logs.example.org:6514", CAFile: "/etc/secretbroker/logs-ca.pem", CertFile: filepath.Join(dir, "tls/logs.crt"), KeyFile: filepath.Join(dir, "tls/logs.key")},
			}},
			Roles:    Roles{ResourceOwner: []string{"spiffe://example.org/ops/owner"}, Assigner: []string{"spiffe://example.org/ops/assigner"}, Auditor: []string{"spiffe://example.org/ops/*", "dns:audit.example.org"}, Rotator: []string{"spiffe://example.org/ops/rotator"}},
			Limits:   Limits{2 << 20, 10, 9, 8, 1024, 100, 64 << 10, 7, 6, 5, 4, 3, 16},
			Watch:    Watch{VersionKeyFile: filepath.Join(dir, "version.key"), Splay: strictyaml.Duration(3 * time.Second), ExpiryLead: strictyaml.Duration(time.Hour), MaxStreamsPerPrincipal: 1, MaxStreams: 2, MaxItemsPerPrincipal: 3, MaxItems: 4, MaxSecretsPerPrincipal: 5, MaxReadsPerSecond: 6},
			Events:   Events{Sources: []EventSource{{File: filepath.Join(dir, "events", "aws.yaml"), Integrations: []string{"cspi-sqlserver", "team-*", "*"}}}},
			Shutdown: Shutdown{DrainDelay: 0, Timeout: strictyaml.Duration(time.Minute)},
			Memory:   Memory{Limit: 512 << 20, Lock: true},
			Tracing: Tracing{
				Endpoint: "collector.example.org:4317", CAFile: filepath.Join(dir, "tls/collector-ca.pem"),
				CertFile: "/etc/secretbroker/tls/traces.crt", KeyFile: filepath.Join(dir, "tls/traces.key"),
				ServiceName: "secretbroker-eu", MaxCallsPerSecond: 7,
			},
			Usage:      Usage{Window: strictyaml.Duration(48 * time.Hour), Retention: defaultUsage().Retention},
			Validation: Validation{AtStart: true, Every: strictyaml.Duration(time.Hour)},
			Placement: Placement{
				Kinds: []string{"AZURE_KEY_VAULT"}, Clouds: []string{"azure"}, Regions: []string{"westeurope"},
				Same: "region", CallerPath: "/connect/{cloud}/{region}",
				Callers: []PlacedCallers{{Principals: []string{"dns:*.example.org"}, Cloud: "azure", Region: "westeurope"}},
			},
		}},
		{"minimal.yaml", Config{
			Listen:      "127.0.0.1:8443",
			AdminListen: "127.0.0.1:8081",
			TLS: TLS{
				CertFile:     filepath.Join(dir, "server.crt"),
				KeyFile:      filepath.Join(dir, "server.key"),
				ClientCAFile: filepath.Join(dir, "ca.crt"),
			},
			Registry: registryIn(filepath.Join(dir, "integrations")),
			Cache:    Cache{TTL: strictyaml.Duration(5 * time.Minute), MaxBytes: 64 << 20},
			Audit:    Audit{File: AuditStdout, Sync: AuditSyncBatch},
			Usage:    defaultUsage(),
			Limits:   Limits{1 << 20, 1000, 128, 64, 2048, 512, 256 << 10, 256, 256, 5000, 128 * cpulimit.CPUs(), 1024 * cpulimit.CPUs(), 1000},
			Watch:    defaultWatch(),
			Tracing:  defaultTracing(),
			Shutdown: Shutdown{DrainDelay: strictyaml.Duration(5 * time.Second), Timeout: strictyaml.Duration(15 * time.Second)},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			got, err := Load(filepath.Join("testdata", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// registryIn is a registry with the directory.
func registryIn(dir string) Registry {
	r := defaultRegistry()
	r.Directory.Path = dir
	return r
}

func TestLoadNoFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "secretbroker.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("err = %v, want fs.ErrNotExist", err)
	}
	large := filepath.Join(t.TempDir(), "secretbroker.yaml")
	if err := os.WriteFile(large, make([]byte, strictyaml.MaxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("err = %v, want one of the size", err)
	}
}

// tail has all required settings, on lines that the tests do not count.
const tail = `
tls: {cert_file: a, key_file: b, client_ca_file: c}
registry: {directory: {path: d}}
audit: {file: e}
`

// auditTail is tail with another audit setting, all on line 1.
func auditTail(setting string) string {
	return "audit: {file: e, " + setting + "}" + strings.Replace(tail, "audit: {file: e}\n", "", 1)
}

// faultTest is a faulty file and its faults.
type faultTest struct{ name, data, want string }

func generalFaults() []faultTest {
	const (
		badAddress = `expected an address to listen on, host:port, such as "127.0.0.1:8443" or ":8443"`
		noCert     = "tls.cert_file: missing; it is required: the PEM file with the server's certificate chain"
		noKey      = "tls.key_file: missing; it is required: the PEM file with the server's private key"
		noCA       = "tls.client_ca_file: missing; it is required: the PEM file with the authorities of the client certificates"
		noDir      = "registry: missing; it is required: where the integrations are, such as {directory: {path: integrations/}}, or a database, sqlite or postgres"
		noAudit    = `audit.file: missing; it is required: the file that audit records are appended to, or "stdout"`
	)
	return []faultTest{
		{"empty", "", "b.yaml:1: the file is empty"},
		{"not YAML", "listen: [\n", "b.yaml:2: not YAML, here or soon after: did not find expected node content"},
		{"all missing", "\nlisten: :1\n", "b.yaml:2: " + noCert + "\nb.yaml:2: " + noKey + "\nb.yaml:2: " + noCA + "\nb.yaml:2: " + noDir + "\nb.yaml:2: " + noAudit},
		{"no certificate", "registry: {directory: {path: d}}\naudit: {file: e}\ntls:\n  key_file: b\n  client_ca_file: c\n", "b.yaml:3: " + noCert},
		{"no key", "registry: {directory: {path: d}}\naudit: {file: e}\ntls:\n  cert_file: b\n  client_ca_file: c\n", "b.yaml:3: " + noKey},
		{"no client CA", "registry: {directory: {path: d}}\naudit: {file: e}\ntls:\n  cert_file: b\n  key_file: c\n", "b.yaml:3: " + noCA},
		{"empty sections", "registry: {directory: {path: d}}\naudit:\ntls:\n", "b.yaml:2: " + noAudit + "\nb.yaml:3: " + noCert + "\nb.yaml:3: " + noKey + "\nb.yaml:3: " + noCA},
		{"empty value", "registry: {directory: {path: d}}\naudit: {file: e}\ntls:\n  cert_file: a\n  key_file: b\n  client_ca_file: \"\"\n", "b.yaml:6: tls.client_ca_file: there is no value; add a value or remove the setting"},
		{"TLS is text", "registry: {directory: {path: d}}\naudit: {file: e}\ntls: off\n", "b.yaml:3: tls: expected a section of settings (name: value), found a single value"},

		{"listen without port", "listen: 127.0.0.1" + tail, "b.yaml:1: listen: " + badAddress},
		{"listen with name of a port", "listen: localhost:https" + tail, "b.yaml:1: listen: " + badAddress},
		{"listen with large port", "listen: localhost:65536" + tail, "b.yaml:1: listen: " + badAddress},
		{"listen is a URL", "listen: https://localhost:1" + tail, "b.yaml:1: listen: " + badAddress},
		{"admin_listen", "admin_listen: \"8081\"" + tail, "b.yaml:1: admin_listen: " + badAddress},
		{"same address", "listen: :1\nadmin_listen: :1" + tail, "b.yaml:2: admin_listen: the same address as listen; use another port"},

		{"ttl too short", "cache:\n  ttl: 999ms" + tail, "b.yaml:2: cache.ttl: expected 1s to 24h"},
		{"ttl zero", "cache:\n  ttl: 0s" + tail, "b.yaml:2: cache.ttl: expected 1s to 24h"},
		{"ttl negative", "cache:\n  ttl: -5m" + tail, "b.yaml:2: cache.ttl: expected 1s to 24h"},
		{"ttl too long", "cache:\n  ttl: 24h1s" + tail, "b.yaml:2: cache.ttl: expected 1s to 24h"},
		{"ttl without unit", "cache:\n  ttl: 300" + tail, `b.yaml:2: cache.ttl: expected a duration with its unit, such as "30s", "5m" or "90d"`},
		{"max_bytes too small", "cache:\n  max_bytes: 1023KiB" + tail, "b.yaml:2: cache.max_bytes: expected at least 1MiB"},
		{"max_bytes zero", "cache:\n  max_bytes: 0" + tail, "b.yaml:2: cache.max_bytes: expected at least 1MiB"},
		{"max_bytes text", "cache:\n  max_bytes: all" + tail, `b.yaml:2: cache.max_bytes: expected an amount of bytes, such as "64MiB"`},

		{"auditor that is not a principal", "roles:\n  auditor:\n    - spiffe://example.org/a\n    - anybody" + tail, `b.yaml:4: roles.auditor[1]: expected a SPIFFE ID ("spiffe://...") or "dns:HOST"`},
		{"a request too large", "limits:\n  max_request_bytes: 1GiB" + tail, "b.yaml:2: limits.max_request_bytes: expected 65536 to 16777216"},
		{"no secrets", "limits:\n  max_secrets: 0" + tail, "b.yaml:2: limits.max_secrets: expected 1 to 1000"},
		{"no calls", "limits:\n  max_calls_per_second_per_principal: 0" + tail, "b.yaml:2: limits.max_calls_per_second_per_principal: expected 1 to 1000000"},
		{"no calls at a time", "limits:\n  max_concurrent_calls: 0" + tail, "b.yaml:2: limits.max_concurrent_calls: expected 1 to 10000000"},
		{"no calls at a time for one", "limits:\n  max_concurrent_calls_per_principal: 1000001" + tail, "b.yaml:2: limits.max_concurrent_calls_per_principal: expected 1 to 1000000"},
		{"a long drain", "shutdown:\n  drain_delay: 1h" + tail, "b.yaml:2: shutdown.drain_delay: expected 0s to 5m"},
		{"no time to finish", "shutdown: {timeout: 0s}" + tail, "b.yaml:1: shutdown.timeout: expected 1s to 5m"},
		{"a negative limit", "limits: {max_configs: -1}" + tail, "b.yaml:1: limits.max_configs: expected 1 to 100000"},

		{"sync", auditTail("sync: always"), "b.yaml:1: audit.sync: expected batch or none"},
		{"a copy without address", auditTail("copies: [{required: true}]"), "b.yaml:1: audit.copies[0].syslog: missing; it is required: the URL of a collector, such as tls://HOST:6514"},
		{"a copy to a website", auditTail("copies: [{syslog: 'https://h:1'}]"), "b.yaml:1: audit.copies[0].syslog: expected unix:///dev/log, udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT"},
		{"a copy with authorities and no TLS", auditTail("copies: [{syslog: 'tcp://h:1', ca_file: x}]"), "b.yaml:1: audit.copies[0]: ca_file, cert_file and key_file go with tls:// only"},
		{"half an identity", auditTail("copies: [{syslog: 'tls://h:1', cert_file: x}]"), "b.yaml:1: audit.copies[0]: cert_file and key_file go together"},
		{"required datagrams", auditTail("copies: [{syslog: 'udp://h:1', required: true}]"), "b.yaml:1: audit.copies[0].required: udp does not report lost records; use tcp, tls or unix"},

		{"a source of events without a file", "events: {sources: [{integrations: ['*']}]}" + tail, "b.yaml:1: events.sources[0].file: missing; it is required: a file in the format of an integration, with the settings of the source and without grants"},
		{"a source of events for nothing", "events: {sources: [{file: a, integrations: []}]}" + tail, `b.yaml:1: events.sources[0].integrations: an empty list is a source for no integration; use ["*"] for all`},
		{"a source of events for anything", "events: {sources: [{file: a}]}" + tail, `b.yaml:1: events.sources[0].integrations: missing; it is required: the ids of the integrations that the source is for, such as ["team-a-*"], or ["*"] for all`},
		{"a source of events for no id", "events: {sources: [{file: a, integrations: [a, 'b*c']}]}" + tail, `b.yaml:1: events.sources[0].integrations[1]: expected the id of an integration, or the beginning of ids followed by "*"`},

		{"too little memory", "memory: {limit: 63MiB}" + tail, "b.yaml:1: memory.limit: expected at least 64MiB, or 0 for no limit"},
		{"a lock that is neither", "memory: {lock: maybe}" + tail, "b.yaml:1: memory.lock: expected true or false, without quotes"},

		{"unknown", "listne: :1" + tail, `b.yaml:1: unknown setting "listne"; did you mean "listen"?`},
		{"unknown in section", "cache:\n  size: 1" + tail, `b.yaml:2: cache: unknown setting "size"; known here: ttl, max_bytes`},
		{"duplicate", "listen: :1\nlisten: :2" + tail, `b.yaml:2: "listen" is set twice, first on line 1`},

		{"all at once", "listen: x\ncache: {ttl: 1}\ntls: {cert_file: a, kye_file: b}\nregistry: {directory: {path: d}}\n",
			"b.yaml:1: listen: " + badAddress + "\nb.yaml:1: " + noAudit + "\n" +
				`b.yaml:2: cache.ttl: expected a duration with its unit, such as "30s", "5m" or "90d"` + "\n" +
				`b.yaml:3: tls: unknown setting "kye_file"; did you mean "key_file"?` + "\n" +
				"b.yaml:3: " + noKey + "\nb.yaml:3: " + noCA},
	}
}

func TestFaults(t *testing.T) {
	for _, tt := range generalFaults() {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("b.yaml", []byte(tt.data))
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			var faults strictyaml.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("err is a %T, want strictyaml.Faults", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Two listeners on port 0 get different ports.
func TestAnyFreePort(t *testing.T) {
	if _, err := Parse("b.yaml", []byte("listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0"+tail)); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"full.yaml", "minimal.yaml", "spiffe.yaml", "registry.yaml"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("listen: 1" + tail))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("b.yaml", data)
		if err != nil {
			return
		}
		from := 0
		for _, path := range []string{c.Registry.Directory.Path, c.Registry.SQLite.File, c.Registry.Postgres.URL} {
			if path != "" {
				from++
			}
		}
		if from != 1 {
			t.Errorf("accepted with %d sources of integrations", from)
		}
		for _, path := range []string{c.TLS.CertFile, c.TLS.KeyFile, c.TLS.ClientCAFile} {
			if spiffe := c.SPIFFE.Socket != "" && c.SPIFFE.TrustDomain != ""; filepath.IsAbs(path) == spiffe {
				t.Errorf("accepted with the path %q", path)
			}
		}
		if ttl := time.Duration(c.Cache.TTL); ttl < MinTTL || ttl > MaxTTL || c.Cache.MaxBytes < MinMaxBytes || c.Audit.File == "" {
			t.Errorf("accepted: %+v", c)
		}
	})
}
