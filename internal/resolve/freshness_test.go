package resolve_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// get resolves the plain secret and returns its text, or the reason of the error.
func (b *bench) get(maxAge *time.Duration) (text string, res resolve.Resolved, reason secret.Reason) {
	r, err := b.call(worker, resolve.Request{AllowPartial: true, MaxAge: maxAge, Configs: map[string]string{"p": vault + "::plain"}})
	switch {
	case err != nil:
		return "", res, secret.AsError(err).Reason
	case len(r.Errors) > 0:
		return "", res, r.Errors[0].Err.Reason
	default:
		return r.Configs[0].Value.Reveal(), r.Configs[0], ""
	}
}

func (b *bench) rotate(value string) {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.secrets["plain"] = value
}

func (b *bench) fail(reason secret.Reason) {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	delete(b.store.errs, "plain")
	if reason != "" {
		b.store.errs["plain"] = secret.Errorf(reason, "set by the test")
	}
}

// TestSecretsOwnExpiry: the secret's expiry differs from the expiry of the cached copy.
func TestSecretsOwnExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if _, res, _ := b.get(nil); !res.SecretExpiresAt.IsZero() {
			t.Errorf("a secret without an expiry expires at %v", res.SecretExpiresAt)
		}
		b.store.expires = time.Now().Add(time.Hour)
		time.Sleep(time.Minute) // the cached copy expires
		if _, res, _ := b.get(nil); !res.SecretExpiresAt.Equal(b.store.expires) || !res.ExpiresAt.Before(b.store.expires) {
			t.Errorf("the secret expires at %v, its copy at %v, want %v and earlier", res.SecretExpiresAt, res.ExpiresAt, b.store.expires)
		}
	})
}

// TestFreshness follows one secret through rotations and outages, with a time-to-live of
// one minute.
func TestFreshness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		now := time.Duration(0)
		expect := func(maxAge *time.Duration, want string, reason secret.Reason) resolve.Resolved {
			t.Helper()
			text, res, why := b.get(maxAge)
			if text != want || why != reason {
				t.Errorf("at %v: %q %s, want %q %s", now, text, why, want, reason)
			}
			return res
		}
		pass := func(d time.Duration) { now += d; time.Sleep(d) }

		first := expect(nil, "canary-plain", "")
		if got := first.ExpiresAt.Sub(first.FetchedAt); got != time.Minute {
			t.Errorf("the value expires %v after its read", got)
		}
		b.rotate("second")
		pass(10 * time.Second)
		expect(nil, "canary-plain", "")                 // from the cache
		expect(ptr(15*time.Second), "canary-plain", "") // new enough
		expect(ptr(5*time.Second), "second", "")        // too old for this caller
		expect(nil, "second", "")                       // the new copy serves all callers

		b.rotate("third")
		pass(time.Minute)
		expect(nil, "third", "") // the time-to-live has passed

		// A definite error removes the cached value at the next read, and is cached itself for
		// a few seconds only.
		b.fail(secret.ReasonSecretDisabled)
		pass(2 * time.Second)
		expect(ptr(time.Duration(0)), "", secret.ReasonSecretDisabled)
		before := b.store.reads.Load()
		for range 100 {
			expect(nil, "", secret.ReasonSecretDisabled)
		}
		if n := b.store.reads.Load(); n != before {
			t.Errorf("a crash loop caused %d reads", n-before)
		}
		b.fail("")
		pass(6 * time.Second)
		expect(nil, "third", "")

		// The broker does not bridge an outage unless the integration allows it.
		b.fail(secret.ReasonStoreUnavailable)
		pass(2 * time.Minute)
		expect(nil, "", secret.ReasonStoreUnavailable)
	})
}

// TestNotReadBefore: the moment of a read counts, whatever max_age allows.
func TestNotReadBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ask := func(ctx context.Context, before time.Time, maxAge *time.Duration) (string, error) {
			res, err := b.Resolve(ctx, resolve.Caller{Principal: worker}, resolve.Request{
				ID: "r", IntegrationID: "cspi", NotReadBefore: before, MaxAge: maxAge, Configs: map[string]string{"p": vault + "::plain"},
			})
			if err != nil {
				return "", err
			}
			defer res.Wipe()
			return res.Configs[0].Value.Reveal(), nil
		}
		expect := func(before time.Time, maxAge *time.Duration, want string) {
			t.Helper()
			if got, err := ask(t.Context(), before, maxAge); err != nil || got != want {
				t.Errorf("%q %v, want %q", got, err, want)
			}
		}
		read := time.Now()
		expect(time.Time{}, nil, "canary-plain")
		b.rotate("second")
		time.Sleep(10 * time.Second)
		expect(read, nil, "canary-plain")
		expect(read, ptr(time.Minute), "canary-plain")
		expect(read.Add(time.Second), ptr(time.Minute), "second")

		b.rotate("third")
		time.Sleep(10 * time.Second)
		expect(read, ptr(time.Second), "third") // max_age holds as well

		b.rotate("fourth")
		now := time.Now()
		expect(now.Add(5*time.Second), nil, "fourth")
		if waited := time.Since(now); waited != 5*time.Second {
			t.Errorf("a time 5s ahead was answered after %v", waited)
		}
		if _, err := ask(t.Context(), time.Now().Add(5*time.Second+1), nil); secret.AsError(err).Reason != secret.ReasonInvalidRequest {
			t.Errorf("a time too far ahead: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ask(ctx, time.Now().Add(2*time.Second), nil); secret.AsError(err).Reason != secret.ReasonOverloaded {
			t.Errorf("a time beyond the call's deadline: %v", err)
		}
	})
}

// TestStaleIfError: if the integration sets a bound, the broker answers with stale values,
// marked as such, up to the bound during an outage and throttling, and for no other errors.
func TestStaleIfError(t *testing.T) {
	for reason, bridged := range map[secret.Reason]bool{
		secret.ReasonStoreUnavailable: true, secret.ReasonStoreThrottled: true,
		secret.ReasonSecretNotFound: false, secret.ReasonSecretDisabled: false, secret.ReasonStoreAccessDenied: false, secret.ReasonStoreAuthenticationFailed: false,
	} {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.integration.CacheMaxStale = 10 * time.Minute
				if text, res, _ := b.get(nil); text != "canary-plain" || res.Stale {
					t.Fatal(text)
				}
				b.fail(reason)
				time.Sleep(2 * time.Minute)
				text, res, why := b.get(nil)
				if bridged && (text != "canary-plain" || !res.Stale || !res.ExpiresAt.Before(time.Now())) {
					t.Errorf("%q %s, stale %v, expires %v", text, why, res.Stale, res.ExpiresAt)
				}
				if !bridged && why != reason {
					t.Errorf("%q %s", text, why)
				}
				if _, _, why := b.get(ptr(time.Minute)); why != reason {
					t.Errorf("a caller with a smaller max_age got %s", why)
				}
				time.Sleep(10 * time.Minute)
				if _, _, why := b.get(nil); why != reason {
					t.Errorf("beyond the bound: %s", why)
				}
			})
		})
	}
}

var _ resolve.Integrations = integrations{}

// TestThousandForcedReads: max_age zero cannot be used to exhaust a vault's quota.
func TestThousandForcedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.store.delay = 30 * time.Millisecond
		var callers sync.WaitGroup
		for range 1000 {
			callers.Go(func() {
				if text, _, why := b.get(ptr(time.Duration(0))); text != "canary-plain" {
					t.Errorf("%q %s", text, why)
				}
			})
		}
		callers.Wait()
		if n := b.store.reads.Load(); n != 1 {
			t.Errorf("1000 concurrent callers caused %d reads, want 1", n)
		}
	})
}

// TestNotReadBeforeFetchTime: the fetch_time of a value, or of a notice about it, as
// not_read_before is answered from the cache with that read.
func TestNotReadBeforeFetchTime(t *testing.T) {
	b := newBench(t) // with the real clock: a simulated one stands still during a call
	_, first, _ := b.get(nil)
	for range 100 {
		r, err := b.call(worker, resolve.Request{NotReadBefore: first.FetchedAt.Round(0), Configs: map[string]string{"p": vault + "::plain"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Configs[0].FetchedAt; !got.Equal(first.FetchedAt) {
			t.Fatalf("answered with a read that began %v later", got.Sub(first.FetchedAt))
		}
	}
}
