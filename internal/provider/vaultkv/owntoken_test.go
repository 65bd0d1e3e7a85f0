package vaultkv

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// ownToken is a server whose tokens live for two seconds unless they are renewed.
type ownToken struct {
	*fake
	front *front
	file  string
	// renewals are the tokens that were renewed.
	renewals chan string
}

func newOwnToken(t *testing.T, token string) *ownToken {
	o := &ownToken{fake: newFake(), file: providertest.WriteFile(t, "token", token), renewals: make(chan string, 100)}
	o.tokenTTL = 2
	o.tokens[token] = true
	o.renewedSelf = func(w http.ResponseWriter, r *http.Request) {
		o.renewals <- r.Header.Get("X-Vault-Token")
		providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"request_id":"r","auth":{"client_token":%q,"lease_duration":2,"renewable":true}}`, r.Header.Get("X-Vault-Token")))
	}
	o.front = newFront(t, o)
	return o
}

func (o *ownToken) integration(t *testing.T) *integration.Integration {
	in := o.front.integration(t, "", "")
	settingsOf(in).Auth = Auth{Type: Token, TokenFile: o.file}
	if !Keeps(in) {
		t.Error("the integration's token is not kept alive")
	}
	return in
}

// A token from a file is renewed from the start and by a timer, also without reads.
func TestOwnTokenIsKeptAlive(t *testing.T) {
	o := newOwnToken(t, "hvs.own")
	s := o.front.open(t, o.front.Config(), o.integration(t))
	if o.front.requests("") != 0 {
		t.Error("opening contacts the server")
	}
	s.Keep()
	for range 3 {
		if token := <-o.renewals; token != "hvs.own" {
			t.Errorf("renewed %s", token)
		}
	}
	if o.front.count() != 0 {
		t.Error("a secret was read")
	}
	o.put("secret/db", `{"a":"b"}`)
	fetch(t, s, "secret/db")
}

// A token that is not permitted to look itself up may still be renewed.
func TestOwnTokenWithoutLookup(t *testing.T) {
	o := newOwnToken(t, "hvs.own")
	o.denied["auth/token/lookup-self"] = true
	s := o.front.open(t, o.front.Config(), o.integration(t))
	s.Keep()
	for range 2 {
		<-o.renewals
	}
}

// Another token in the file replaces the one that is being renewed.
func TestOwnTokenIsReplaced(t *testing.T) {
	o := newOwnToken(t, "hvs.first")
	s := o.front.open(t, o.front.Config(), o.integration(t))
	s.Keep()
	<-o.renewals
	o.mu.Lock()
	o.tokens["hvs.second"] = true
	o.mu.Unlock()
	providertest.Must(t, osWrite(o.file, "hvs.second"))
	for token := range o.renewals {
		if token == "hvs.second" {
			break
		}
	}
}

// The broker does not ask about an ended token with every read, and uses a valid
// token in the file with the next read.
func TestOwnTokenThatHasEnded(t *testing.T) {
	o := newOwnToken(t, "hvs.ended")
	o.revoke()
	o.put("secret/db", `{"a":"b"}`)
	s := o.front.open(t, o.front.Config(), o.integration(t))
	for range 200 {
		fails(t, s, "secret/db", secret.ReasonStoreAuthenticationFailed)
	}
	if n := o.front.requests("GET auth/") + o.front.requests("PUT auth/"); n > 10 { // a slow machine may take longer than a pause
		t.Errorf("%d requests about the token", n)
	}
	o.mu.Lock()
	o.tokens["hvs.new"] = true
	o.mu.Unlock()
	providertest.Must(t, osWrite(o.file, "hvs.new"))
	fetch(t, s, "secret/db")
}

// A token whose renewal is refused is not revived and not asked about in a loop. It is
// logged once, and reads fail as with any invalid token.
func TestOwnTokenWhoseRenewalIsRefused(t *testing.T) {
	o := newOwnToken(t, "hvs.own")
	o.put("secret/db", `{"a":"b"}`)
	s := o.front.open(t, o.front.Config(), o.integration(t))
	s.Keep()
	<-o.renewals
	o.revoke()
	const logged = "refuses to renew the token"
	asynctest.Eventually(t, "the refusal is logged", func() bool { return strings.Contains(o.front.Logs.String(), logged) })
	for range 50 {
		fails(t, s, "secret/db", secret.ReasonStoreAuthenticationFailed)
	}
	if n := strings.Count(o.front.Logs.String(), logged); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if n := o.front.requests("PUT auth/token/renew-self"); n > 6 {
		t.Errorf("%d renewals", n)
	}
	if strings.Contains(o.front.Logs.String(), "hvs.own") {
		t.Error("the log contains the token")
	}
}
