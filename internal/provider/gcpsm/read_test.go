package gcpsm

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestVersionsAndAliases(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for in, want := range map[string]struct{ value, version string }{
		project + "/secrets/db":                 {canary, "2"},
		project + "/secrets/db/versions/latest": {canary, "2"},
		project + "/secrets/db#1":               {"the old one", "1"},
		project + "/secrets/db#stable":          {"the old one", "1"},
		regional + "/secrets/db":                {canary + " of the region", "1"},
	} {
		if version := f.Gives(s, in, want.value); version != want.version {
			t.Errorf("%s: version %s, want %s", in, version, want.version)
		}
	}
	if n := f.requests(regionalHost); n != 1 {
		t.Errorf("%d requests to the region's endpoint, want 1", n)
	}
}

// "latest" is the newest version in any state: the client does not replace a disabled
// version by the one before it.
func TestLatestDoesNotFallBack(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for _, state := range []string{"DISABLED", "DESTROYED"} {
		f.change(func(_ *secretmanager.State, p *secretmanager.Project) { p.Secrets["db"].Versions[1].State = state })
		e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonSecretDisabled)
		if !strings.Contains(e.Message, "newest version") || !strings.Contains(e.Message, strings.ToLower(state)) {
			t.Errorf("%s: message %q", state, e.Message)
		}
		e = f.Fails(t.Context(), s, project+"/secrets/db#2", secret.ReasonSecretDisabled)
		if strings.Contains(e.Message, "newest") {
			t.Errorf("%s of a pinned version: message %q", state, e.Message)
		}
		f.Gives(s, project+"/secrets/db#1", "the old one")
	}
}

func TestProjectByNumber(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	settingsOf(in).Stores = []string{"projects/" + projectNumber}
	s := f.open(f.Config(), in)
	f.Gives(s, "projects/"+projectNumber+"/secrets/db", canary)
	f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreNotAllowed)
}

const goodName = "projects/" + projectNumber + "/secrets/db/versions/2"

// answer returns a response of Secret Manager according to its reference
// documentation.
func answer(name, payload string) string {
	return fmt.Sprintf(`{"name": %q, "payload": %s}`, name, payload)
}

func TestAnswers(t *testing.T) {
	const (
		data  = `"data": "aGVsbG8="`         // hello
		sum   = `"dataCrc32c": "2591144780"` // of hello
		whole = `{` + data + `, ` + sum + `}`
	)
	tests := []struct {
		name, ref, body, want string // want is empty if the response must be refused
	}{
		{"good", "", answer(goodName, whole), "hello"},
		{"more members", "", `{"name": "` + goodName + `", "payload": {` + data + `, ` + sum + `, "new": [1]}, "new": {}}`, "hello"},
		{"checksum as a number", "", answer(goodName, `{`+data+`, "dataCrc32c": 2591144780}`), "hello"},
		{"no checksum", "", answer(goodName, `{`+data+`}`), "hello"},
		{"project by ID", "", answer(project+"/secrets/db/versions/2", whole), "hello"},
		{"empty payload", "", answer(goodName, `{"dataCrc32c": "0"}`), "EMPTY"},
		{"alias", "#stable", answer(goodName, whole), "hello"},
		{"pinned", "#2", answer(goodName, whole), "hello"},
		{"wrong checksum", "", answer(goodName, `{`+data+`, "dataCrc32c": "2591144781"}`), ""},
		{"negative checksum", "", answer(goodName, `{`+data+`, "dataCrc32c": "-1"}`), ""},
		{"damaged data", "", answer(goodName, `{"data": "aGVsbGE=", `+sum+`}`), ""},
		{"truncated data", "", answer(goodName, `{"data": "aGVs", `+sum+`}`), ""},
		{"no base64", "", answer(goodName, `{"data": "%%%", `+sum+`}`), ""},
		{"data missing beside its checksum", "", answer(goodName, `{`+sum+`}`), ""},
		{"no payload", "", `{"name": "` + goodName + `"}`, ""},
		{"payload null", "", answer(goodName, `null`), ""},
		{"no name", "", `{"payload": ` + whole + `}`, ""},
		{"another secret", "", answer("projects/"+projectNumber+"/secrets/db2/versions/2", whole), ""},
		{"another case", "", answer("projects/"+projectNumber+"/secrets/DB/versions/2", whole), ""},
		{"another version", "#2", answer("projects/"+projectNumber+"/secrets/db/versions/1", whole), ""},
		{"another project", "", answer("projects/another-project/secrets/db/versions/2", whole), ""},
		{"a region's secret", "", answer("projects/"+projectNumber+"/locations/europe-west3/secrets/db/versions/2", whole), ""},
		{"version without a number", "", answer("projects/"+projectNumber+"/secrets/db/versions/latest", whole), ""},
		{"the secret's name", "", answer("projects/"+projectNumber+"/secrets/db", whole), ""},
		{"a reference for a name", "", answer("projects/"+projectNumber+"/secrets/db#2", whole), ""},
		{"no JSON", "", `hello`, ""},
		{"empty", "", ``, ""},
		{"array", "", `[]`, ""},
		{"not UTF-8", "", "{\"name\": \"\xff\"}", ""},
		{"too large", "", answer(goodName, `{"data": "`+strings.Repeat("A", 2<<20)+`"}`), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			s := f.open(f.Config(), f.integration())
			f.intercept(apiHost, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tt.body) })
			switch tt.want {
			case "":
				f.Fails(t.Context(), s, project+"/secrets/db"+tt.ref, secret.ReasonStoreUnavailable)
				if n := f.requests(apiHost); n != 1 {
					t.Errorf("asked %d times, want once", n)
				}
			case "EMPTY":
				f.Gives(s, project+"/secrets/db"+tt.ref, "")
			default:
				f.Gives(s, project+"/secrets/db"+tt.ref, tt.want)
			}
		})
	}
}

// A project has one number, and no two projects have the same. After a contradiction
// the next response decides, so that one wrong response has no lasting effect.
func TestNumbersAgree(t *testing.T) {
	var n numbers
	for i, step := range []struct {
		id, number string
		want       bool
	}{
		{"project-a", "1", true}, {"project-a", "1", true}, {"project-b", "2", true},
		{"project-a", "2", false},
		{"project-a", "1", true}, {"project-b", "2", true},
		{"project-c", "1", false},
		{"project-c", "3", true}, {"project-a", "1", true},
	} {
		if got := n.agree(step.id, step.number); got != step.want {
			t.Errorf("step %d: agree(%s, %s) = %v", i, step.id, step.number, got)
		}
	}
}

func TestAnotherProjectsAnswer(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	settingsOf(in).Stores = append(settingsOf(in).Stores, "projects/my-project-2")
	s := f.open(f.Config(), in)
	f.change(func(st *secretmanager.State, p *secretmanager.Project) {
		st.Projects["my-project-2"] = &secretmanager.Project{Number: "99", Readers: p.Readers, Secrets: map[string]*secretmanager.Secret{
			"db": {Versions: []secretmanager.Version{{Value: "of the other project"}}},
		}}
	})
	f.Gives(s, project+"/secrets/db", canary)
	f.Gives(s, "projects/my-project-2/secrets/db", "of the other project")
	f.intercept(apiHost, func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, "/my-project-2/", "/my-project/", 1)
		f.server.ServeHTTP(w, r)
	})
	f.Fails(t.Context(), s, "projects/my-project-2/secrets/db", secret.ReasonStoreUnavailable)
}

func TestFetchedAt(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	before := time.Now()
	sec, err := s.Fetch(t.Context(), providertest.Ref(t, project+"/secrets/db"))
	providertest.Must(t, err)
	if sec.FetchedAt.Before(before) || !sec.ExpiresAt.IsZero() {
		t.Errorf("FetchedAt %v, ExpiresAt %v", sec.FetchedAt, sec.ExpiresAt)
	}
}
