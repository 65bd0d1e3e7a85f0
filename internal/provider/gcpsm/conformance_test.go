package gcpsm

import (
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

func TestConformance(t *testing.T) { providertest.Run(t, conformance()) }

func BenchmarkFetch(b *testing.B) { providertest.Bench(b, conformance()) }

func conformance() providertest.Harness {
	const deletes = "in Secret Manager an expiry deletes the secret; a version has no dates"
	return providertest.Harness{
		Start:   startWorld,
		Biggest: 64 << 10, // Secret Manager, "Quotas and limits"
		Exceptions: map[string]string{
			"expired":       deletes,
			"not yet valid": deletes,
		},
	}
}

// world is the embedded Secret Manager with the controls that the suite needs.
type world struct{ *fake }

func startWorld(t testing.TB) *providertest.World {
	f := world{newFake(t)}
	f.change(func(_ *secretmanager.State, p *secretmanager.Project) { p.Secrets = map[string]*secretmanager.Secret{} })
	return &providertest.World{
		Integration:    f.integration(),
		Opener:         Opener(f.Config()),
		Ref:            func(name string) string { return project + "/secrets/" + name },
		Foreign:        "projects/another-project/secrets/db",
		UnknownVersion: "999",
		Put:            f.put,
		Become:         f.become,
		Suffer:         f.suffer,
		Login:          f.login,
		Reads:          f.readCount,
		Private:        []string{"ya29.", "Bearer", "PRIVATE KEY"},
		Log:            f.Logs.String,
	}
}

func (f world) put(_ testing.TB, name string, value []byte) (version string) {
	v := secretmanager.Version{Value: string(value)}
	if !utf8.Valid(value) {
		v = secretmanager.Version{Value: base64.StdEncoding.EncodeToString(value), Base64: true}
	}
	f.change(func(_ *secretmanager.State, p *secretmanager.Project) {
		s := p.Secrets[name]
		if s == nil {
			s = &secretmanager.Secret{}
			p.Secrets[name] = s
		}
		s.Versions = append(s.Versions, v)
		version = strconv.Itoa(len(s.Versions))
	})
	return version
}

func (f world) become(_ testing.TB, name string, state providertest.State) {
	f.change(func(_ *secretmanager.State, p *secretmanager.Project) {
		s := p.Secrets[name]
		switch last := &s.Versions[len(s.Versions)-1]; state {
		case providertest.Disabled:
			last.State = "DISABLED"
		case providertest.Destroyed:
			last.State = "DESTROYED"
		case providertest.Deleted:
			delete(p.Secrets, name)
		case providertest.Forbidden:
			p.Readers = nil // from now on, each secret's own role decides
			for other, s := range p.Secrets {
				if other != name {
					s.Readers = []string{reader}
				}
			}
		}
	})
}

func (f world) suffer(t testing.TB, trouble providertest.Trouble) {
	f.intercept("", nil)
	fault := map[providertest.Trouble]string{providertest.Throttling: "throttled", providertest.Failing: "unavailable"}[trouble]
	f.change(func(_ *secretmanager.State, p *secretmanager.Project) { p.Fault = fault })
	switch trouble {
	case providertest.Unreachable:
		f.Dial[apiHost] = providertest.ClosedPort(t)
	case providertest.Silent:
		f.intercept(apiHost, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	case providertest.Redirecting:
		f.intercept(apiHost, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://stranger.googleapis.com"+r.URL.Path, http.StatusFound)
		})
	case providertest.Garbling:
		f.intercept(apiHost, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>"+r.URL.Path+"</html>") })
	case providertest.Confusing:
		f.intercept(apiHost, func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = strings.Replace(r.URL.Path, "/secrets/db/", "/secrets/other/", 1)
			f.server.ServeHTTP(w, r)
		})
	}
}

func (f world) login(_ testing.TB, fate providertest.Fate) {
	if fate == providertest.Revoked {
		f.server.Revoke()
		return
	}
	f.change(func(s *secretmanager.State, _ *secretmanager.Project) { s.ServiceAccounts[base].PublicKeyPEM = "" })
}
