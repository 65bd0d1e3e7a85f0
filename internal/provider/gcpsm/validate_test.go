package gcpsm

import (
	"net/http"
	"testing"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestValidate: each step reports what it found, and no value is read.
func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*Settings)
		readers func(p *secretmanager.Project)
		secrets []string
		want    string
	}{
		{"all well", func(*Settings) {}, nil, []string{"db-*"}, "token ok, read " + project + " ok, read " + regional + " ok"},
		{"one secret", func(*Settings) {}, nil, []string{"db"}, "token ok, read " + project + " ok, read " + regional + " ok"},
		{"no role", func(g *Settings) { g.ImpersonateServiceAccount = "" }, nil, nil,
			"token ok, read " + project + " unchecked, read " + regional + " unchecked"},
		{"no role on the secret that a grant names", func(g *Settings) { g.ImpersonateServiceAccount = "" }, nil, []string{"db"},
			"token ok, read " + project + " STORE_ACCESS_DENIED, read " + regional + " STORE_ACCESS_DENIED"},
		{"may not impersonate", func(g *Settings) { g.ImpersonateServiceAccount = "nobody@my-project.iam.gserviceaccount.com" }, nil, nil,
			"token STORE_AUTHENTICATION_FAILED, read " + project + " skipped, read " + regional + " skipped"},
		{"the role on one secret", func(g *Settings) { g.Stores = g.Stores[:1] }, func(p *secretmanager.Project) {
			p.Readers, p.Secrets["db"].Readers = nil, []string{reader}
		}, []string{"db"}, "token ok, read " + project + " ok"},
		{"the role on a secret that is not named", func(g *Settings) { g.Stores = g.Stores[:1] }, func(p *secretmanager.Project) {
			p.Readers, p.Secrets["db"].Readers = nil, []string{reader}
		}, []string{"db*"}, "token ok, read " + project + " unchecked"},
		{"the role on one secret, and a pattern", func(g *Settings) { g.Stores = g.Stores[:1] }, func(p *secretmanager.Project) {
			p.Readers, p.Secrets["db"].Readers = nil, []string{reader}
		}, []string{"web*", "db"}, "token ok, read " + project + " ok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			if tt.readers != nil {
				f.change(func(_ *secretmanager.State, p *secretmanager.Project) { tt.readers(p) })
			}
			in := f.integration()
			tt.change(settingsOf(in))
			providertest.Grant(t, Spec(), in, `gcp: {credential: {type: metadata_server}, projects: `+providertest.List(settingsOf(in).Stores)+`}`, tt.secrets)
			steps := f.open(f.Config(), in).Validate(t.Context())
			if got := providertest.Steps(steps); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			for _, step := range steps {
				if step.Err != nil {
					f.CheckError(step.Err, secret.AsError(step.Err).Reason)
				}
			}
		})
	}
}

// A response that is not a token is reported as an outage.
func TestValidateOutage(t *testing.T) {
	f := newFake(t)
	f.intercept("oauth2.googleapis.com", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if got := providertest.Steps(f.open(f.Config(), f.integration()).Validate(t.Context())); got != "token STORE_UNAVAILABLE, read "+project+" skipped, read "+regional+" skipped" {
		t.Error(got)
	}
}
