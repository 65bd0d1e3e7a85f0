package app

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestAuditLog rotates the audit log of a broker with a key and a copy, and restarts the
// broker: the chain continues, and the heads in the log prove it.
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
	var heads []chain.Head
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
		head, err := chain.ParseHead(logged[1])
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, head)
	}
	key, err := chain.ReadKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := logread.Verify(t.Context(), logread.VerifyConfig{Keys: []*chain.Key{key}, Heads: heads}, []string{path + ".1", path})
	if err != nil || r.Break != nil || r.Records != 6 || heads[1] != r.Last {
		t.Errorf("%d records, last %v, found %v, %v", r.Records, r.Last, r.Break, err)
	}
	buf := make([]byte, 64<<10)
	if n, _, err := collector.ReadFrom(buf); err != nil || !strings.Contains(string(buf[:n]), ` secretbroker `) || !strings.Contains(string(buf[:n]), `"type":"segment"`) {
		t.Errorf("the copy got %q, %v", buf[:n], err)
	}
}

// waitForFile waits until the file exists.
func waitForFile(t *testing.T, path string) {
	t.Helper()
	for t.Context().Err() == nil {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
}

// TestAuditFileRemoved: the broker answers no call while its audit file cannot be created,
// and recovers by itself.
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

// TestOpenAuditRefuses: an incomplete configuration is refused.
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

// TestRequiredCopyAfterRenewal: a required copy uses the certificate that its files contain
// when it connects, so it keeps working after the first certificate has expired.
func TestRequiredCopyAfterRenewal(t *testing.T) {
	dir, ca := t.TempDir(), trusttest.NewCA(t, "collectors")
	to := config.AuditCopy{Required: true, CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "tls.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	put := func(cert *tls.Certificate) {
		trusttest.Put(t, to.CertFile, trusttest.CertPEM(cert))
		trusttest.Put(t, to.KeyFile, trusttest.KeyPEM(t, cert))
	}
	trusttest.Put(t, to.CAFile, ca.PEM())
	old, renewed := ca.Client("spiffe://example.org/broker"), ca.Client("spiffe://example.org/broker")
	put(old)
	collector, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{*ca.Issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	to.Syslog = "tls://" + collector.Addr().String()
	l, err := openAudit(config.Audit{File: filepath.Join(dir, "audit.jsonl"), Copies: []config.AuditCopy{to}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	// accepted returns the client certificate of the collector's next connection.
	accepted := func() (net.Conn, []byte) {
		conn, err := collector.Accept()
		if err != nil {
			t.Error(err)
			return nil, nil
		}
		tlsConn := conn.(*tls.Conn)
		if err := tlsConn.HandshakeContext(t.Context()); err != nil {
			t.Error(err)
			return conn, nil
		}
		return conn, tlsConn.ConnectionState().PeerCertificates[0].Raw
	}
	for i, want := range []*tls.Certificate{old, renewed} {
		put(want)
		written := make(chan error, 1)
		go func() { written <- l.Write(t.Context(), []audit.Event{{RequestID: "r", Outcome: audit.Served}}) }()
		conn, shown := accepted()
		if !bytes.Equal(shown, want.Certificate[0]) {
			t.Errorf("connection %d: another certificate", i)
		}
		if err := <-written; err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
		conn.Close() // as a collector does with a client whose certificate has expired
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestKeysThatOthersMayRead: serve and validate refuse a key file that other users than its
// owner can read or write.
func TestKeysThatOthersMayRead(t *testing.T) {
	for _, name := range []string{"server-key.pem", "audit.key", "copy-key.pem"} {
		for _, mode := range []os.FileMode{0o644, 0o640, 0o620} {
			var configFile string
			_, err := startBroker(t.Context(), t.TempDir(), func(env *devmode.Environment) error {
				configFile = env.ConfigFile
				in := func(name string) string { return filepath.Join(env.Dir, name) }
				return errors.Join(
					os.WriteFile(in("audit.key"), []byte(strings.Repeat("k", 40)), 0o600),
					os.WriteFile(in("copy.pem"), []byte(readFile(env.Worker.CertFile)), 0o600),
					os.WriteFile(in("copy-key.pem"), []byte(readFile(env.Worker.KeyFile)), 0o600),
					edit(env.ConfigFile, "audit: {", "audit: {key_file: audit.key, copies: [{syslog: 'tls://localhost:1', cert_file: copy.pem, key_file: copy-key.pem}], "),
					os.Chmod(in(name), mode),
				)
			})
			var coded *exitError
			if !errors.As(err, &coded) || coded.Code != exitUsage || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("%s with mode %o: serve says %v", name, mode, err)
			}
			validate := newValidateCommand()
			validate.SetArgs([]string{"--config", configFile})
			validate.SilenceErrors, validate.SilenceUsage = true, true
			if err := validate.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "chmod 600") {
				t.Errorf("%s with mode %o: validate says %v", name, mode, err)
			}
		}
	}
}
