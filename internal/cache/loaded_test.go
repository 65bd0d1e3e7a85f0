package cache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestLoaded: Config.Loaded is called once for each load, also of a refresh, and not for a
// hit. When it is called, a lookup sees the outcome.
func TestLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Cache
		var loads []Load
		c, err := New(Config{Loaded: func(l Load) {
			loads = append(loads, l)
			if l.Err == nil {
				if got, ok := c.Hit(&Request{Key: l.Key, TTL: time.Minute}); !ok || got.Secret.Version != l.Version {
					t.Errorf("%q is not visible", l.Version)
				} else {
					got.Secret.Release()
				}
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		version, failure := "1", error(nil)
		get := func(key string) {
			t.Helper()
			got, err := c.Get(t.Context(), Request{Key: Key{Name: key}, TTL: time.Minute}, func(context.Context) (*secret.Secret, error) {
				if failure != nil {
					return nil, failure
				}
				return secret.New(version, time.Now(), time.Time{}, []byte("value")), nil
			})
			if (err != nil) != (failure != nil) {
				t.Error(err)
			}
			got.Secret.Release()
		}
		want := func(n int, version string, reason secret.Reason) {
			t.Helper()
			synctest.Wait()
			if len(loads) != n {
				t.Fatalf("%d loads were reported, want %d", len(loads), n)
			}
			last := loads[n-1]
			if last.Version != version || (last.Err == nil) != (reason == "") || last.Err != nil && last.Err.Reason != reason || last.ReadAt.IsZero() {
				t.Errorf("reported %+v", last)
			}
		}
		get("a")
		want(1, "1", "")
		if version, ok := c.Version(&Key{Name: "a"}); !ok || version != "1" {
			t.Errorf("the cache has the version %q (%t)", version, ok)
		}
		if _, ok := c.Version(&Key{Name: "b"}); ok {
			t.Error("the cache has a secret that was never read")
		}
		get("a") // a hit
		want(1, "1", "")
		time.Sleep(55 * time.Second)
		version = "2"
		get("a") // a hit that begins a refresh
		want(2, "2", "")
		failure = secret.Errorf(secret.ReasonSecretNotFound, "gone")
		get("b")
		want(3, "", secret.ReasonSecretNotFound)
		failure = secret.Errorf(secret.ReasonOverloaded, "own").WithCause(ErrOwn)
		if !errors.Is(failure, ErrOwn) {
			t.Fatal("the error is not ErrOwn")
		}
		get("c")
		want(3, "", secret.ReasonSecretNotFound)
	})
}
