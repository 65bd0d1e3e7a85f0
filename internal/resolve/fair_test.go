package resolve_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// slowStore needs 58 ms for a read and has no secret whose name begins with missing.
type slowStore struct{}

func (slowStore) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	began := time.Now()
	select {
	case <-time.After(58 * time.Millisecond):
	case <-ctx.Done():
		return nil, secret.Errorf(secret.ReasonStoreUnavailable, "cut short").WithCause(ctx.Err())
	}
	if strings.HasPrefix(ref.Name, "missing-") {
		return nil, secret.Errorf(secret.ReasonSecretNotFound, "no such secret")
	}
	return secret.New(version, began, time.Time{}, []byte("value")), nil
}

func (slowStore) Close() error { return nil }

// attacked returns the number of successful calls of a worker in five seconds, of one new
// secret each. Meanwhile an attacker makes the given number of concurrent calls of 64 names
// that do not exist. trap returns a further name that the attacker requests in each call.
func attacked(t *testing.T, calls int, trap func() string) (succeeded int) {
	synctest.Test(t, func(t *testing.T) {
		policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{vault}, []authz.Grant{{Principals: []string{"spiffe://example.org/**"}}})
		if err != nil {
			t.Fatal(err)
		}
		values, err := cache.New(cache.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer values.Close()
		log := audit.New(&discard{})
		defer func() { _ = log.Close() }()
		stores := provider.NewSet(provider.SetConfig{
			Openers: map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: func(context.Context, *integration.Integration) (provider.Provider, error) {
				return slowStore{}, nil
			}},
			Logger: slog.New(slog.DiscardHandler),
		})
		r := resolve.New(resolve.Config{
			Integrations: integrations{"cspi": {ID: "cspi", Revision: "1", Kind: secret.KindAzureKeyVault, Policy: policy}},
			Stores:       stores, Cache: values, Audit: log, CacheTTL: time.Minute,
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var next atomic.Int64
		call := func(who authz.Principal, names ...string) bool {
			configs := make(map[string]string, len(names))
			for i, name := range names {
				configs[fmt.Sprint(i)] = vault + "::" + name
			}
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			res, err := r.Resolve(ctx, resolve.Caller{Principal: who}, resolve.Request{ID: "x", IntegrationID: "cspi", AllowPartial: true, Configs: configs})
			return err == nil && len(res.Errors) == 0
		}
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				for ctx.Err() == nil {
					names := make([]string, 0, 64)
					if trap != nil {
						names = append(names, trap())
					}
					for len(names) < 64 {
						names = append(names, fmt.Sprint("missing-", next.Add(1)))
					}
					began := time.Now()
					call("spiffe://example.org/attacker", names...)
					if time.Since(began) < time.Millisecond {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		time.Sleep(time.Second + 7*time.Millisecond)
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			if call(worker, fmt.Sprint("db-", victims.Add(1))) {
				succeeded++
			}
		}
		cancel()
		wg.Wait()
	})
	return succeeded
}

// victims counts the victim's secrets, so that each of its calls requests a new one.
var victims atomic.Int64

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestReadsAreChargedToTheCaller: a read of a store is charged to the caller that requested
// it. An attacker also cannot move another caller's secrets into its own queue by
// requesting them first.
func TestReadsAreChargedToTheCaller(t *testing.T) {
	quiet := attacked(t, 0, nil)
	for name, trap := range map[string]func() string{
		"misses":               nil,
		"the victim's secrets": func() string { return fmt.Sprint("db-", victims.Load()+1) },
	} {
		t.Run(name, func(t *testing.T) {
			got := attacked(t, 8, trap)
			t.Logf("%d calls in 5 s, %d without the attacker", got, quiet)
			if got*100 < quiet*45 {
				t.Errorf("%d calls in 5 s, %d without the attacker", got, quiet)
			}
		})
	}
}
