package app

import (
	"context"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// startEventsBroker starts a broker until the test ends.
func startEventsBroker(t *testing.T, opts devmode.Options, change func(*devmode.Environment) error) *broker {
	t.Helper()
	opts.Dir = t.TempDir()
	b, err := startBrokerWith(t.Context(), opts, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Log(b.log.String())
		}
	})
	return b
}

// watching opens a stream, and returns a func that waits for a notice with a state.
func watching(t *testing.T, b *broker, integration string, configs map[string]string) (await func(secretbrokerv1.Notice_State)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := secretbrokerv1.NewWatchServiceClient(dialBroker(t, b.addr, b.CAFile, b.Worker)).Watch(ctx, &secretbrokerv1.WatchRequest{
		Sets: []*secretbrokerv1.WatchSet{{IntegrationId: integration, Configs: configs}}})
	if err != nil {
		t.Fatal(err)
	}
	return func(state secretbrokerv1.Notice_State) {
		t.Helper()
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range m.GetNotices() {
				if n.GetState() == state {
					return
				}
			}
		}
	}
}

// TestGoogleEvents: a watcher is told of a new version long before the cached one is five
// minutes old, because the embedded Secret Manager notifies the broker's subscription. The
// notification causes one read, which also serves Resolve.
func TestGoogleEvents(t *testing.T) {
	b := startEventsBroker(t, devmode.Options{GoogleCloud: true}, nil)
	configs := map[string]string{"p": devmode.GoogleProject + "/secrets/postgres-password"}
	await := watching(t, b, devmode.GoogleIntegrationID, configs)
	await(secretbrokerv1.Notice_STATE_CURRENT)
	before := b.Google.SecretManager.Reads()
	edited := time.Now()
	if err := edit(b.Google.SecretsFile, "{value: 'correct-horse-battery-staple'}", "{value: 'correct-horse-battery-staple'}, {value: 'rotatedPassw0rdExamp1e'}"); err != nil {
		t.Fatal(err)
	}
	await(secretbrokerv1.Notice_STATE_CHANGED)
	t.Logf("%v from the change to the notice", time.Since(edited).Round(time.Millisecond))
	res, err := b.as(t, b.Worker).Resolve(t.Context(), client.ResolveRequest{IntegrationID: devmode.GoogleIntegrationID, Configs: configs})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Values["p"]; got.Reveal() != "rotatedPassw0rdExamp1e" || got.Version != "2" {
		t.Errorf("Resolve returns the version %q", got.Version)
	}
	if n := b.Google.SecretManager.Reads() - before; n != 1 {
		t.Errorf("%d reads for one event", n)
	}
}

// TestLocalFileEvents: a file that is only in the cache, which no clock reads again for an hour,
// is read when it changes, and a watcher is told.
func TestLocalFileEvents(t *testing.T) {
	b := startEventsBroker(t, devmode.Options{LocalFiles: true}, func(env *devmode.Environment) error {
		return edit(env.Local.IntegrationFile, "cache: {ttl: 5s}", "cache: {ttl: 1h}")
	})
	c := b.as(t, b.Worker)
	configs := map[string]string{"p": b.Local.Reference}
	value := func() string {
		t.Helper()
		res, err := c.Resolve(t.Context(), client.ResolveRequest{IntegrationID: devmode.LocalIntegrationID, Configs: configs})
		if err != nil {
			t.Fatal(err)
		}
		got := res.Values["p"]
		return got.Reveal()
	}
	if value() != "localPassw0rdExamp1e" {
		t.Fatal("Resolve does not return the sample")
	}
	change := func(to string) {
		t.Helper()
		// The broker may not watch the directory yet, so the file changes until it is read.
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i, end := 0, time.Now().Add(30*time.Second); value() != to; i++ {
			if i%20 == 0 {
				if err := replace(b.Local.File, "password="+to+"\n"); err != nil {
					t.Fatal(err)
				}
			}
			if time.Now().After(end) {
				t.Fatalf("the cache still has the value from before %q", to)
			}
			<-tick.C
		}
	}
	change("firstPassw0rdExamp1e")
	await := watching(t, b, devmode.LocalIntegrationID, configs)
	await(secretbrokerv1.Notice_STATE_CURRENT)
	change("secondPassw0rdExamp1e")
	await(secretbrokerv1.Notice_STATE_CHANGED)
}
