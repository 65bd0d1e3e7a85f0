package secretmanager_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
)

const (
	machine = "machine@my-project.iam.gserviceaccount.com"
	reader  = "reader@my-project.iam.gserviceaccount.com"
	db      = "https://secretmanager.googleapis.com/v1/projects/my-project/secrets/db/versions/latest:access"
)

func base() secretmanager.State {
	return secretmanager.State{
		Machine:         machine,
		ServiceAccounts: map[string]*secretmanager.ServiceAccount{machine: {}, reader: {TokenCreators: []string{machine}}},
	}
}

func project() map[string]*secretmanager.Project {
	return map[string]*secretmanager.Project{"my-project": {
		Number: "1", Readers: []string{machine},
		Secrets: map[string]*secretmanager.Secret{"db": {Versions: []secretmanager.Version{{Value: "v1"}}}},
	}}
}

// ask sends a request and returns the status and the body.
func ask(s http.Handler, method, target string, header http.Header, body string) (int, string) {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func bearer(text string) http.Header { return http.Header{"Authorization": {"Bearer " + text}} }

// machineToken returns a token of the metadata server.
func machineToken(t *testing.T, s http.Handler) string {
	t.Helper()
	status, body := ask(s, http.MethodGet, "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token", http.Header{"Metadata-Flavor": {"Google"}}, "")
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); status != 200 || err != nil || answer.AccessToken == "" {
		t.Fatalf("HTTP %d, %v", status, err)
	}
	return answer.AccessToken
}

func TestTokens(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	state := base()
	state.Projects = project()
	s, err := secretmanager.New(&state, func() time.Time { return now })
	must(t, err)
	tok := machineToken(t, s)
	status, body := ask(s, http.MethodGet, db, bearer(tok), "")
	if status != 200 || !strings.Contains(body, `"projects/1/secrets/db/versions/1"`) || !strings.Contains(body, `"djE="`) {
		t.Errorf("HTTP %d: %s", status, body)
	}
	now = now.Add(time.Hour)
	if status, _ := ask(s, http.MethodGet, db, bearer(tok), ""); status != 401 {
		t.Errorf("HTTP %d for an expired token", status)
	}
	tok = machineToken(t, s)
	s.Revoke()
	if status, _ := ask(s, http.MethodGet, db, bearer(tok), ""); status != 401 {
		t.Errorf("HTTP %d for a revoked token", status)
	}
	if s.Reads() != 1 || s.Issued() != 2 {
		t.Errorf("%d reads, %d tokens", s.Reads(), s.Issued())
	}
}

// TestRefused: the fake refuses requests that no client of Google makes, as Google does.
func TestRefused(t *testing.T) {
	state := base()
	state.Projects = project()
	s, err := secretmanager.New(&state, nil)
	must(t, err)
	tok := bearer(machineToken(t, s))
	const token, impersonate = "https://oauth2.googleapis.com/token", "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
	form := func(values url.Values) string { return values.Encode() }
	formHeader := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for name, tt := range map[string]struct {
		method, target string
		header         http.Header
		body           string
		status         int
	}{
		"no token":                {http.MethodGet, db, nil, "", 401},
		"unknown token":           {http.MethodGet, db, bearer("ya29.x"), "", 401},
		"another method":          {http.MethodPost, db, tok, "", 404},
		"another operation":       {http.MethodGet, strings.TrimSuffix(db, ":access"), tok, "", 404},
		"another location":        {http.MethodGet, strings.Replace(db, "secretmanager.", "secretmanager.us-east1.rep.", 1), tok, "", 400},
		"metadata without header": {http.MethodGet, "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token", nil, "", 403},
		"no assertion":            {http.MethodPost, token, formHeader, form(url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}}), 400},
		"unsigned assertion":      {http.MethodPost, token, formHeader, form(url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {"e30.eyJpc3MiOiJtYWNoaW5lIn0."}}), 400},
		"another grant":           {http.MethodPost, token, formHeader, form(url.Values{"grant_type": {"password"}}), 400},
		"unknown subject token":   {http.MethodPost, "https://sts.googleapis.com/v1/token", formHeader, form(url.Values{"subject_token": {"x"}}), 400},
		"impersonation, unknown":  {http.MethodPost, impersonate + "nobody@x:generateAccessToken", tok, `{"scope": ["s"]}`, 403},
		"impersonation of itself": {http.MethodPost, impersonate + machine + ":generateAccessToken", tok, `{"scope": ["s"]}`, 403},
		"impersonation, no scope": {http.MethodPost, impersonate + reader + ":generateAccessToken", tok, `{}`, 400},
		"unauthenticated":         {http.MethodPost, impersonate + reader + ":generateAccessToken", nil, `{"scope": ["s"]}`, 401},
	} {
		if status, body := ask(s, tt.method, tt.target, tt.header, tt.body); status != tt.status {
			t.Errorf("%s: HTTP %d, want %d: %s", name, status, tt.status, body)
		}
	}
	status, _ := ask(s, http.MethodPost, impersonate+reader+":generateAccessToken", tok, `{"scope": ["s"]}`)
	if status != 200 {
		t.Errorf("HTTP %d for an impersonation that is allowed", status)
	}
}

func TestFaultyState(t *testing.T) {
	long := strings.Repeat("x", 64<<10+1)
	for want, edit := range map[string]func(p *secretmanager.Project){
		"has no number":          func(p *secretmanager.Project) { p.Number = "my-project" },
		"fault: expected one of": func(p *secretmanager.Project) { p.Fault = "broken" },
		"is not base64": func(p *secretmanager.Project) {
			p.Secrets["db"].Versions[0] = secretmanager.Version{Value: "%", Base64: true}
		},
		"is larger than":         func(p *secretmanager.Project) { p.Secrets["db"].Versions[0].Value = long },
		"the state of version 1": func(p *secretmanager.Project) { p.Secrets["db"].Versions[0].State = "PENDING" },
		"refers to no version":   func(p *secretmanager.Project) { p.Secrets["db"].Aliases = map[string]int{"a": 2} },
		"secret db is empty":     func(p *secretmanager.Project) { p.Secrets["db"] = nil },
	} {
		state := base()
		state.Projects = project()
		edit(state.Projects["my-project"])
		if _, err := secretmanager.New(&state, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestFile: the file may be edited while the Server runs. Invalid content changes nothing, is
// logged once, and no message quotes it.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.yaml")
	var log bytes.Buffer
	write := func(text string) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
	const good = `{projects: {my-project: {number: "1", readers: [` + machine + `], delay: 1ms, secrets: {db: {versions: [{value: VALUE}]}}}}}`
	write(strings.Replace(good, "VALUE", "one", 1))
	s, err := secretmanager.Open(secretmanager.FileConfig{Path: path, Base: base(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	tok := bearer(machineToken(t, s))
	want := func(data string) {
		t.Helper()
		if status, body := ask(s, http.MethodGet, db, tok, ""); status != 200 || !strings.Contains(body, `"`+data+`"`) {
			t.Errorf("HTTP %d: %s", status, body)
		}
	}
	want("b25l")
	write(strings.Replace(good, "VALUE", "two", 1))
	want("dHdv")
	for _, broken := range []string{"", strings.Replace(good, "VALUE", "[tr0ub4dor]", 1), "{projects: {x: {number: tr0ub4dor}}}", "{tr0ub4dor: 1}", "\n\ttr0ub4dor"} {
		log.Reset()
		write(broken)
		want("dHdv")
		want("dHdv")
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 || strings.Contains(log.String(), "tr0ub4dor") {
			t.Errorf("%q: logged %d times: %s", broken, n, log.String())
		}
		if _, err := secretmanager.Open(secretmanager.FileConfig{Path: path}); err == nil || strings.Contains(err.Error(), "tr0ub4dor") {
			t.Errorf("%q: opened with %v", broken, err)
		}
	}
	must(t, os.Remove(path))
	want("dHdv")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
