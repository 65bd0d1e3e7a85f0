package azurekv

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestQueueIdentity: the token is for Azure Storage, of the queue's own identity if it has
// one, and is renewed when the queue refuses it.
func TestQueueIdentity(t *testing.T) {
	for _, own := range []bool{false, true} {
		q := newStorageQueue(t)
		change, client := (func(*Settings))(nil), clientID
		if own {
			change, client = q.ownIdentity, ownClient
		}
		s := q.source(change)
		q.put("{}")
		q.receive(s)
		q.refuse()
		q.put("{}")
		if got := q.receive(s); len(got) != 1 {
			t.Errorf("after the renewal: %d messages", len(got))
		}
		if issued, reads := q.counts(); issued != 2 || reads != 0 {
			t.Errorf("%d tokens were issued, and the vault was read %d times", issued, reads)
		}
		for _, form := range q.forms {
			if form.Get("client_id") != client || !strings.Contains(form.Get("scope"), storageScope) {
				t.Errorf("a token request of %s for %s", form.Get("client_id"), form.Get("scope"))
			}
		}
	}
}

// TestQueueObtainsNoOtherToken: a server in the queue's position that asks for a token for
// the vaults gets none.
func TestQueueObtainsNoOtherToken(t *testing.T) {
	q := newStorageQueue(t)
	q.challenge = `Bearer authorization_uri=https://` + loginHost + `/` + tenantID + `/oauth2/authorize resource_id=https://vault.azure.net`
	s := q.source(nil)
	q.put("{}")
	q.receive(s)
	q.refuse()
	s.renewed = time.Now() // no new credential
	_, err := s.Receive(t.Context())
	if e := q.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, "refuses the access token of the integration's identity") {
		t.Error(e.Message)
	}
	for _, form := range q.forms {
		if strings.Contains(form.Get("scope"), "vault") {
			t.Errorf("a token for %s was requested", form.Get("scope"))
		}
	}
}

func TestQueueCheck(t *testing.T) {
	const events = "events of " + queueURL
	for name, tt := range map[string]struct {
		own     bool
		trouble http.HandlerFunc
		token   http.HandlerFunc
		want    string
		text    string
	}{
		"in order": {false, nil, nil, events + " ok", "was not tested"},
		"own":      {true, nil, nil, "token ok, " + events + " ok", "was not tested"},
		"no role": {true, func(w http.ResponseWriter, _ *http.Request) { queueFailure(w, 403, "AuthorizationPermissionMismatch") }, nil,
			"token ok, " + events + " STORE_ACCESS_DENIED", "the identity of azure.events.credential may not receive"},
		"own secret wrong": {true, nil, wrongSecret, "token STORE_AUTHENTICATION_FAILED, " + events + " skipped", "azure.events.credential.client_secret_file"},
		"secret wrong":     {false, nil, wrongSecret, events + " STORE_AUTHENTICATION_FAILED", "into azure.credential.client_secret_file"},
	} {
		t.Run(name, func(t *testing.T) {
			q := newStorageQueue(t)
			q.put(canary)
			q.trouble = tt.trouble
			if tt.token != nil {
				q.token = tt.token
			}
			change := (func(*Settings))(nil)
			if tt.own {
				change = q.ownIdentity
			}
			steps := q.source(change).Check(t.Context())
			if got := providertest.Steps(steps); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			text := ""
			for _, step := range steps {
				text += step.Found
				if step.Err != nil {
					text += secret.AsError(step.Err).Message
					q.CheckClean("a step", step.Err.Error())
				}
			}
			if !strings.Contains(text, tt.text) {
				t.Errorf("%q, want %q", text, tt.text)
			}
			if q.messages[0].DequeueCount != 0 {
				t.Error("a message was received")
			}
		})
	}
}

func wrongSecret(w http.ResponseWriter, _ *http.Request) {
	providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret"}`)
}

// TestOpenQueue: settings and files that cannot be used, by the names that people wrote.
func TestOpenQueue(t *testing.T) {
	q := newStorageQueue(t)
	for name, tt := range map[string]struct {
		change func(*Settings)
		want   string
	}{
		"no source":       {func(a *Settings) { a.Events.QueueURL = "" }, "azure.events.queue_url is not set"},
		"no file":         {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.ClientSecretFile += "x" }, "azure.events.credential.client_secret_file"},
		"no client":       {func(a *Settings) { q.ownIdentity(a); a.Events.ClientID = "" }, "azure.events.client_id is missing"},
		"no certificate":  {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.Type = ClientCertificate }, "azure.events.credential.certificate_file"},
		"no token":        {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.Type = WorkloadIdentity }, "azure.events.credential.token_file"},
		"no type":         {func(a *Settings) { q.ownIdentity(a); a.Events.Credential.Type = "x" }, "azure.events.credential.type is not one of"},
		"roots that fail": {func(a *Settings) { a.CAFile += "x" }, "azure.ca_file"},
	} {
		in := q.integration()
		settingsOf(in).Events = EventSettings{QueueURL: queueURL}
		tt.change(settingsOf(in))
		source, err := EventOpener(q.Config())(t.Context(), in)
		if source != nil {
			t.Errorf("%s: opened", name)
		}
		if e := q.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %s", name, e.Message)
		}
	}
	if _, err := EventOpener(q.Config())(t.Context(), &integration.Integration{}); err == nil {
		t.Error("opened without settings")
	}
}

// TestQueueOrigins: requests with messages go to the queue's host only, and the vaults'
// client has no access to it.
func TestQueueOrigins(t *testing.T) {
	q := newStorageQueue(t)
	if got := q.source(nil).queueHTTP.Transport.(*recorder).next.Origins(); !slices.Equal(got, []string{"https://" + queueHost}) {
		t.Errorf("the queue's client sends to %v", got)
	}
	in := q.integration()
	settingsOf(in).Events = EventSettings{QueueURL: queueURL}
	if got := q.open(q.Config(), in).vaultHTTP.Transport.(*recorder).next.Origins(); slices.Contains(got, "https://"+queueHost) {
		t.Errorf("the vaults' client sends to %v", got)
	}
}
