package provider_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// stores is a fake of the stores of all integrations, whose results come from fetch.
type stores struct {
	mu     sync.Mutex
	fetch  func(ctx context.Context, ref secret.Ref) error
	reads  int
	opened []string // "ID REVISION", in order
	// By "ID REVISION": open Providers, running Fetches, and the maximum of running
	// Fetches.
	open, running, most map[string]int
}

type storeOf struct {
	*stores
	name string
}

func (s *stores) opener(_ context.Context, in *integration.Integration) (provider.Provider, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open, s.running, s.most = make(map[string]int), make(map[string]int), make(map[string]int)
	}
	name := in.ID + " " + in.ReadRevision
	s.opened = append(s.opened, name)
	s.open[name]++
	return storeOf{s, name}, nil
}

func (s storeOf) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	s.mu.Lock()
	s.reads++
	s.running[s.name]++
	s.most[s.name] = max(s.most[s.name], s.running[s.name])
	fetch := s.fetch
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running[s.name]--
		s.mu.Unlock()
	}()
	if fetch != nil {
		if err := fetch(ctx, ref); err != nil {
			return nil, err
		}
	}
	return secret.New(s.name, time.Now(), time.Time{}, nil), nil
}

func (s storeOf) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[s.name]--
	return nil
}

// opens returns how many Providers have been opened, and how many of them are still
// open.
func (s *stores) opens() (ever, now int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.open {
		now += n
	}
	return len(s.opened), now
}

func (s *stores) set(t *testing.T, change func(*provider.SetConfig)) *provider.Set {
	t.Helper()
	cfg := provider.SetConfig{Openers: map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: s.opener}}
	if change != nil {
		change(&cfg)
	}
	set := provider.NewSet(cfg)
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
		if _, now := s.opens(); now != 0 {
			t.Errorf("%d providers are open after Close: %v", now, s.open)
		}
	})
	return set
}

func of(id, revision string) *integration.Integration {
	return &integration.Integration{ID: id, ReadRevision: revision, Kind: secret.KindAzureKeyVault}
}

func ref(store, name string) secret.Ref {
	return secret.Ref{Kind: secret.KindAzureKeyVault, Store: store, Name: name}
}

func fails(t *testing.T, err error, want secret.Reason) *secret.Error {
	t.Helper()
	e := secret.AsError(err)
	if err == nil || e.Reason != want {
		t.Fatalf("error %v, want %s", err, want)
	}
	return e
}

// One caller requests more and more new secrets of one vault: 64 reads run, 4000
// wait, the rest is refused, and neither other vaults of the integration nor other
// integrations are affected.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxRunning, maxWaiting, giveUp, calls = 64, 4000, 100, 5000
		var s stores
		const late = "OVERLOADED, having waited" // included in the other
		gate := make(chan struct{})
		s.fetch = func(_ context.Context, ref secret.Ref) error {
			if ref.Store == "slow" {
				<-gate
			}
			return nil
		}
		set := s.set(t, nil)
		var mu sync.Mutex
		reasons := make(map[secret.Reason]int)
		var wg sync.WaitGroup
		begin := func(ctx context.Context, n int) {
			for i := range n {
				wg.Go(func() {
					_, err := set.Fetch(ctx, of("flooded", "1"), ref("slow", fmt.Sprint(i)))
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						reasons["OK"]++
						return
					}
					e := secret.AsError(err)
					reasons[e.Reason]++
					switch {
					case errors.Is(err, context.DeadlineExceeded):
						reasons[late]++
					case e.RetryAfter != time.Second:
						t.Errorf("to be tried again after %v", e.RetryAfter)
					}
				})
			}
			synctest.Wait()
		}
		check := func(what string, want map[secret.Reason]int) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(reasons) != fmt.Sprint(want) {
				t.Errorf("%s: %v, want %v", what, reasons, want)
			}
		}
		begin(t.Context(), maxRunning+maxWaiting-giveUp)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin(short, giveUp)
		begin(t.Context(), calls)
		check("at once", map[secret.Reason]int{secret.ReasonOverloaded: calls})
		if s.reads != maxRunning {
			t.Errorf("%d reads under way, want %d", s.reads, maxRunning)
		}
		began := time.Now()
		for _, id := range []string{"flooded", "other"} {
			if _, err := set.Fetch(t.Context(), of(id, "1"), ref("fast", "a")); err != nil || time.Since(began) != 0 {
				t.Errorf("another vault of %s: %v after %v", id, err, time.Since(began))
			}
		}
		if got := set.Stats(secret.KindAzureKeyVault); got != (provider.Stats{Reading: maxRunning, Waiting: maxWaiting, Refused: calls}) {
			t.Errorf("Stats: %+v", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		check("after the deadline", map[secret.Reason]int{secret.ReasonOverloaded: calls + giveUp, late: giveUp})
		close(gate)
		wg.Wait()
		check("in the end", map[secret.Reason]int{secret.ReasonOverloaded: calls + giveUp, late: giveUp, "OK": maxRunning + maxWaiting - giveUp})
		if most := s.most["flooded 1"]; most != maxRunning+1 { // one is of the other vault
			t.Errorf("%d reads at a time, want %d", most, maxRunning+1)
		}
		if _, err := set.Fetch(t.Context(), of("flooded", "1"), ref("slow", "a")); err != nil {
			t.Errorf("after the flood: %v", err)
		}
	})
}

func throttledFor(d time.Duration) *secret.Error {
	return &secret.Error{Reason: secret.ReasonStoreThrottled, Message: "slow down", RetryAfter: d}
}

// If a vault asks for a long pause, it gets no request until the pause is over, and
// callers get an error at once. Reads wait for the end of a short pause.
func TestThrottledStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		asks := 30 * time.Second
		s.fetch = func(_ context.Context, ref secret.Ref) error {
			if ref.Store == "busy" && asks > 0 {
				return throttledFor(asks)
			}
			return nil
		}
		observed := 0
		set := s.set(t, func(c *provider.SetConfig) {
			c.Observe = func(context.Context, secret.Kind, error, time.Duration) { observed++ }
		})
		get := func(id, store, name string) error {
			_, err := set.Fetch(t.Context(), of(id, "1"), ref(store, name))
			return err
		}
		fails(t, get("i", "busy", "a"), secret.ReasonStoreThrottled)
		time.Sleep(10 * time.Second)
		for n := range 100 {
			if e := fails(t, get("i", "busy", fmt.Sprint(n)), secret.ReasonStoreThrottled); e.RetryAfter != 20*time.Second {
				t.Fatalf("to be tried again after %v", e.RetryAfter)
			}
		}
		if s.reads != 1 || observed != 1 {
			t.Errorf("the store was contacted %d times and observed %d times", s.reads, observed)
		}
		set.Supersede("i", "2") // the same vault, after a change of the integration
		fails(t, get("i", "busy", "a"), secret.ReasonStoreThrottled)
		for _, other := range [][2]string{{"i", "calm"}, {"j", "calm"}} {
			if err := get(other[0], other[1], "a"); err != nil {
				t.Errorf("%v: %v", other, err)
			}
		}
		before := s.reads
		fails(t, get("j", "busy", "a"), secret.ReasonStoreThrottled)
		if s.reads != before+1 {
			t.Error("one integration's throttling is another's")
		}
		asks = 0
		time.Sleep(17*time.Second - 1)
		if e := fails(t, get("i", "busy", "a"), secret.ReasonStoreThrottled); e.RetryAfter != 3*time.Second+1 {
			t.Errorf("to be tried again after %v", e.RetryAfter)
		}
		time.Sleep(1)
		began := time.Now()
		if err := get("i", "busy", "a"); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("waited %v: %v", time.Since(began), err)
		}
	})
}

// Neither a read that ends later nor one with a shorter pause shortens the pause, and
// a read that waited for its turn sends no request either.
func TestThrottlingIsNeverShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stores
		answers := map[string]func() error{
			"long":  func() error { return throttledFor(30 * time.Second) },
			"late":  func() error { time.Sleep(5 * time.Second); return throttledFor(time.Second) },
			"good":  func() error { time.Sleep(6 * time.Second); return nil },
			"vague": func() error { time.Sleep(7 * time.Second); return throttledFor(0) },
		}
		s.fetch = func(_ context.Context, ref secret.Ref) error {
			if answer := answers[ref.Name]; answer != nil {
				return answer()
			}
			t.Errorf("%s reached the store", ref.Name)
			return nil
		}
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 4 })
		var wg sync.WaitGroup
		get := func(name string, want secret.Reason) {
			wg.Go(func() {
				_, err := set.Fetch(t.Context(), of("i", "1"), ref("busy", name))
				if want == "" && err != nil || want != "" && secret.AsError(err).Reason != want {
					t.Errorf("%s: %v", name, err)
				}
			})
			synctest.Wait()
		}
		get("late", secret.ReasonStoreThrottled)
		get("good", "")
		get("vague", secret.ReasonStoreThrottled)
		hold := make(chan struct{})
		answers["holder"] = func() error { <-hold; return throttledFor(30 * time.Second) }
		get("holder", secret.ReasonStoreThrottled)
		get("waiting", secret.ReasonStoreThrottled) // waits for its turn
		close(hold)
		synctest.Wait()
		time.Sleep(10 * time.Second)
		get("after", secret.ReasonStoreThrottled)
		wg.Wait()
		time.Sleep(20 * time.Second)
		answers["at last"] = func() error { return nil }
		get("at last", "")
		wg.Wait()
	})
}
