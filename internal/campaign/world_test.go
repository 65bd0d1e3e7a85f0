package campaign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectapi/connecttest"
	"github.com/secretbroker/secretbroker/internal/connectmap"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

const (
	dbSecret  = "https://my-vault.vault.azure.net::orders-db"
	principal = "spiffe://example.org/connect"
)

// world is a cluster whose connectors read one secret through a broker.
type world struct {
	t       *testing.T
	cluster *connecttest.Cluster
	cfg     connectapi.Cluster
	engine  Config

	mu      sync.Mutex
	current string   // the version in the store
	answers []string // what the broker answers instead to the next reads
	down    error    // what Refresh returns
	reads   []Read
	saved   []*Campaign
	saveErr error
	fetches int
	offset  time.Duration // of the broker's clock
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, current: "v2"}
	w.cluster = &connecttest.Cluster{RestartTime: 3 * time.Second, Start: func(connector string, _ int, _ string) bool { w.read(connector); return true }}
	d := func(t time.Duration) strictyaml.Duration { return strictyaml.Duration(t) }
	w.cfg = connectapi.Cluster{
		Name: "prod", URL: "http://127.0.0.1:8083", Timeout: d(30 * time.Second), Aliases: []string{"secretbroker"},
		Restarts: &connectapi.Restarts{
			Include: []string{"*"}, Exclude: []string{"legacy-*"}, Workers: []connectapi.Worker{{Worker: "w*", Principal: principal}},
			MaxParallel: 1, MinInterval: d(10 * time.Second), PerHour: 1000, Settle: d(20 * time.Second), StuckAfter: d(time.Minute), VerifyTimeout: d(5 * time.Minute),
		},
	}
	w.engine = Config{Broker: w, Store: w, Selects: func(*connectmap.Use) bool { return true }}
	return w
}

func (w *world) put(name string, tasks int) {
	w.cluster.Put(name, map[string]string{"password": "${secretbroker:cspi:" + dbSecret + "::password}"}, tasks, "w1:8083", "w2:8083")
}

// read is a Resolve of a connector or task.
func (w *world) read(connector string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	version := w.current
	if len(w.answers) > 0 {
		version, w.answers = w.answers[0], w.answers[1:]
	}
	w.record(principal, "", version)
	_ = connector
}

func (w *world) record(principal, connector, version string) {
	now := time.Now().Add(w.offset)
	for i := range w.reads {
		if r := &w.reads[i]; r.Principal == principal && r.Connector == connector && r.Version == version {
			r.LastTime = now
			return
		}
	}
	w.reads = append(w.reads, Read{
		Integration: "cspi", Principal: principal, Connector: connector, Store: "https://my-vault.vault.azure.net", Secret: "orders-db", JSONKey: "password",
		Version: version, FirstTime: now, LastTime: now, RequestID: fmt.Sprint("request-", len(w.reads)), AuditSequence: int64(len(w.reads)),
	})
}

func (w *world) Refresh(_ context.Context, integration string, references []string) (map[string]Fresh, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetches++
	if w.down != nil || integration != "cspi" {
		return nil, w.down
	}
	read := make(map[string]Fresh)
	for _, r := range references {
		read[r] = Fresh{w.current, time.Now().Add(w.offset)}
	}
	return read, nil
}

func (w *world) Reads(_ context.Context, _ string, of secret.Ref) ([]Read, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if of.Name != "orders-db" {
		return nil, errors.New("another secret")
	}
	return slices.Clone(w.reads), nil
}

func (w *world) Save(_ context.Context, c *Campaign) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.saveErr == nil {
		w.saved = append(w.saved, c)
	}
	return w.saveErr
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// campaign makes a campaign of the cluster's connectors.
func (w *world) campaign(singleUser bool) *Campaign {
	client := connectapi.NewWithTransport(w.cfg, w.cluster)
	list, err := client.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine.Clusters = map[string]Cluster{"prod": {w.cfg, client}}
	return New("id", time.Now(), singleUser, []Listed{{w.cfg, list}}, w.engine.Selects)
}

// run runs a campaign for at most the given time, and returns its final state.
func (w *world) run(c *Campaign, within time.Duration) *Campaign {
	w.t.Helper()
	e, err := NewEngine(w.engine, c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	if err := e.Run(ctx); err != nil {
		w.t.Errorf("after %s: %v; %s", within, err, states(e.Campaign()))
	}
	return e.Campaign()
}

// states formats a campaign for a comparison: its state, and each connector's.
func states(c *Campaign) string {
	text := string(c.State)
	for _, it := range c.Connectors {
		text += " " + it.Name + "=" + string(it.State)
	}
	return text
}

func (w *world) expect(c *Campaign, want string) {
	w.t.Helper()
	if got := states(c); got != want {
		w.t.Errorf("got  %s\nwant %s", got, want)
		for _, it := range c.Connectors {
			w.t.Logf("%s: %q, missing %q", it.Name, it.Reason, it.Missing)
		}
		w.t.Log(c.Reason)
	}
}

// test runs a test in a bubble with a fake clock.
func test(t *testing.T, name string, f func(t *testing.T, w *world)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) }) })
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "connect.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
