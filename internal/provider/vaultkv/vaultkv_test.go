package vaultkv

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestEnvironmentStaysOut: the vendors' clients read settings from the environment; a
// process that serves many integrations must not.
func TestEnvironmentStaysOut(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_ADDR": "https://evil.example.com", "VAULT_AGENT_ADDR": "https://evil.example.com", "VAULT_TOKEN": "hvs.of-the-environment",
		"VAULT_NAMESPACE": "evil", "VAULT_HEADERS": `{"X-Evil":"1"}`, "VAULT_SKIP_VERIFY": "not a boolean", "VAULT_CACERT": "/none",
		"VAULT_CLIENT_CERT": "/none", "VAULT_TLS_SERVER_NAME": "evil", "VAULT_PROXY_ADDR": "http://127.0.0.1:1", "VAULT_RATE_LIMIT": "x",
		"VAULT_CLIENT_TIMEOUT": "x", "VAULT_MAX_RETRIES": "x", "BAO_ADDR": "https://evil.example.com", "BAO_TOKEN": "s.evil",
	} {
		t.Setenv(name, value)
	}
	v := newFake()
	v.put("secret/db", `{"password":"p"}`)
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			if text := fmt.Sprint(name, values); strings.Contains(strings.ToLower(text), "evil") || strings.Contains(text, "environment") {
				t.Errorf("the environment is sent: %s", text)
			}
		}
		v.ServeHTTP(w, r)
	}))
	in := f.integration(t, roleID, secretID)
	fetch(t, f.open(t, f.Config(), in), "secret/db")
	if f.namespaces["evil"] || len(f.namespaces) != 1 {
		t.Errorf("namespaces %v", f.namespaces)
	}
}

func TestNamespaceAndPaths(t *testing.T) {
	v := newFake()
	v.put("team/deep/kv/a/b", `{"password":"p"}`)
	f := newFront(t, v)
	in := f.integration(t, roleID, secretID)
	settingsOf(in).Namespace = "org/team"
	fetch(t, f.open(t, f.Config(), in), "team/deep/kv/a/b")
	if len(f.namespaces) != 1 || !f.namespaces["org/team"] {
		t.Errorf("namespaces %v", f.namespaces)
	}
	want := "POST auth/approle/login GET team/deep/kv/data/a/b"
	if got := strings.Join(f.paths, " "); got != want {
		t.Errorf("requests %q, want %q", got, want)
	}
}

// TestWrongAnswers: a response that does not belong to the request is not served.
func TestWrongAnswers(t *testing.T) {
	const canary = "CANARY"
	for name, tc := range map[string]struct {
		ref, body string
		status    int
		want      secret.Reason
	}{
		"another version":             {"secret/db#3", `{"data":{"data":{"a":"CANARY"},"metadata":{"version":4}}}`, 200, secret.ReasonStoreUnavailable},
		"no metadata":                 {"secret/db", `{"data":{"data":{"a":"CANARY"}}}`, 200, secret.ReasonStoreUnavailable},
		"version 1 for 2":             {"secret/db", `{"data":{"a":"CANARY"}}`, 200, secret.ReasonStoreUnavailable},
		"version 2 for 1":             {"legacy/db", `{"data":{"data":{"a":"CANARY"},"metadata":{"version":4}}}`, 200, secret.ReasonStoreUnavailable},
		"lease for version 1":         {"legacy/db", `{"lease_id":"l","data":{"a":"CANARY"}}`, 200, secret.ReasonStoreUnavailable},
		"deleted, but 200":            {"secret/db", `{"data":{"data":{"a":"CANARY"},"metadata":{"version":1,"deletion_time":"2020-01-01T00:00:00Z"}}}`, 200, secret.ReasonSecretDisabled},
		"destroyed, but 200":          {"secret/db", `{"data":{"data":{"a":"CANARY"},"metadata":{"version":1,"destroyed":true}}}`, 200, secret.ReasonSecretDisabled},
		"odd deletion":                {"secret/db", `{"data":{"data":{"a":"CANARY"},"metadata":{"version":1,"deletion_time":"CANARY"}}}`, 200, secret.ReasonSecretDisabled},
		"null":                        {"secret/db", `{"data":{"data":null,"metadata":{"version":1}}}`, 200, secret.ReasonStoreUnavailable},
		"a string":                    {"secret/db", `{"data":{"data":"CANARY","metadata":{"version":1}}}`, 200, secret.ReasonStoreUnavailable},
		"nothing":                     {"legacy/db", `{}`, 200, secret.ReasonStoreUnavailable},
		"a list":                      {"legacy/db", `["CANARY"]`, 200, secret.ReasonStoreUnavailable},
		"cut off":                     {"legacy/db", `{"data":{"a":"CANARY"`, 200, secret.ReasonStoreUnavailable},
		"wrapped":                     {"legacy/db", `{"wrap_info":{"token":"CANARY"},"data":{"a":"CANARY"}}`, 200, secret.ReasonStoreUnavailable},
		"no content":                  {"legacy/db", ``, 204, secret.ReasonStoreUnavailable},
		"wrong engine":                {"legacy/db", `{"warnings":["Invalid path for a versioned K/V secrets engine. CANARY"],"data":null}`, 404, secret.ReasonSecretNotFound},
		"sealed":                      {"secret/db", `{"errors":["Vault is sealed CANARY"]}`, 503, secret.ReasonStoreUnavailable},
		"standby":                     {"secret/db", `{"errors":[]}`, 473, secret.ReasonStoreUnavailable},
		"bad request":                 {"secret/db", `{"errors":["CANARY"]}`, 400, secret.ReasonStoreUnavailable},
		"version of version 1":        {"legacy/db#1", ``, 0, secret.ReasonInvalidReference},
		"no mount":                    {"other/db", ``, 0, secret.ReasonStoreNotAllowed},
		"the mount itself":            {"team/deep/kv", ``, 0, secret.ReasonStoreNotAllowed},
		"a mount that only begins so": {"secretly/db", ``, 0, secret.ReasonStoreNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			v := newFake()
			f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/v1/auth/") {
					v.ServeHTTP(w, r)
					return
				}
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			}))
			s := f.open(t, f.Config(), f.integration(t, roleID, secretID))
			e := fails(t, s, tc.ref, tc.want)
			if strings.Contains(fmt.Sprintf("%+v %s", e, f.Logs.String()), canary) {
				t.Errorf("the answer is quoted: %v", e)
			}
			if tc.want == secret.ReasonStoreUnavailable && tc.status == 200 && !errors.Is(e, storeerror.ErrAnswered) {
				t.Errorf("an answer is taken for silence: %v", e)
			}
			if tc.status == 0 && f.count() != 0 {
				t.Error("a request was sent")
			}
		})
	}
}

// TestDeniedPathsCauseNoLogins: for the client, a path that the policy denies looks
// like an ended token. The store asks the server about the token and does not replace
// it.
func TestDeniedPathsCauseNoLogins(t *testing.T) {
	v := newFake()
	v.put("secret/db", `{"a":"b"}`)
	v.denied["secret/data/db"] = true
	f := newFront(t, v)
	s := f.open(t, f.Config(), f.integration(t, roleID, secretID))
	for range 5 {
		fails(t, s, "secret/db", secret.ReasonStoreAccessDenied)
	}
	if v.logins != 1 {
		t.Errorf("%d logins", v.logins)
	}
}

// TestRefusedTokensCauseFewLogins: if a server refuses every token, the store does
// not log in with every read.
func TestRefusedTokensCauseFewLogins(t *testing.T) {
	v := newFake()
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.revoke()
		v.ServeHTTP(w, r)
	}))
	s := f.open(t, f.Config(), f.integration(t, roleID, secretID))
	for range 10 {
		fails(t, s, "secret/db", secret.ReasonStoreAccessDenied)
	}
	if v.logins > 3 {
		t.Errorf("%d logins in 10 reads", v.logins)
	}
}

// TestFailingLoginsAreShared: a caller that arrives right after a failed login gets
// its error.
func TestFailingLoginsAreShared(t *testing.T) {
	v := newFake()
	v.login = func(w http.ResponseWriter, _ *http.Request) { providertest.WriteJSON(w, 400, `{"errors":["CANARY"]}`) }
	f := newFront(t, v)
	now := time.Now()
	cfg := f.Config()
	cfg.Now = func() time.Time { return now }
	s := f.open(t, cfg, f.integration(t, roleID, secretID))
	for range 10 {
		fails(t, s, "secret/db", secret.ReasonStoreAuthenticationFailed)
	}
	if v.logins != 1 {
		t.Errorf("%d logins", v.logins)
	}
	now = now.Add(credential.RefusalPause)
	v.mu.Lock()
	v.login = nil
	v.mu.Unlock()
	v.put("secret/db", `{"a":"b"}`)
	fetch(t, s, "secret/db")
}

func TestLoginBodies(t *testing.T) {
	token := providertest.WriteFile(t, "jwt", "header.body.signature\n")
	for _, tc := range []struct {
		auth Auth
		path string
		want map[string]string
	}{
		{Auth{Type: AppRole, Mount: "apps/approle", RoleID: "r", SecretIDFile: providertest.WriteFile(t, "id", " s \n")}, "auth/apps/approle/login", map[string]string{"role_id": "r", "secret_id": "s"}},
		{Auth{Type: JWT, Mount: "jwt", Role: "r", TokenFile: token}, "auth/jwt/login", map[string]string{"role": "r", "jwt": "header.body.signature"}},
		{Auth{Type: Kubernetes, Mount: "k8s", Role: "r", TokenFile: token}, "auth/k8s/login", map[string]string{"role": "r", "jwt": "header.body.signature"}},
	} {
		v := newFake()
		v.put("secret/db", `{"a":"b"}`)
		v.login = func(w http.ResponseWriter, _ *http.Request) {
			v.tokens["hvs.x"] = true
			providertest.WriteJSON(w, 200, `{"auth":{"client_token":"hvs.x","lease_duration":0}}`)
		}
		f := newFront(t, v)
		in := f.integration(t, "", "")
		settingsOf(in).Auth = tc.auth
		fetch(t, f.open(t, f.Config(), in), "secret/db")
		if got := fmt.Sprint(v.proofs[tc.path]); got != fmt.Sprint(tc.want) {
			t.Errorf("%s: %s, want %v", tc.path, got, tc.want)
		}
	}
}

// TestSetup: opening reports settings that cannot work, by name.
func TestSetup(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Settings)
		want   string
	}{
		"no CA file": {func(v *Settings) { v.CAFile = "/none" }, "vault.ca_file"},
		"no client key": {func(v *Settings) {
			v.Auth = Auth{Type: Cert, CertificateFile: v.CAFile}
		}, "vault.auth.certificate_file"},
		"http": {func(v *Settings) { v.Address = "http://example.com" }, "vault.address"},
	} {
		f := newFront(t, newFake())
		in := f.integration(t, roleID, secretID)
		tc.change(settingsOf(in))
		_, err := Opener(f.Config())(t.Context(), in)
		if e := secret.AsError(err); e.Reason != secret.ReasonStoreAuthenticationFailed || !strings.Contains(e.Message, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCloseEndsWaiting: Close ends the wait of callers for a login.
func TestCloseEndsWaiting(t *testing.T) {
	arrived := make(chan struct{})
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}))
	p, err := Opener(f.Config())(t.Context(), f.integration(t, roleID, secretID))
	providertest.Must(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), ref(t, "secret/db"))
		done <- err
	}()
	<-arrived
	providertest.Must(t, p.Close())
	if e := secret.AsError(<-done); e.Reason != secret.ReasonStoreUnavailable {
		t.Error(e)
	}
	f.suffer(t, providertest.Unreachable)
}

// TestVaultLarge: a secret above the limit fails permanently. Another response of that size
// is an outage.
func TestVaultLarge(t *testing.T) {
	body, mediaType := "", "application/json"
	v := newFake()
	f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			v.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		fmt.Fprint(w, body)
	}))
	p := f.open(t, f.Config(), f.integration(t, roleID, secretID))
	body = `{"data": {"data": {"k": "` + strings.Repeat("x", maxBody) + `"}, "metadata": {"version": 1}}}`
	e := fails(t, p, "secret/db", secret.ReasonSecretTooLarge)
	if e.RetryAfter != 0 || !strings.Contains(e.Message, "1048576 bytes") {
		t.Errorf("%v, retry after %v", e, e.RetryAfter)
	}
	mediaType = "text/html"
	fails(t, p, "secret/db", secret.ReasonStoreUnavailable)
}
