package vaultkv

import (
	"os"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestPeerPeriodicToken keeps a periodic token of a real server alive over several periods
// without any read. The server forgets a revoked one, and the broker does not revive it.
func TestPeerPeriodicToken(t *testing.T) {
	p := startPeer(t)
	p.prepare("1h")
	p.as("POST", "secret/data/db", `{"data":{"password":"p"}}`)
	create := func() (token, accessor string) {
		auth := p.as("POST", "auth/token/create", `{"policies":["broker"],"period":"4s","no_parent":true}`)["auth"].(map[string]any)
		return auth["client_token"].(string), auth["accessor"].(string)
	}
	token, accessor := create()
	f := p.newFront(t)
	in := f.integration(t, "", "")
	file := providertest.WriteFile(t, "token", token+"\n")
	settingsOf(in).Auth = Auth{Type: Token, TokenFile: file}
	s := f.open(t, f.Config(), in)
	s.Keep()
	began := time.Now()
	asynctest.Eventually(t, "three periods are over", func() bool {
		if status, answer := p.try("POST", "auth/token/lookup-accessor", `{"accessor":"`+accessor+`"}`); status != 200 {
			t.Fatalf("after %v the server does not know the token: HTTP %d %v", time.Since(began), status, answer)
		}
		return time.Since(began) > 13*time.Second
	})
	if text(t, fetch(t, s, "secret/db"), "password") != "p" {
		t.Error("another value")
	}

	p.as("POST", "auth/token/revoke-accessor", `{"accessor":"`+accessor+`"}`)
	fails(t, s, "secret/db", secret.ReasonStoreAuthenticationFailed)
	if status, _ := p.try("POST", "auth/token/lookup-accessor", `{"accessor":"`+accessor+`"}`); status == 200 {
		t.Error("the revoked token is alive")
	}
	token, _ = create()
	providertest.Must(t, os.WriteFile(file, []byte(token), 0o600))
	fetch(t, s, "secret/db")
}
