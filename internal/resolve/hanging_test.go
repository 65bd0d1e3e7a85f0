package resolve_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// requestTimeout is the duration of a request to a vault that does not answer.
const requestTimeout = 4 * time.Second

// hangingVault is a Provider whose reads take 20 ms, or hang until the timeout of a request.
type hangingVault struct {
	hangs atomic.Bool
	reads atomic.Int64
}

func (v *hangingVault) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	v.reads.Add(1)
	began := time.Now()
	took := 20 * time.Millisecond
	if v.hangs.Load() {
		took = requestTimeout
	}
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if took == requestTimeout {
		return nil, secret.Errorf(secret.ReasonStoreUnavailable, "the vault does not answer")
	}
	return secret.New("1", began, time.Time{}, []byte("value of "+ref.Name)), nil
}

func (v *hangingVault) Close() error { return nil }

// hanging is a Resolver with real limiters and circuit breakers in front of a hangingVault.
type hanging struct {
	*bench
	vault hangingVault
}

func newHanging(t *testing.T, maxStale time.Duration) *hanging {
	w := &hanging{}
	set := provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{
		secret.KindAzureKeyVault: func(context.Context, *integration.Integration) (provider.Provider, error) { return &w.vault, nil },
	}})
	t.Cleanup(func() { _ = set.Close() })
	w.bench = newBench(t, func(c *resolve.Config) { c.Stores, c.Unresponsive = set, set.Unresponsive })
	w.integration.CacheMaxStale = maxStale
	return w
}

func (w *hanging) ask(deadline time.Duration, n int) (stale bool, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	began := time.Now()
	res, err := w.Resolve(ctx, resolve.Caller{Principal: worker}, resolve.Request{
		ID: "request-1", IntegrationID: "cspi", Configs: map[string]string{"p": fmt.Sprintf("%s::db-%d", vault, n)}})
	took = time.Since(began)
	if err != nil {
		return false, took, err
	}
	defer res.Wipe()
	return res.Configs[0].Stale, took, nil
}

// answers is what callers with one deadline got.
type answers struct {
	calls, answered, stale int
	took                   []time.Duration
}

// load asks for random secrets at the given interval for the given time, with deadlines of
// 1 s, 2 s and 5 s in turn. peak is the largest number of goroutines.
func (w *hanging) load(keys int, every, during time.Duration) (by map[time.Duration]*answers, peak int) {
	deadlines := []time.Duration{time.Second, 2 * time.Second, 5 * time.Second}
	by = make(map[time.Duration]*answers)
	var mu sync.Mutex
	var calls sync.WaitGroup
	for i := range int(during / every) {
		d := deadlines[i%len(deadlines)]
		calls.Go(func() {
			stale, took, err := w.ask(d, rand.IntN(keys))
			mu.Lock()
			defer mu.Unlock()
			o := by[d]
			if o == nil {
				o = &answers{}
				by[d] = o
			}
			o.calls++
			o.took = append(o.took, took)
			if err == nil {
				o.answered++
			}
			if stale {
				o.stale++
			}
		})
		time.Sleep(every)
		peak = max(peak, runtime.NumGoroutine())
	}
	calls.Wait()
	for _, o := range by {
		slices.Sort(o.took)
	}
	return by, peak
}

func (o *answers) String() string {
	return fmt.Sprintf("%5.1f %% of %d calls answered, %d stale, p50 %v, p99 %v, max %v", 100*float64(o.answered)/float64(o.calls), o.calls,
		o.stale, o.took[len(o.took)/2], o.took[len(o.took)*99/100], o.took[len(o.took)-1])
}

// TestHangingVault: while a vault hangs, every caller whose integration permits it gets the
// stale value after half of the deadline, and soon at once. A few reads at a time find out
// when the vault answers again.
func TestHangingVault(t *testing.T) {
	for _, tt := range []struct {
		secrets int
		every   time.Duration
		during  time.Duration
	}{
		{1, 10 * time.Millisecond, 30 * time.Second},
		{1000, 10 * time.Millisecond, 30 * time.Second},
		{1000, time.Second, 5 * time.Minute},
	} {
		t.Run(fmt.Sprintf("%d secrets, a call every %v", tt.secrets, tt.every), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newHanging(t, time.Hour)
				for n := range tt.secrets {
					if _, _, err := w.ask(time.Minute, n); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				w.vault.hangs.Store(true)
				before := w.vault.reads.Load()
				by, peak := w.load(tt.secrets, tt.every, tt.during)
				for d, o := range by {
					t.Logf("deadline %v: %v", d, o)
					o.check(t, d)
				}
				reads := w.vault.reads.Load() - before
				t.Logf("%d reads, %d goroutines at most", reads, peak)
				if most := 60 + int64(tt.during/time.Second)*2; reads > most {
					t.Errorf("%d reads of a vault that hangs", reads)
				}
				w.vault.hangs.Store(false)
				w.heals(t, tt.secrets)
			})
		})
	}
}

// check requires that all calls with deadline d were answered, and most of them at once.
func (o *answers) check(t *testing.T, d time.Duration) {
	if o.answered != o.calls {
		t.Errorf("deadline %v: %d of %d calls failed", d, o.calls-o.answered, o.calls)
	}
	if slowest := o.took[len(o.took)-1]; slowest > d/2 {
		t.Errorf("deadline %v: answered after %v", d, slowest)
	}
	if p80 := o.took[len(o.took)*8/10]; p80 != 0 {
		t.Errorf("deadline %v: 80 %% are answered after %v, want at once", d, p80)
	}
}

// heals requires that fresh values are the answer soon after the vault answers again.
func (w *hanging) heals(t *testing.T, secrets int) {
	time.Sleep(requestTimeout) // the reads that hang end
	for range 2 {
		for n := range secrets {
			_, _, _ = w.ask(time.Second, n)
		}
		time.Sleep(3 * time.Second) // as long as a circuit breaker stays open
	}
	for n := range secrets {
		if stale, took, err := w.ask(time.Second, n); stale || err != nil || took > 20*time.Millisecond {
			t.Fatalf("after the outage: stale %v after %v, %v", stale, took, err)
		}
	}
}

// TestHangingVaultWithoutMaxStale: nothing changes for an integration that does not permit
// stale values, whatever is known of the vault.
func TestHangingVaultWithoutMaxStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newHanging(t, 0)
		for n := range 10 {
			if _, _, err := w.ask(time.Minute, n); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		w.vault.hangs.Store(true)
		by, _ := w.load(10, 100*time.Millisecond, 3*time.Second)
		for d, o := range by {
			if o.answered != 0 || o.took[0] < min(d, requestTimeout-3*time.Second) {
				t.Errorf("deadline %v: %v, the quickest after %v", d, o, o.took[0])
			}
		}
		w.vault.hangs.Store(false)
		w.heals(t, 10)
	})
}

// TestOneHangingVaultAmongMany: a vault that hangs does not change what is known of the
// others of the same integration.
func TestOneHangingVaultAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hung, healthy hangingVault
		hung.hangs.Store(true)
		set := provider.NewSet(provider.SetConfig{Openers: map[secret.Kind]provider.Opener{
			secret.KindAzureKeyVault: func(_ context.Context, in *integration.Integration) (provider.Provider, error) {
				return map[string]*hangingVault{"hung": &hung, "healthy": &healthy}[in.ID], nil
			},
		}})
		defer func() { _ = set.Close() }()
		read := func(id, store string) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, _ = set.Fetch(ctx, &integration.Integration{ID: id, ReadRevision: "1", Kind: secret.KindAzureKeyVault}, secret.Ref{Kind: secret.KindAzureKeyVault, Store: store, Name: "a"})
		}
		known := func(what string, want bool) {
			t.Helper()
			for _, other := range [][2]string{{"hung", "b"}, {"healthy", "a"}, {"new", "a"}} {
				if set.Unresponsive(&integration.Integration{ID: other[0]}, other[1]) {
					t.Errorf("%s: %s of %s counts as unresponsive", what, other[1], other[0])
				}
			}
			if got := set.Unresponsive(&integration.Integration{ID: "hung"}, "a"); got != want {
				t.Errorf("%s: unresponsive is %v", what, got)
			}
		}
		known("before the first read", false)
		read("healthy", "a")
		go read("hung", "a")
		time.Sleep(600 * time.Millisecond)
		known("one read hangs", false)
		go read("hung", "a")
		time.Sleep(499 * time.Millisecond)
		known("two reads hang for a short time", false)
		time.Sleep(time.Millisecond)
		known("two reads hang", true)
		time.Sleep(10 * time.Second)
		known("two reads have failed", true)
		time.Sleep(10 * time.Second)
		known("they failed long ago", false)
		hung.hangs.Store(false)
		read("hung", "a")
		hung.hangs.Store(true)
		go read("hung", "a")
		time.Sleep(time.Second)
		known("one read hangs after one that was answered", false)
	})
}
