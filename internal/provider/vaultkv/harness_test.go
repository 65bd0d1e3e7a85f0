package vaultkv

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	address  = "https://example.com:8200" // the certificate of net/http/httptest is valid for this name
	roleID   = "role-of-the-test"
	secretID = "secret-id-of-the-test"
)

// front is a proxy in front of a server, the fake or a real one. It counts requests
// and injects faults.
type front struct {
	next   http.Handler
	server *httptest.Server
	CAFile string
	Logs   providertest.Log

	mu      sync.Mutex
	trouble providertest.Trouble
	reads   int
	// paths are the requests that arrived, as "METHOD path".
	paths []string
	// namespaces are the namespaces that requests named.
	namespaces map[string]bool
}

func newFront(t testing.TB, next http.Handler) *front {
	t.Helper()
	f := &front{next: next, namespaces: make(map[string]bool)}
	f.server = httptest.NewUnstartedServer(f)
	f.server.EnableHTTP2 = true
	f.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	f.CAFile = providertest.WriteFile(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})))
	return f
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	isRead := r.Method == http.MethodGet && !strings.HasPrefix(r.URL.Path, "/v1/auth/") && !strings.HasPrefix(r.URL.Path, "/v1/sys/")
	f.mu.Lock()
	if isRead {
		f.reads++
	}
	f.paths = append(f.paths, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/"))
	f.namespaces[r.Header.Get("X-Vault-Namespace")] = true
	trouble := f.trouble
	f.mu.Unlock()
	if !isRead {
		trouble = ""
	}
	switch trouble {
	case providertest.Throttling:
		w.Header().Set("Retry-After", "2")
		providertest.WriteJSON(w, http.StatusTooManyRequests, `{"errors":["request path \"x\": rate limit quota exceeded"]}`)
	case providertest.Silent:
		<-r.Context().Done()
	case providertest.Failing:
		providertest.WriteJSON(w, http.StatusInternalServerError, `{"errors":["internal error"]}`)
	case providertest.Redirecting:
		http.Redirect(w, r, "https://active.example.com:8200"+r.URL.Path, http.StatusTemporaryRedirect)
	case providertest.Garbling:
		_, _ = io.WriteString(w, "<html>Vault</html>")
	default:
		f.next.ServeHTTP(w, r)
	}
}

func (f *front) suffer(_ testing.TB, trouble providertest.Trouble) {
	f.mu.Lock()
	f.trouble = trouble
	f.mu.Unlock()
	if trouble == providertest.Unreachable {
		_ = f.server.Listener.Close()
		f.server.CloseClientConnections()
	}
}

func (f *front) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// requests returns how many requests begin with prefix.
func (f *front) requests(prefix string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, p := range f.paths {
		if strings.HasPrefix(p, prefix) {
			n++
		}
	}
	return n
}

// integration returns an integration that reads through the front and logs in with
// AppRole.
func (f *front) integration(t testing.TB, role, id string) *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindHashiCorpVault,
		Settings: &Settings{
			Address: address, CAFile: f.CAFile, Dial: f.server.Listener.Addr().String(),
			Mounts: []Mount{
				{Path: "secret", Engine: KV2}, {Path: "legacy", Engine: KV1},
				{Path: "team/deep/kv", Engine: KV2}, {Path: "database", Engine: Dynamic},
			},
			Auth: Auth{Type: AppRole, Mount: "approle", RoleID: role, SecretIDFile: providertest.WriteFile(t, "secret-id", id+"\n")},
		},
	}
}

func (f *front) Config() provider.Config {
	return provider.Config{Logger: slog.New(slog.NewTextHandler(&f.Logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

func (f *front) open(t testing.TB, cfg provider.Config, in *integration.Integration) *store {
	t.Helper()
	p, err := Opener(cfg)(t.Context(), in)
	providertest.Must(t, err)
	t.Cleanup(func() { providertest.Must(t, p.Close()) })
	return p.(*store)
}

func fetch(t testing.TB, p provider.Provider, name string) *secret.Secret {
	t.Helper()
	got, err := p.Fetch(t.Context(), ref(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return got
}

func fails(t testing.TB, p provider.Provider, name string, want secret.Reason) *secret.Error {
	t.Helper()
	_, err := p.Fetch(t.Context(), ref(t, name))
	e := secret.AsError(err)
	if err == nil || e.Reason != want {
		t.Fatalf("%s: %v, want %s", name, err, want)
	}
	return e
}

func ref(t testing.TB, name string) secret.Ref {
	t.Helper()
	r, err := secret.ParseRef(address + "::" + name)
	providertest.Must(t, err)
	return r
}

func text(t testing.TB, s *secret.Secret, key string) string {
	t.Helper()
	v, err := s.Select(key)
	providertest.Must(t, err)
	return v.Reveal()
}

// document returns a KV secret with one field.
func document(text string) string {
	b, err := json.Marshal(map[string]string{"value": text})
	if err != nil {
		panic(err)
	}
	return string(b)
}
