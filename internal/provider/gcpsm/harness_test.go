package gcpsm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	project       = "projects/my-project"
	projectNumber = "123456789012"
	eventsOf      = project + "/subscriptions/secretbroker"
	regional      = project + "/locations/europe-west3"
	apiHost       = "secretmanager.googleapis.com"
	regionalHost  = "secretmanager.europe-west3.rep.googleapis.com"
	base          = "broker@my-project.iam.gserviceaccount.com"
	reader        = "reader@my-project.iam.gserviceaccount.com"
	federated     = "principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/subject/broker"
	subject       = "SUBJECT-token-of-the-other-provider"
	canary        = providertest.Canary
)

// fake is Google Cloud: the embedded server with TLS certificates of a CA that only
// integrations with its CAFile trust, and with hooks for faults.
type fake struct {
	*providertest.Env
	server *secretmanager.Server

	mu    sync.Mutex
	state *secretmanager.State
	hosts map[string]int // requests by host
	reads int            // to Secret Manager
	hook  http.HandlerFunc
	only  string // the host that hook handles
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{Env: providertest.NewEnv(t, "ya29.", "Bearer", subject, "PRIVATE KEY", "REFRESH-token"), hosts: make(map[string]int)}
	f.state = &secretmanager.State{
		Projects: map[string]*secretmanager.Project{"my-project": {
			Number: projectNumber, Readers: []string{reader},
			Secrets: map[string]*secretmanager.Secret{"db": {
				Versions: []secretmanager.Version{{Value: "the old one"}, {Value: canary}},
				Aliases:  map[string]int{"stable": 1},
			}},
			Locations: map[string]map[string]*secretmanager.Secret{"europe-west3": {"db": {
				Versions: []secretmanager.Version{{Value: canary + " of the region"}},
			}}},
		}},
		ServiceAccounts: map[string]*secretmanager.ServiceAccount{
			base:   {PublicKeyPEM: publicPEM(t)},
			reader: {TokenCreators: []string{base, federated}},
		},
		SubjectTokens: map[string]string{subject: federated},
		Machine:       base,
		Subscriptions: map[string]*secretmanager.Subscription{eventsOf: {Subscribers: []string{reader}}},
	}
	var err error
	f.server, err = secretmanager.New(f.state, nil)
	providertest.Must(t, err)
	f.Serve(f.Certificate("*.googleapis.com", regionalHost), http.HandlerFunc(f.serve), apiHost, regionalHost, OAuthHost, STSHost, IAMCredentialsHost, pubsubHost)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.hosts[r.Host]++
	if strings.HasPrefix(r.Host, "secretmanager.") {
		f.reads++
	}
	hook := f.hook
	if f.only != r.Host {
		hook = nil
	}
	f.mu.Unlock()
	if hook != nil {
		hook(w, r)
		return
	}
	f.server.ServeHTTP(w, r)
}

// intercept makes hook handle the requests to host; nil removes the hook.
func (f *fake) intercept(host string, hook http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.only, f.hook = host, hook
}

// change edits the state.
func (f *fake) change(edit func(s *secretmanager.State, p *secretmanager.Project)) {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := json.Marshal(f.state)
	providertest.Must(f, err)
	fresh := new(secretmanager.State)
	providertest.Must(f, json.Unmarshal(b, fresh))
	edit(fresh, fresh.Projects["my-project"])
	providertest.Must(f, f.server.Replace(fresh))
	f.state = fresh
}

func (f *fake) requests(host string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hosts[host]
}

func (f *fake) readCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// integration returns an integration that logs in with the broker's key and reads as
// another account.
func (f *fake) integration() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindGCPSecretManager,
		Settings: &Settings{
			Stores:                    []string{project, regional},
			ImpersonateServiceAccount: reader,
			Credential:                Credential{Type: ServiceAccountKey, KeyFile: f.keyFile(base)},
			CAFile:                    f.CAFile, Dial: f.Dial,
		},
	}
}

// keyFile returns a key file as the console writes it.
func (f *fake) keyFile(account string) string {
	return writeJSONFile(f, map[string]string{
		"type": "service_account", "project_id": "my-project", "private_key_id": "k1", "private_key": privatePEM(f),
		"client_email": account, "client_id": "1", "auth_uri": "https://accounts.google.com/o/oauth2/auth",
		"token_uri": "https://oauth2.googleapis.com/token", "universe_domain": "googleapis.com",
	})
}

// Config returns a configuration with timeouts that suit tests on a busy machine.
func (f *fake) Config() provider.Config {
	cfg := f.Env.Config()
	cfg.TryTimeout, cfg.LoginTimeout = time.Minute, time.Minute
	return cfg
}

func (f *fake) open(cfg provider.Config, in *integration.Integration) *store {
	f.Helper()
	return f.Open(Opener(cfg), in).(*store)
}

// rsaKey is generated once, because that is slow.
var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func privatePEM(t testing.TB) string {
	t.Helper()
	key, err := rsaKey()
	providertest.Must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	providertest.Must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func publicPEM(t testing.TB) string {
	t.Helper()
	key, err := rsaKey()
	providertest.Must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	providertest.Must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func writeJSONFile(t testing.TB, doc any) string {
	t.Helper()
	b, err := json.Marshal(doc)
	providertest.Must(t, err)
	return providertest.WriteFile(t, "credential.json", b)
}

// printed returns all that fmt's reflection finds in v.
func printed(v any) string { return fmt.Sprintf("%v %+v %#v", v, v, v) }
