package gcpsm

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The token is for Pub/Sub only, and one that impersonates is for the impersonation.
func TestEventScopes(t *testing.T) {
	for _, tt := range []struct {
		own, impersonate string // of events
		want             []string
	}{
		{"", "", []string{allScope, pubsubScope}},
		{"key", "", []string{pubsubScope}},
		{"key", reader, []string{allScope, pubsubScope}},
		{"", reader, []string{allScope, pubsubScope}},
		{"federation", "", []string{pubsubScope}},
		{"federation", reader, []string{allScope, pubsubScope}},
	} {
		f := newFake(t)
		in := f.withEvents()
		e := settingsOf(in).Events
		e.ImpersonateServiceAccount = tt.impersonate
		switch tt.own {
		case "key":
			e.Credential = &Credential{Type: ServiceAccountKey, KeyFile: f.keyFile(base)}
		case "federation":
			e.Credential = &Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(nil)}
		}
		s := f.subscribe(in, time.Second)
		var got []string
		s.tokens.http = recording{s.tokens.http, &got}
		_, err := s.tokens.Get(t.Context())
		providertest.Must(t, err)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q, %q: %s", tt.own, tt.impersonate, diff)
		}
	}
}

// recording records the scopes that token requests ask for.
type recording struct {
	next   http.RoundTripper
	scopes *[]string
}

func (r recording) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	again := req.Clone(req.Context())
	again.Body = io.NopCloser(strings.NewReader(string(body)))
	var doc struct{ Scope json.RawMessage }
	text := string(body)
	if again.ParseForm() == nil && again.PostForm.Get("assertion") != "" {
		claims, _ := base64.RawURLEncoding.DecodeString(strings.Split(again.PostForm.Get("assertion"), ".")[1])
		text = string(claims)
	} else if scope := again.PostForm.Get("scope"); scope != "" {
		text = `{"scope": "` + scope + `"}`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, err
	}
	*r.scopes = append(*r.scopes, strings.Trim(string(doc.Scope), `"[]`))
	return r.next.RoundTrip(req)
}

// The origins of a source: Pub/Sub, and the token endpoints of its identity.
func TestEventOrigins(t *testing.T) {
	f := newFake(t)
	in := f.withEvents()
	settingsOf(in).Events.Credential = &Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(nil)}
	s := f.subscribe(in, time.Second)
	origins := func(c *http.Client) []string { return c.Transport.(*egress.Transport).Origins() }
	if diff := cmp.Diff([]string{"https://" + pubsubHost}, origins(s.api)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"https://" + IAMCredentialsHost, "https://" + STSHost}, origins(s.login)); diff != "" {
		t.Error(diff)
	}
	settingsOf(in).Events = nil
	if _, err := EventOpener(f.Config())(t.Context(), in); err == nil || in.EventSource() != "" {
		t.Errorf("an integration without events: %q, %v", in.EventSource(), err)
	}
}

func TestEventCheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(f *fake, g *Settings)
		want   string
	}{
		{"the integration's identity", func(*fake, *Settings) {}, "events of " + eventsOf + " ok"},
		{"no role", func(_ *fake, g *Settings) { g.ImpersonateServiceAccount = "" }, "events of " + eventsOf + " STORE_ACCESS_DENIED"},
		{"another subscription", func(_ *fake, g *Settings) { g.Events.Subscription += "-2" }, "events of " + eventsOf + "-2 STORE_ACCESS_DENIED"},
		{"an identity of its own", func(_ *fake, g *Settings) {
			g.Events.ImpersonateServiceAccount, g.ImpersonateServiceAccount = reader, ""
		}, "token ok, events of " + eventsOf + " ok"},
		{"a credential of its own", func(f *fake, g *Settings) {
			g.Events.Credential = &Credential{Type: ServiceAccountKey, KeyFile: f.keyFile(base)}
		}, "token ok, events of " + eventsOf + " STORE_ACCESS_DENIED"},
		{"no token", func(f *fake, g *Settings) {
			g.Events.Credential = &Credential{Type: ServiceAccountKey, KeyFile: f.keyFile("nobody@my-project.iam.gserviceaccount.com")}
		}, "token STORE_AUTHENTICATION_FAILED, events of " + eventsOf + " skipped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.change(addVersion)
			in := f.withEvents()
			tt.change(f, settingsOf(in))
			steps := f.subscribe(in, time.Second).Check(t.Context())
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
