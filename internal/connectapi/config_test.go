package connectapi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const sample = `
clusters:
  - name: prod
    url: https://connect.example.org:8083
    ca_file: ca.pem
    cert_file: /etc/c.pem
    key_file: /etc/k.pem
    basic: {username: controller, password_file: secret/password}
    other_providers:
      - {alias: azure, form: csid_azure, store: "https://v.vault.azure.net", integration: cspi}
      - {alias: lenses, form: lenses_azure}
    restarts:
      include: ["*"]
      exclude: [legacy-*]
      workers: [{worker: "10.0.0.1:*", principal: "spiffe://example.org/one"}, {worker: "*", principal: "spiffe://example.org/connect"}]
      windows: [{days: [sat], from: "22:00", to: "04:30", zone: Europe/Berlin}]
`

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connect.yaml")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Clusters[0]
	r := c.Restarts
	if c.CAFile != filepath.Join(filepath.Dir(path), "ca.pem") || c.CertFile != "/etc/c.pem" || c.Basic.PasswordFile != filepath.Join(filepath.Dir(path), "secret/password") {
		t.Errorf("files: %+v", c)
	}
	if r.MaxParallel != 1 || time.Duration(r.MinInterval) != 30*time.Second || r.PerHour != 60 || time.Duration(c.Timeout) != 30*time.Second || len(c.Aliases) != 2 {
		t.Errorf("defaults: %+v, %+v", c, r)
	}
	if !r.Allows("orders") || r.Allows("legacy-orders") || (*Restarts)(nil).Allows("orders") {
		t.Error("include and exclude")
	}
	if r.Principal("10.0.0.1:8083") != "spiffe://example.org/one" || r.Principal("10.0.0.2:8083") != "spiffe://example.org/connect" {
		t.Error("principals")
	}
}

// Whatever is unsafe, unknown or half is refused, with its place, and nothing is quoted.
func TestLoadRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"clear text":           {"https://connect.example.org", "http://connect.example.org", "clear text"},
		"clear text with CA":   {"https://connect.example.org", "http://127.0.0.1", "no effect"},
		"password in the URL":  {"https://connect", "https://u:canary@connect", "password"},
		"query":                {":8083", ":8083/?a=canary", "query"},
		"no scheme":            {"https://", "", "expected a URL"},
		"unknown":              {"ca_file", "ca_files", "unknown"},
		"half a certificate":   {"    key_file: /etc/k.pem\n", "", "belong together"},
		"no workers":           {"workers", "exclude2", "unknown"},
		"two credentials":      {"basic:", "bearer_token_file: canary\n    basic:", "exclude each other"},
		"insecure https":       {"ca_file:", "insecure_http: true\n    ca_file:", "not an http"},
		"form":                 {"csid_azure", "csid_canary", "expected one of"},
		"alias twice":          {"alias: lenses", "alias: azure", "same alias"},
		"alias of the broker":  {"alias: azure", "alias: broker", "same alias"},
		"store of lenses":      {"form: lenses_azure", "form: lenses_azure, store: canary", "except lenses_azure"},
		"zone":                 {"Europe/Berlin", "Europe/Canary", "zone"},
		"day":                  {"[sat]", "[samstag]", "days"},
		"no include":           {`["*"]`, "[]", "include"},
		"interval":             {"      exclude", "      min_interval: 1ms\n      exclude", "1s to 1d"},
		"parallel":             {"      exclude", "      max_parallel: 0\n      exclude", "from 1 to 50"},
		"settle above timeout": {"      exclude", "      settle: 20m\n      exclude", ""},
		"no clusters":          {sample[:len("\nclusters:")], "\nclusters: []\nx:", "at least one"},
	} {
		text := strings.Replace(sample, tt.old, tt.new, 1)
		if text == sample {
			t.Fatalf("%s: the sample has no %q", name, tt.old)
		}
		_, err := parse("connect.yaml", []byte(text))
		if name == "settle above timeout" { // the default of the other must hold, too
			tt.want = "longer than settle"
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "connect.yaml:") || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for _, url := range []string{"http://127.0.0.1:8083", "http://[::1]:8083", "http://localhost:8083", "http://connect:8083\n    insecure_http: true"} {
		if _, err := parse("connect.yaml", []byte("clusters:\n  - name: a\n    url: "+url+"\n")); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"a*b*c", "a-b-c", true},
		{"a*b*c", "ac", false}, {"a*a", "a", false}, {"a?", "ab", false}, {"", "a", false}, {"*-*-*", "a-b", false}, {"ab*ba", "aba", false},
	} {
		if Match(tt.pattern, tt.s) != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.s, !tt.want)
		}
	}
}

func TestWindows(t *testing.T) {
	cfg, err := parse("connect.yaml", []byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	r := cfg.Clusters[0].Restarts
	for at, want := range map[string]string{ // UTC; Berlin is an hour ahead in winter and two in summer
		"2026-11-28T20:59:30Z": "2026-11-28T21:00:00Z", // Saturday
		"2026-11-28T21:00:00Z": "2026-11-28T21:00:00Z",
		"2026-11-29T03:29:59Z": "2026-11-29T03:29:59Z", // Sunday morning belongs to it
		"2026-11-29T03:30:00Z": "2026-12-05T21:00:00Z",
		"2026-11-28T02:00:00Z": "2026-11-28T21:00:00Z", // Saturday morning belongs to Friday
		"2026-07-04T20:00:00Z": "2026-07-04T20:00:00Z", // summer
	} {
		t0, _ := time.Parse(time.RFC3339, at)
		if got := r.Open(t0).UTC().Format(time.RFC3339); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
	if now := time.Now(); !(&Restarts{}).Open(now).Equal(now) {
		t.Error("without windows")
	}
}
