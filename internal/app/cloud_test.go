package app

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// cloudBroker is a broker in a separate process that reads the embedded store of a cloud, and
// a client of the broker.
type cloudBroker struct {
	*served
	*client.Client
	integration string
}

func startCloud(t *testing.T, opts devmode.Options, integration string) *cloudBroker {
	t.Helper()
	opts.Dir, opts.Logger = t.TempDir(), slog.New(slog.DiscardHandler)
	opts.Listen, opts.AdminListen, opts.VaultListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	env, err := devmode.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { env.Close() })
	s := startServed(t, env, env.ConfigFile)
	return &cloudBroker{s, s.client(t, 1), integration}
}

func (b *cloudBroker) resolve(t *testing.T, configs map[string]string, maxAge time.Duration) *client.ResolveResponse {
	t.Helper()
	res, err := b.Resolve(t.Context(), client.ResolveRequest{IntegrationID: b.integration, Configs: configs, MaxAge: &maxAge, AllowPartial: true})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// checkReasons checks the reasons of failed configs.
func checkReasons(t *testing.T, res *client.ResolveResponse, reasons map[string]client.Reason) {
	t.Helper()
	for config, want := range reasons {
		if got := res.Errors[config]; got.Reason != want {
			t.Errorf("%s: %s, want %s: %s", config, got.Reason, want, got.Message)
		}
	}
}

// rotateAndThrottle changes the secret that configs["p"] refers to, and then makes the store
// throttle, by editing the file of the embedded store.
func (b *cloudBroker) rotateAndThrottle(t *testing.T, file string, configs map[string]string, old, throttled string) {
	t.Helper()
	if err := edit(file, "correct-horse-battery-staple", "rotatedPassw0rdExamp1e"); err != nil {
		t.Fatal(err)
	}
	if got := b.resolve(t, configs, 0).Values["p"]; got.Reveal() != "rotatedPassw0rdExamp1e" {
		t.Error("the rotated value is not read")
	}
	if err := edit(file, old, throttled); err != nil {
		t.Fatal(err)
	}
	_, err := b.Resolve(t.Context(), client.ResolveRequest{IntegrationID: b.integration, Configs: configs, MaxAge: new(time.Duration)})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != "STORE_THROTTLED" || e.RetryAfter <= 0 {
		t.Errorf("throttled: %v", err)
	}
}
