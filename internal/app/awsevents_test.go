package app

import (
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestAWSEvents: a watcher is told of a new version long before the cached one is five
// minutes old, because the embedded Secrets Manager sends an event to its queue. The event
// causes one read, which also serves Resolve.
func TestAWSEvents(t *testing.T) {
	b := startEventsBroker(t, devmode.Options{AWS: true}, nil)
	configs := map[string]string{"p": devmode.AWSStore + "::prod/postgres-password"}
	await := watching(t, b, devmode.AWSIntegrationID, configs)
	await(secretbrokerv1.Notice_STATE_CURRENT)
	before := b.AWS.SecretsManager.Reads()
	edited := time.Now()
	if err := edit(b.AWS.SecretsFile, "{value: 'correct-horse-battery-staple'}", "{value: 'correct-horse-battery-staple'}, {value: 'rotatedPassw0rdExamp1e'}"); err != nil {
		t.Fatal(err)
	}
	await(secretbrokerv1.Notice_STATE_CHANGED)
	t.Logf("%v from the change to the notice", time.Since(edited).Round(time.Millisecond))
	res, err := b.as(t, b.Worker).Resolve(t.Context(), client.ResolveRequest{IntegrationID: devmode.AWSIntegrationID, Configs: configs})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Values["p"]; got.Reveal() != "rotatedPassw0rdExamp1e" {
		t.Error("Resolve does not return the new value")
	}
	if n := b.AWS.SecretsManager.Reads() - before; n != 1 {
		t.Errorf("%d reads for one event", n)
	}
}
