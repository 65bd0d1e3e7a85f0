package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// broker is a whole broker under test: the ordinary wiring over real TLS, on
// development mode's configuration and embedded Key Vault.
type broker struct {
	*devmode.Environment
	addr, admin string
	metrics     *prometheus.Registry
	log         *asynctest.Buffer
	hangups     chan os.Signal
	stop        func() error
}

// startBroker starts a broker in dir. change, if not nil, may edit the files
// before it starts.
func startBroker(ctx context.Context, dir string, change func(*devmode.Environment) error) (*broker, error) {
	return startBrokerWith(ctx, devmode.Options{Dir: dir}, change)
}

// startBrokerWith is startBroker with stores of other clouds in addition to the Key Vault.
func startBrokerWith(ctx context.Context, opts devmode.Options, change func(*devmode.Environment) error) (*broker, error) {
	b := &broker{log: &asynctest.Buffer{}, hangups: make(chan os.Signal, 1)}
	log := slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	opts.Listen, opts.AdminListen, opts.VaultListen, opts.Logger = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", log
	env, err := devmode.Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	b.Environment = env
	if change != nil {
		if err := change(env); err != nil {
			return nil, errors.Join(err, env.Close())
		}
	}
	cfg, err := config.Load(env.ConfigFile)
	if err != nil {
		return nil, errors.Join(err, env.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan listening, 1), make(chan error, 1)
	go func() {
		ended <- serve(ctx, cfg, log, process{
			hangups: b.hangups,
			reload:  func() (*config.Config, error) { return config.Load(env.ConfigFile) },
			onReady: func(l listening) { ready <- l },
		})
	}()
	b.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		return errors.Join(err, env.Close())
	})
	select {
	case l := <-ready:
		b.addr, b.admin, b.metrics = l.addr.String(), l.adminAddr.String(), l.metrics
		return b, nil
	case err := <-ended:
		cancel()
		return nil, errors.Join(err, env.Close())
	}
}

// newBroker starts a broker for one test.
func newBroker(t *testing.T, change func(*devmode.Environment) error) *broker {
	t.Helper()
	b, err := startBroker(context.Background(), t.TempDir(), change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Log(b.log.String())
		}
	})
	return b
}

// as returns a client with that identity that tries everything once.
func (b *broker) as(t *testing.T, who devmode.Identity) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Addrs: []string{b.addr}, CAFile: b.CAFile, CertFile: who.CertFile, KeyFile: who.KeyFile, MaxAttempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// edit replaces text in a file like an editor: it writes a new file and renames it.
func edit(file, old, replacement string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), old) {
		return errors.New(file + " does not contain " + old)
	}
	return replace(file, strings.Replace(string(data), old, replacement, 1))
}

func replace(file, content string) error { return keyfile.Replace(file, []byte(content)) }

// auditText returns the audit log's text.
func (b *broker) auditText(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.Dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// get reads a page of the admin endpoint.
func (b *broker) get(t *testing.T, path string) string {
	t.Helper()
	conn, err := net.Dial("tcp", b.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if path == "/readyz" {
		checkProblems(t, string(body))
	}
	return string(body)
}

// reported finds the reasons in an answer of /readyz.
var reported = regexp.MustCompile(`"component":"([a-z]+)","reason":"([A-Z_]+)"`)

// checkProblems fails the test if an answer of /readyz has a problem whose component and
// reason are not in the table of docs/operations.md.
func checkProblems(t *testing.T, body string) {
	t.Helper()
	found := reported.FindAllStringSubmatch(body, -1)
	if len(found) != strings.Count(body, `"component"`) {
		t.Errorf("a problem without a component or a reason: %s", body)
	}
	for _, m := range found {
		if !strings.Contains(readFile("../../docs/operations.md"), "| `"+m[1]+"` | `"+m[2]+"` | ") {
			t.Errorf("docs/operations.md does not have the problem %s %s", m[1], m[2])
		}
	}
}
