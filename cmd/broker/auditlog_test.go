package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestAuditLog takes a broker with a key and a copy through a rotation and a
// restart: the chain goes on, the heads stand in the log and prove it.
func TestAuditLog(t *testing.T) {
	collector, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	dir := t.TempDir()
	change := func(env *devmode.Environment) error {
		return errors.Join(
			os.WriteFile(filepath.Join(env.Dir, "audit.key"), []byte(strings.Repeat("k", 40)+"\n"), 0o600),
			edit(env.ConfigFile, "file: audit.jsonl", "file: audit.jsonl, key_file: audit.key, copies: [{syslog: udp://"+collector.LocalAddr().String()+"}]"),
		)
	}
	path := filepath.Join(dir, "audit.jsonl")
	var heads []audit.Head
	for range 2 {
		b, err := startBroker(t.Context(), dir, change)
		if err != nil {
			t.Fatal(err)
		}
		resolve := func() {
			t.Helper()
			if _, err := b.as(t, b.Worker).Resolve(t.Context(), request("p", vault+"::sqlserver-db-secret")); err != nil {
				t.Fatal(err)
			}
		}
		resolve()
		if len(heads) == 0 {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			b.hangups <- syscall.SIGHUP
			waitForFile(t, path)
			resolve()
			metrics := b.get(t, "/metrics")
			for _, line := range []string{
				"secretbroker_audit_records_total 4", "secretbroker_audit_batches_total 2", "secretbroker_audit_write_seconds_total ", "secretbroker_audit_failures_total 0",
				"secretbroker_audit_sequence 4", "secretbroker_audit_queue_bytes 0",
				`secretbroker_audit_copy_dropped_total{copy="0"} 0`, `secretbroker_audit_copy_queue_bytes{copy="0"}`, `secretbroker_audit_copy_sent_total{copy="0"}`,
			} {
				if !strings.Contains(metrics, "\n"+line) {
					t.Errorf("metrics lack %s", line)
				}
			}
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		logged := regexp.MustCompile(`msg="audit head" head=(\S+)`).FindStringSubmatch(b.log.String())
		if logged == nil {
			t.Fatal("no head in the log")
		}
		head, err := audit.ParseHead(logged[1])
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, head)
	}
	key, err := audit.ReadKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := audit.Verify(t.Context(), audit.VerifyConfig{Keys: []*audit.Key{key}, Heads: heads}, []string{path + ".1", path})
	if err != nil || r.Faults() != 0 || r.Records != 6 || heads[1] != r.Last {
		t.Errorf("%d records, last %v, found %q, %v", r.Records, r.Last, r.Findings, err)
	}
	buf := make([]byte, 64<<10)
	if n, _, err := collector.ReadFrom(buf); err != nil || !strings.Contains(string(buf[:n]), ` secretbroker `) || !strings.Contains(string(buf[:n]), `"marker":"opened"`) {
		t.Errorf("the copy got %q, %v", buf[:n], err)
	}
}

// waitForFile waits until the file is there.
func waitForFile(t *testing.T, path string) {
	t.Helper()
	for t.Context().Err() == nil {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
}

// TestAuditFileRemoved: nothing leaves whose record nobody could read, and the
// broker recovers by itself.
func TestAuditFileRemoved(t *testing.T) {
	logs := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(logs, "audit.jsonl")
	b := newBroker(t, func(env *devmode.Environment) error {
		return edit(env.ConfigFile, "file: audit.jsonl", "file: "+file)
	})
	c := b.as(t, b.Worker)
	resolve := func() error {
		_, err := c.Resolve(t.Context(), request("p", vault+"::sqlserver-db-secret"))
		return err
	}
	if err := resolve(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(logs); err != nil {
		t.Fatal(err)
	}
	var e *client.Error
	if err := resolve(); !errors.As(err, &e) || e.Reason != "AUDIT_UNAVAILABLE" {
		t.Errorf("without a directory: %v", err)
	}
	if ready := b.get(t, "/readyz"); !strings.Contains(ready, "audit") {
		t.Errorf("readyz: %s", ready)
	}
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := resolve(); err != nil {
		t.Errorf("with the directory back: %v", err)
	}
	if text := readFile(file); !strings.Contains(text, `"outcome":"served"`) {
		t.Errorf("the new file: %q", text)
	}
}

// TestOpenAuditRefuses: what is half there does not start.
func TestOpenAuditRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.jsonl")
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]config.Audit{
		"no directory":     {File: filepath.Join(dir, "none", "audit.jsonl")},
		"no key":           {File: file, KeyFile: filepath.Join(dir, "none")},
		"a short key":      {File: file, KeyFile: short},
		"no authorities":   {File: file, Copies: []config.AuditCopy{{Syslog: "tls://h:1", CAFile: filepath.Join(dir, "none")}}},
		"bad authorities":  {File: file, Copies: []config.AuditCopy{{Syslog: "tls://h:1", CAFile: short}}},
		"no certificate":   {File: file, Copies: []config.AuditCopy{{Syslog: "tls://h:1", CertFile: short, KeyFile: short}}},
		"no such protocol": {File: file, Copies: []config.AuditCopy{{Syslog: "http://h:1"}}},
	} {
		if l, err := openAudit(cfg, nil); err == nil {
			t.Errorf("%s: opened", name)
			_ = l.Close()
		}
	}
}
