package connectapi_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectapi/connecttest"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// canary is what no error may contain.
const canary = "Canary-7f3a"

func newClient(t *testing.T, c connectapi.Cluster) *connectapi.Client {
	t.Helper()
	c.Name = "test"
	if c.Timeout == 0 {
		c.Timeout = strictyaml.Duration(30 * time.Second)
	}
	client, err := connectapi.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCalls(t *testing.T) {
	var cluster connecttest.Cluster
	const name = "a/b ?%"
	cluster.Put(name, map[string]string{"p": canary}, 2, "w1:8083", "w2:8083")
	cluster.Put("other", map[string]string{}, 0, "w1:8083")
	cluster.SetState(name, 1, connectapi.StateFailed)
	server := httptest.NewServer(http.StripPrefix("/prefix", &cluster))
	defer server.Close()
	c := newClient(t, connectapi.Cluster{URL: server.URL + "/prefix/"})
	list, err := c.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != name || list[0].Config["p"] != canary || list[0].State != connectapi.StateRunning {
		t.Fatalf("%+v, %v", list, err)
	}
	one, err := c.Get(t.Context(), name)
	want := []connectapi.Task{{ID: 0, State: "RUNNING", WorkerID: "w2:8083"}, {ID: 1, State: "FAILED", WorkerID: "w1:8083"}}
	if err != nil || !slices.Equal(one.Tasks, want) || !slices.Equal(list[0].Tasks, want) || one.WorkerID != "w1:8083" || !maps.Equal(one.Config, list[0].Config) {
		t.Errorf("%+v, %v", one, err)
	}
	if err := c.Restart(t.Context(), name); err != nil || !slices.Equal(cluster.Restarts(), []string{name}) {
		t.Errorf("%v, %q", err, cluster.Restarts())
	}
	for _, err := range []error{c.Restart(t.Context(), "absent"), second(c.Get(t.Context(), "absent")), second(c.Status(t.Context(), "absent"))} {
		if connectapi.KindOf(err) != connectapi.NotFound {
			t.Errorf("absent: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Errors have a kind and say what to do, and quote nothing that the cluster sent.
func TestRefusals(t *testing.T) {
	var status atomic.Int64
	var followed atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/followed" {
			followed.Store(true)
		}
		w.Header().Set("Location", "/followed")
		w.WriteHeader(int(status.Load()))
		if status.Load() != http.StatusNoContent {
			_, _ = io.WriteString(w, `{"message":"`+canary+`"}`)
		}
	}))
	defer server.Close()
	c := newClient(t, connectapi.Cluster{URL: server.URL})
	for _, tt := range []struct {
		status   int
		get, set connectapi.Kind
		text     string
	}{
		{409, connectapi.Conflict, connectapi.Conflict, "rebalancing"},
		{404, connectapi.NotFound, connectapi.NotFound, "no such connector"},
		{401, connectapi.Denied, connectapi.Denied, "credential"},
		{403, connectapi.Denied, connectapi.Denied, "credential"},
		{307, connectapi.Failed, connectapi.Failed, "redirect"},
		{429, connectapi.Unavailable, connectapi.Unavailable, "overloaded"},
		{500, connectapi.Unavailable, connectapi.Uncertain, "failed (500)"},
		{503, connectapi.Unavailable, connectapi.Uncertain, "failed (503)"},
		{204, connectapi.Failed, connectapi.Failed, ""},
		{418, connectapi.Failed, connectapi.Failed, "418"},
	} {
		status.Store(int64(tt.status))
		get, set := second(c.List(t.Context())), c.Restart(t.Context(), "c")
		if connectapi.KindOf(get) != tt.get || connectapi.KindOf(set) != tt.set {
			t.Errorf("%d: %v, %v", tt.status, get, set)
		}
		for _, err := range []error{get, set} {
			if !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), `cluster "test"`) {
				t.Errorf("%d: %v", tt.status, err)
			}
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
	status.Store(204)
	if err := c.Restart(t.Context(), "c"); !strings.Contains(err.Error(), "3.0") {
		t.Errorf("a worker without includeTasks: %v", err)
	}
}

// An answer that is not of Connect, or not complete, is an error and not an empty list.
func TestStrangeAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"names only": `["a"]`, "html": "<html>" + canary, "no configuration": `{"a":{"status":{"connector":{"state":"RUNNING"}}}}`,
		"empty": "", "cut off": `{"a":{"info":{"config":{"x":"` + canary, "wrong type": `{"a":{"info":{"config":["` + canary + `"]}}}`,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		c := newClient(t, connectapi.Cluster{URL: server.URL})
		for _, err := range []error{second(c.List(t.Context())), second(c.Get(t.Context(), "a")), second(c.Status(t.Context(), "a"))} {
			if connectapi.KindOf(err) != connectapi.Failed || strings.Contains(err.Error(), canary) {
				t.Errorf("%s: %v", name, err)
			}
		}
		server.Close()
	}
}

// A value that is not text is named, because it may contain a reference.
func TestUnreadableProperty(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"a":{"info":{"config":{"list":["x"],"null":null,"n":1,"text":"t"}},"status":{"connector":{"state":"NEW_STATE"}}}}`)
	}))
	defer server.Close()
	list, err := newClient(t, connectapi.Cluster{URL: server.URL}).List(t.Context())
	if err != nil || !slices.Equal(list[0].Unreadable, []string{"list", "n"}) || len(list[0].Config) != 1 || list[0].State != "NEW_STATE" {
		t.Errorf("%+v, %v", list, err)
	}
}

// A restart whose answer did not arrive may have happened; a read has not.
func TestHangs(t *testing.T) {
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(end)
	c := newClient(t, connectapi.Cluster{URL: server.URL, Timeout: strictyaml.Duration(50 * time.Millisecond)})
	get, set := second(c.List(t.Context())), c.Restart(t.Context(), "c")
	if connectapi.KindOf(get) != connectapi.Unavailable || connectapi.KindOf(set) != connectapi.Uncertain || !strings.Contains(set.Error(), "timeout") {
		t.Errorf("%v, %v", get, set)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Restart(ctx, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	err = newClient(t, connectapi.Cluster{URL: "http://" + l.Addr().String()}).Restart(t.Context(), "c")
	if connectapi.KindOf(err) != connectapi.Unavailable || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("nothing listens: %v", err)
	}
}

// TestTLS: the client checks the server and presents its certificate; renewed credentials
// count for the next request.
func TestTLS(t *testing.T) {
	ca, other := trusttest.NewCA(t, "ours"), trusttest.NewCA(t, "other")
	var user, password atomic.Value
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		user.Store(u)
		password.Store(p + r.Header.Get("X-None"))
		_, _ = io.WriteString(w, "{}")
	}))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*ca.DNS("connect.example.org")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool()}
	server.StartTLS()
	defer server.Close()
	cert, key := file(t, "c.pem", ""), file(t, "k.pem", "")
	trusttest.PutPair(t, ca.Client("spiffe://example.org/controller"), cert, key)
	cluster := connectapi.Cluster{
		URL: server.URL, ServerName: "connect.example.org", CAFile: file(t, "ca.pem", string(ca.PEM())), CertFile: cert, KeyFile: key,
		Basic: &connectapi.Basic{Username: "u", PasswordFile: file(t, "password", canary+"\n")},
	}
	c := newClient(t, cluster)
	if _, err := c.List(t.Context()); err != nil || user.Load() != "u" || password.Load() != canary {
		t.Fatal(err, user.Load())
	}
	trusttest.Put(t, cluster.Basic.PasswordFile, []byte("next"))
	if _, err := c.List(t.Context()); err != nil || password.Load() != "next" {
		t.Error("a changed password is not used", err)
	}
	for text, change := range map[string]func(*connectapi.Cluster){
		"set ca_file":      func(c *connectapi.Cluster) { c.CAFile = file(t, "ca.pem", string(other.PEM())) },
		"for another host": func(c *connectapi.Cluster) { c.ServerName = "" },
	} {
		changed := cluster
		change(&changed)
		if err := second(newClient(t, changed).List(t.Context())); connectapi.KindOf(err) != connectapi.Failed || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q: %v", text, err)
		}
	}
	open := cluster
	open.Basic = &connectapi.Basic{Username: "u", PasswordFile: file(t, "password", canary)}
	if err := os.Chmod(open.Basic.PasswordFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := connectapi.New(open); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("a password file that everyone can read: %v", err)
	}
}
