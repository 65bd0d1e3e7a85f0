package gcpsm

import (
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The errors for refusals by the token endpoints state what to do.
func TestLoginRefused(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, f *fake, in *integration.Integration)
		says    string
	}{
		"key deleted": {func(_ *testing.T, f *fake, _ *integration.Integration) {
			f.change(func(s *secretmanager.State, _ *secretmanager.Project) { s.ServiceAccounts[base].PublicKeyPEM = "" })
		}, "gcp.credential.key_file (invalid_grant)"},
		"account disabled": {func(_ *testing.T, f *fake, _ *integration.Integration) {
			f.change(func(s *secretmanager.State, _ *secretmanager.Project) { s.ServiceAccounts[base].Disabled = true })
		}, "(invalid_grant)"},
		"may not impersonate": {func(_ *testing.T, f *fake, _ *integration.Integration) {
			f.change(func(s *secretmanager.State, _ *secretmanager.Project) { s.ServiceAccounts[reader].TokenCreators = nil })
		}, "Service Account Token Creator"},
		"impersonation API not enabled": {func(_ *testing.T, f *fake, _ *integration.Integration) {
			f.intercept(IAMCredentialsHost, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, apiBody(403, "PERMISSION_DENIED", "not enabled", errorInfo("SERVICE_DISABLED")))
			})
		}, "gcloud services enable iamcredentials"},
		"access scopes of the machine": {func(_ *testing.T, f *fake, _ *integration.Integration) {
			f.intercept(IAMCredentialsHost, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, apiBody(403, "PERMISSION_DENIED", "insufficient authentication scopes", errorInfo("ACCESS_TOKEN_SCOPE_INSUFFICIENT")))
			})
		}, "access scopes"},
		"base token refused": {func(_ *testing.T, f *fake, _ *integration.Integration) {
			f.intercept(IAMCredentialsHost, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
		}, "broker's own identity"},
		"subject token": {func(t *testing.T, f *fake, in *integration.Integration) {
			settingsOf(in).Credential = Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(func(_, source map[string]any) {
				source["file"] = providertest.WriteFile(t, "token", []byte("another "+subject))
			})}
		}, "attribute condition"},
		"no service account on the machine": {func(t *testing.T, f *fake, in *integration.Integration) {
			f.change(func(s *secretmanager.State, _ *secretmanager.Project) { s.Machine = "" })
			f.metadata(t)
			settingsOf(in).Credential = Credential{Type: MetadataServer}
		}, "attach a service account"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			tt.prepare(t, f, in)
			s := f.open(f.Config(), in)
			e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAuthenticationFailed)
			if !strings.Contains(e.Message, tt.says) {
				t.Errorf("message %q does not say %q", e.Message, tt.says)
			}
			if n := f.requests(apiHost); n != 0 {
				t.Errorf("%d requests to Secret Manager without a token", n)
			}
		})
	}
}

// A failure of an endpoint is not reported as a fault of the credential.
func TestLoginTrouble(t *testing.T) {
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "https://stranger.googleapis.com/")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, hook := range map[string]http.HandlerFunc{
		"failing":          say(500, canary),
		"throttling":       say(429, `{"error": "rate_limit_exceeded"}`),
		"redirecting":      say(307, ""),
		"garbling":         say(200, "<html>"+canary+"</html>"),
		"no token":         say(200, `{"token_type": "Bearer", "expires_in": 3600, "x": "`+canary+`"}`),
		"no expiry":        say(200, `{"access_token": "ya29.x", "accessToken": "ya29.x"}`),
		"expiry of text":   say(200, `{"access_token": "ya29.x", "accessToken": "ya29.x", "expires_in": "`+canary+`", "expireTime": "`+canary+`"}`),
		"too large":        say(200, `{"access_token": "`+strings.Repeat("x", 2<<20)+`"}`),
		"connection ended": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		for _, host := range []string{OAuthHost, IAMCredentialsHost, STSHost} {
			t.Run(name+" "+host, func(t *testing.T) {
				f := newFake(t)
				in := f.integration()
				if host == STSHost {
					settingsOf(in).Credential = Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(nil)}
				}
				var passed atomic.Int64
				cfg := f.Config()
				cfg.Now = func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
				s := f.open(cfg, in)
				f.intercept(host, hook)
				e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreUnavailable)
				if !strings.Contains(e.Message, host) {
					t.Errorf("message %q does not name %s", e.Message, host)
				}
				f.intercept("", nil)
				passed.Store(int64(credential.MaxRefusalPause))
				f.Gives(s, project+"/secrets/db", canary)
			})
		}
	}
}

func TestNoMetadataServer(t *testing.T) {
	f := newFake(t)
	t.Setenv(metadataVariable, providertest.ClosedPort(t))
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: MetadataServer}
	s := f.open(f.Config(), in)
	e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreUnavailable)
	if !strings.Contains(e.Message, "only on Google Cloud") {
		t.Errorf("message %q", e.Message)
	}
}

// The token of the other provider is read for every exchange, because it lives for
// minutes.
func TestSubjectTokenIsReadAgain(t *testing.T) {
	f := newFake(t)
	path := providertest.WriteFile(t, "rotating", []byte("expired"))
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(func(_, source map[string]any) {
		source["file"] = path
	})}
	s := f.open(f.Config(), in)
	f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAuthenticationFailed)
	providertest.Must(t, os.Remove(path))
	e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAuthenticationFailed)
	if !strings.Contains(e.Message, "does not exist") {
		t.Errorf("message %q", e.Message)
	}
	providertest.Must(t, os.WriteFile(path, []byte(subject), 0o600))
	f.Gives(s, project+"/secrets/db", canary)
}

// The library does not pass its context to every request. Nevertheless no request
// lasts longer than the timeout of a token.
func TestSilentLogin(t *testing.T) {
	for _, host := range []string{OAuthHost, STSHost, IAMCredentialsHost} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.intercept(host, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			in := f.integration()
			if host == STSHost {
				settingsOf(in).Credential = Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(nil)}
			}
			cfg := f.Config()
			cfg.LoginTimeout = 3 * time.Second
			s := f.open(cfg, in)
			e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreUnavailable)
			if !strings.Contains(e.Message, "within 3s") || !strings.Contains(e.Message, host) {
				t.Errorf("message %q", e.Message)
			}
		})
	}
}

// 200 reads with a key that Google refuses cause one token request.
func TestRefusedKeyIsLeftAlone(t *testing.T) {
	f := newFake(t)
	f.change(func(s *secretmanager.State, _ *secretmanager.Project) { s.ServiceAccounts[base].Disabled = true })
	s := f.open(f.Config(), f.integration())
	for range 200 {
		f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAuthenticationFailed)
	}
	if n := f.requests(OAuthHost); n < 1 || n > 3 { // a slow machine may take longer than a pause
		t.Errorf("%d requests for tokens", n)
	}
}
