package provider_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// crowd simulates several callers for a limited time.
type crowd struct {
	t    *testing.T
	set  *provider.Set
	in   *integration.Integration
	ctx  context.Context
	wg   sync.WaitGroup
	next atomic.Int64 // creates unique names
}

// call reads that many names of the caller concurrently, as one call to the broker
// does, each with the timeout of a load. It returns how many were read, found or not.
func (c *crowd) call(caller, prefix string, reads int) (read int) {
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	var answered atomic.Int64
	var wg sync.WaitGroup
	for range reads {
		name := fmt.Sprint(prefix, c.next.Add(1))
		wg.Go(func() {
			_, err := c.set.Fetch(provider.WithCallers(ctx, provider.NewCallers(caller)), c.in, ref("v", name))
			if err == nil || secret.AsError(err).Reason == secret.ReasonSecretNotFound {
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	return int(answered.Load())
}

// attack makes a caller send that many concurrent calls, of 64 nonexistent names
// each, repeatedly. After a refusal it waits a moment.
func (c *crowd) attack(caller string, calls int) {
	for range calls {
		c.wg.Go(func() {
			for c.ctx.Err() == nil {
				if c.call(caller, "missing-", 64) == 0 {
					time.Sleep(100 * time.Millisecond)
				}
			}
		})
	}
}

// measure returns how many calls of the victim, of that many secrets each, succeed in
// five seconds, one after the other, during the attack.
func measure(t *testing.T, attackers, reads int, limits integration.Reads) (calls int) {
	synctest.Test(t, func(t *testing.T) {
		s := stores{fetch: func(ctx context.Context, r secret.Ref) error {
			select {
			case <-time.After(58 * time.Millisecond):
			case <-ctx.Done():
				return secret.Errorf(secret.ReasonStoreUnavailable, "cut short").WithCause(ctx.Err())
			}
			if len(r.Name) > 8 && r.Name[:8] == "missing-" {
				return secret.Errorf(secret.ReasonSecretNotFound, "no")
			}
			return nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		c := &crowd{t: t, set: s.set(t, nil), in: of("i", "1"), ctx: ctx}
		c.in.Reads = limits
		for i := range attackers {
			c.attack(fmt.Sprint("attacker-", i), 8)
		}
		time.Sleep(time.Second + 7*time.Millisecond) // out of step with the attackers' reads
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			if c.call("victim", "db-", reads) == reads {
				calls++
			}
		}
		cancel()
		c.wg.Wait()
	})
	return calls
}

// A caller that requests nonexistent names at full rate leaves another caller close
// to half of the concurrent reads and of the rate; n attackers leave it its share of
// 1/(n+1).
func TestMissesAreChargedToTheirCaller(t *testing.T) {
	for name, tc := range map[string]struct {
		attackers, reads int
		limits           integration.Reads
		share            float64
	}{
		"one read a call":        {attackers: 1, reads: 1, share: 0.45},
		"few reads a call":       {attackers: 1, reads: 16, share: 0.45},
		"a whole limiter a call": {attackers: 1, reads: 64, share: 0.45},
		"few reads":              {attackers: 1, reads: 4, limits: integration.Reads{MaxConcurrent: 4}, share: 0.45},
		"one read":               {attackers: 1, reads: 1, limits: integration.Reads{MaxConcurrent: 1}, share: 0.45},
		"a slow rate":            {attackers: 1, reads: 1, limits: integration.Reads{PerSecond: 17}, share: 0.45},
		"a rate of several":      {attackers: 1, reads: 16, limits: integration.Reads{PerSecond: 100}, share: 0.45},
		"three attackers":        {attackers: 3, reads: 16, share: 0.9 / 4},
		"three at a slow rate":   {attackers: 3, reads: 4, limits: integration.Reads{PerSecond: 40}, share: 0.9 / 4},
		"seven attackers":        {attackers: 7, reads: 64, share: 0.9 / 8},
	} {
		t.Run(name, func(t *testing.T) {
			quiet, attacked := measure(t, 0, tc.reads, tc.limits), measure(t, tc.attackers, tc.reads, tc.limits)
			t.Logf("%d calls in 5 s, %d without attackers", attacked, quiet)
			if quiet == 0 || float64(attacked) < tc.share*float64(quiet) {
				t.Errorf("%d calls in 5 s, %d without attackers; want %.0f %%", attacked, quiet, 100*tc.share)
			}
		})
	}
}

// However many reads of one caller hang, a caller without running reads is served at
// once, as long as there are no more such callers than reserved slots.
func TestHangingReadsLeaveRoomForNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := stores{fetch: func(_ context.Context, r secret.Ref) error {
			if strings.HasPrefix(r.Name, "hangs-") {
				<-release
				return nil
			}
			if strings.HasPrefix(r.Name, "slow-") {
				time.Sleep(8 * time.Second)
			}
			time.Sleep(10 * time.Millisecond)
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &crowd{t: t, set: s.set(t, nil), in: of("i", "1"), ctx: ctx}
		if n := c.call("hog", "slow-", 64); n != 64 { // so that long reads are expected
			t.Fatalf("%d reads", n)
		}
		c.wg.Go(func() { c.call("hog", "hangs-", 64) })
		synctest.Wait()
		if s.most["i 1"] != 64 {
			t.Errorf("%d reads of one caller run", s.most["i 1"])
		}
		c.wg.Go(func() { c.call("other", "hangs-", 200) }) // uses one of the reserved slots
		synctest.Wait()
		if n := c.call("newcomer", "db-", 1); n != 1 {
			t.Fatal("a read that need not wait is refused because it would wait too long")
		}
		for range 50 {
			_ = c.call("newcomer", "db-", 1) // short reads are expected again
		}
		for range 20 { // each uses the next reserved slot
			begin := time.Now()
			if n := c.call("newcomer", "db-", 7); n != 7 || time.Since(begin) != 70*time.Millisecond {
				t.Fatalf("%d reads in %v", n, time.Since(begin))
			}
		}
		close(release)
		c.wg.Wait()
		if s.most["i 1"] > 72 {
			t.Errorf("%d reads run at a time", s.most["i 1"])
		}
	})
}

// Callers that all request more than the capacity get equal shares.
func TestGreedyCallersGetTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers = 5
		var got [callers]int
		var mu sync.Mutex
		s := stores{fetch: func(context.Context, secret.Ref) error { time.Sleep(30 * time.Millisecond); return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c := &crowd{t: t, set: s.set(t, nil), in: of("i", "1"), ctx: ctx}
		for i := range callers {
			for range 2 * (i + 1) { // some request more than others
				c.wg.Go(func() {
					for ctx.Err() == nil {
						n := c.call(fmt.Sprint(i), "x", 64)
						mu.Lock()
						got[i] += n
						mu.Unlock()
						if n == 0 {
							time.Sleep(100 * time.Millisecond)
						}
					}
				})
			}
		}
		c.wg.Wait()
		sum := 0
		for _, n := range got {
			sum += n
		}
		for i, n := range got {
			if fair := sum / callers; n < fair*9/10 || n > fair*11/10 {
				t.Errorf("caller %d had %d reads of %d, its share is %d", i, n, sum, fair)
			}
		}
		// 64 at a time, of 30 ms each: the store's whole capacity is used.
		if most := 64 * 5_000 / 30; sum < most*9/10 {
			t.Errorf("%d reads in all, want about %d", sum, most)
		}
	})
}

// A full queue accepts a read of a caller that has fewer reads in it than another,
// and refuses the caller with the most.
func TestFullQueueIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := stores{fetch: func(context.Context, secret.Ref) error { <-release; return nil }}
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads, c.MaxWaitingReads = 4, 16 })
		var mu sync.Mutex
		refused := make(map[string]int)
		var wg sync.WaitGroup
		ask := func(caller string, n int) {
			for i := range n {
				wg.Go(func() {
					ctx := provider.WithCallers(t.Context(), provider.NewCallers(caller))
					_, err := set.Fetch(ctx, of("i", "1"), ref("v", fmt.Sprint(caller, i)))
					if err == nil {
						return
					}
					if e := secret.AsError(err); e.Reason != secret.ReasonOverloaded || !errors.Is(err, provider.ErrCallersShare) || e.RetryAfter != time.Second {
						t.Errorf("%s: %v", caller, err)
					}
					mu.Lock()
					defer mu.Unlock()
					refused[caller]++
				})
				synctest.Wait()
			}
		}
		ask("greedy", 30)
		ask("modest", 8)
		ask("third", 20)
		st := set.Stats(kind)
		close(release)
		wg.Wait()
		// The capacity of 20: 7 of the greedy caller, of which 4 run, and 6 or 7 of
		// each other.
		if fmt.Sprint(refused) != "map[greedy:23 modest:2 third:13]" && fmt.Sprint(refused) != "map[greedy:23 modest:1 third:14]" && fmt.Sprint(refused) != "map[greedy:24 modest:1 third:13]" {
			t.Errorf("refused %v", refused)
		}
		if st.Reading != 4 || st.Waiting != 16 {
			t.Errorf("Stats: %+v", st)
		}
	})
}

// If a caller joins another caller's waiting read of the same secret, the read starts
// at the earlier turn of the two.
func TestJoinedReadTakesTheBetterTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		s := stores{fetch: func(_ context.Context, r secret.Ref) error {
			time.Sleep(time.Millisecond)
			order = append(order, r.Name)
			return nil
		}}
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 1 })
		var wg sync.WaitGroup
		fetches := make([]*provider.Callers, 20)
		for i := range fetches {
			fetches[i] = provider.NewCallers("greedy")
			wg.Go(func() {
				if _, err := set.Fetch(provider.WithCallers(t.Context(), fetches[i]), of("i", "1"), ref("v", fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		again := fetches[15].Join(provider.NewCallers("modest"))
		if !again || !fetches[15].Join(provider.NewCallers("modest")) || !fetches[3].Join(provider.NewCallers("greedy")) {
			t.Error("the outcome is not shared")
		}
		wg.Wait()
		if order[0] != "0" || order[1] != "15" || len(order) != 20 || order[19] != "19" {
			t.Errorf("read in the order %v", order)
		}
		if !fetches[0].Join(provider.NewCallers("late")) {
			t.Error("what was read is not shared")
		}
		if st := set.Stats(kind); st.Reading != 0 || st.Waiting != 0 {
			t.Errorf("Stats: %+v", st)
		}
	})
}

// A refusal because of one caller's load does not affect another caller.
func TestRefusalIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stores{fetch: func(context.Context, secret.Ref) error { time.Sleep(time.Second); return nil }}
		set := s.set(t, func(c *provider.SetConfig) { c.MaxConcurrentReads = 1 })
		for range 50 { // until the duration of reads is known
			if _, err := set.Fetch(t.Context(), of("i", "1"), ref("v", "a")); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				_, _ = set.Fetch(provider.WithCallers(t.Context(), provider.NewCallers("greedy")), of("i", "1"), ref("v", fmt.Sprint(i)))
			})
		}
		synctest.Wait()
		try := func(caller string) (*provider.Callers, error) {
			callers := provider.NewCallers(caller)
			ctx, cancel := context.WithTimeout(provider.WithCallers(t.Context(), callers), 3500*time.Millisecond)
			defer cancel()
			_, err := set.Fetch(ctx, of("i", "1"), ref("v", "b"))
			return callers, err
		}
		callers, err := try("greedy")
		if !errors.Is(err, provider.ErrCallersShare) {
			t.Errorf("the eleventh read of the greedy caller: %v", err)
		}
		if callers.Join(provider.NewCallers("modest")) {
			t.Error("the refusal is shared")
		}
		if _, err := try("modest"); err != nil {
			t.Errorf("the first read of another caller: %v", err)
		}
		wg.Wait()
	})
}

// A caller that has read now and then does not wait until each of many new callers
// has used as much.
func TestNewcomersDoNotPassWhoWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 58 * time.Millisecond
		s := stores{fetch: func(context.Context, secret.Ref) error {
			time.Sleep(takes)
			return nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := &crowd{t: t, set: s.set(t, nil), in: of("i", "1"), ctx: ctx}
		c.in.Reads = integration.Reads{MaxConcurrent: 8}
		for range 100 { // a tenth of the capacity
			c.call("victim", "db-", 1)
			time.Sleep(20 * time.Millisecond)
		}
		for i := range 8 {
			c.wg.Go(func() { c.call(fmt.Sprint("newcomer-", i), "db-", 64) })
		}
		synctest.Wait()
		for range 5 {
			begin := time.Now()
			c.call("victim", "db-", 1)
			if took := time.Since(begin); took > 3*takes {
				t.Errorf("a read took %v", took)
			}
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
		c.wg.Wait()
	})
}
