//go:build unix

package app

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// get returns the status and body of a path of the admin endpoint.
func (r *member) get(t *testing.T, path string) (int, string) {
	t.Helper()
	res, err := http.Get("http://" + r.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func reasonOf(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return string(e.Reason)
	}
	return ""
}

// A broker without its database reports this at once, continues to answer for max_outage,
// and then refuses calls until the database is back.
func TestOutageOfTheDatabase(t *testing.T) {
	c := newCluster(t, 1, "max_outage: 3s")
	c.create("cspi-0")
	r := c.replicas[0]
	cl := c.client(func(cfg *client.Config) { cfg.MaxAttempts = 1 }, r)
	c.await("the integration is there", func() bool { return ask(t.Context(), cl, "cspi-0") == nil })
	c.postgres.Kill()
	killed := time.Now()
	c.await("/readyz reports the outage", func() bool { _, body := r.get(t, "/readyz"); return strings.Contains(body, `"registry"`) })
	if err := ask(t.Context(), cl, "cspi-0"); err != nil && time.Since(killed) < 2*time.Second {
		t.Errorf("a call within max_outage: %v", err)
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "secretbroker_registry_up 0") || !strings.Contains(body, "secretbroker_registry_age_seconds") {
		t.Errorf("the metrics do not tell the outage:\n%s", body)
	}
	c.await("calls are refused", func() bool { return reasonOf(ask(t.Context(), cl, "cspi-0")) == "REGISTRY_UNAVAILABLE" })
	if since := time.Since(killed); since < 2*time.Second {
		t.Errorf("calls are refused after %v already", since)
	}
	if err := ask(t.Context(), cl, "unknown"); reasonOf(err) != "REGISTRY_UNAVAILABLE" {
		t.Errorf("an integration that is not there looks different: %v", err)
	}
	if code, _ := r.get(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz says %d while calls are refused", code)
	}
	if code, _ := r.get(t, "/livez"); code != http.StatusOK {
		t.Errorf("/livez says %d: a restart would not help", code)
	}
	c.postgres.Start()
	c.await("calls are answered again", func() bool { return ask(t.Context(), cl, "cspi-0") == nil })
	if code, body := r.get(t, "/readyz"); code != http.StatusOK || strings.Contains(body, `"registry"`) {
		t.Errorf("/readyz after the outage: %d, %s", code, body)
	}
}

// A broker that was stopped for seconds queries the database before it answers a call from
// its previous state: if the grant was removed, it refuses all calls that arrived in the
// meantime.
func TestStoppedBroker(t *testing.T) {
	c := newCluster(t, 1)
	c.create("cspi-0")
	r := c.replicas[0]
	clients := make([]*client.Client, 8)
	for i := range clients {
		clients[i] = c.client(func(cfg *client.Config) { cfg.MaxAttempts = 1 }, r)
		c.await("the integration is there", func() bool { return ask(t.Context(), clients[i], "cspi-0") == nil })
	}
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	revoked := strings.Replace(strings.Replace(c.document, "id: ID", "id: cspi-0", 1), "spiffe://example.org/connect/*", "spiffe://example.org/else/*", 1)
	if _, err := c.store.Update(t.Context(), registry.Change{Document: []byte(revoked)}); err != nil {
		t.Fatal(err)
	}
	<-time.After(3500*time.Millisecond - time.Since(stopped))
	const calls = 40
	answers := make(chan error, calls)
	for i := range calls {
		go func() { answers <- ask(context.Background(), clients[i%len(clients)], "cspi-0") }()
	}
	<-time.After(200 * time.Millisecond) // by then, the calls are in the broker's sockets
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	served, reasons := 0, make(map[string]int)
	for range calls {
		err := <-answers
		if err == nil {
			served++
		}
		reasons[reasonOf(err)]++
	}
	t.Logf("after a stop of %v: %v", time.Since(stopped).Round(time.Millisecond), reasons)
	if served > 0 {
		t.Errorf("%d calls of %d were answered without the grant", served, calls)
	}
}

// Keys are replaced while brokers run: each step is a changed file and a SIGHUP.
func TestKeysAreExchangedWhileRunning(t *testing.T) {
	c := newCluster(t, 2)
	c.create("cspi-0")
	file := filepath.Join(c.Dir, "registry.key")
	hangup := func() {
		t.Helper()
		for _, r := range c.replicas {
			if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
	}
	logged := func(r *member, text string) func() bool {
		return func() bool { return strings.Count(r.text(), text) > 0 }
	}
	count := func(text string) (n int) {
		for _, r := range c.replicas {
			n += strings.Count(r.text(), text)
		}
		return n
	}
	for i, step := range []func(string) error{seal.Add, seal.Use, seal.Drop} {
		if err := step(file); err != nil {
			t.Fatal(err)
		}
		hangup()
		c.await("all have read the keys", func() bool { return count("msg=reloaded") == len(c.replicas)*(i+1) })
	}
	if n := count("sealed with the current key"); n != 1 {
		t.Errorf("sealed again by %d brokers, want one", n)
	}
	for _, r := range c.replicas {
		c.await("the integration is read again", logged(r, "integration loaded"))
		cl := c.client(nil, r)
		c.await("the credential opens", func() bool { return ask(t.Context(), cl, "cspi-0") == nil })
	}
	// A restarted broker has only the new key.
	r := c.replicas[0]
	c.stop(r, syscall.SIGTERM)
	c.start(r)
	if err := ask(t.Context(), c.client(nil, r), "cspi-0"); err != nil {
		t.Errorf("after a start with the new key alone: %v", err)
	}
}
