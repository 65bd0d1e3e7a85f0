package app

import (
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestAzureEvents: a watcher is told of a new version long before the cached one is five
// minutes old, because the embedded Key Vault sends an event to its queue. The event causes
// one read, which also serves Resolve.
func TestAzureEvents(t *testing.T) {
	b := startEventsBroker(t, devmode.Options{}, nil)
	configs := map[string]string{"p": devmode.VaultURL + "::postgres-password"}
	await := watching(t, b, devmode.IntegrationID, configs)
	await(secretbrokerv1.Notice_STATE_CURRENT)
	before := b.KeyVault.Reads()
	edited := time.Now()
	if err := edit(b.SecretsFile, "'correct-horse-battery-staple'", "'rotatedPassw0rdExamp1e'"); err != nil {
		t.Fatal(err)
	}
	await(secretbrokerv1.Notice_STATE_CHANGED)
	t.Logf("%v from the change to the notice", time.Since(edited).Round(time.Millisecond))
	res, err := b.as(t, b.Worker).Resolve(t.Context(), client.ResolveRequest{IntegrationID: devmode.IntegrationID, Configs: configs})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Values["p"]; got.Reveal() != "rotatedPassw0rdExamp1e" {
		t.Error("Resolve does not return the new value")
	}
	if n := b.KeyVault.Reads() - before; n != 1 {
		t.Errorf("%d reads for one event", n)
	}
}
