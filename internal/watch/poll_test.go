package watch

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const pollEvery = 10 * time.Second

// polled is a world whose store can be asked for versions.
type polled struct {
	*world
	state   string
	refused bool
	failure error
	polls   int
}

func (p *polled) Decide(who authz.Principal, id string, ref secret.Ref) Decision {
	d := p.world.Decide(who, id, ref)
	d.Poll = pollEvery
	return d
}

func (p *polled) Peek(context.Context, string, secret.Ref) (string, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polls++
	return p.state, !p.refused, p.failure
}

// store sets what polls and reads find.
func (p *polled) store(state string, content cache.Load) {
	p.do(func() { p.state, p.content["a"] = state, content })
}

// during returns the number of polls and reads within d.
func (p *polled) during(d time.Duration) (polls, reads int) {
	count := func() (int, int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.polls, p.reads["a"]
	}
	polls, reads = count()
	time.Sleep(d)
	p2, r2 := count()
	return p2 - polls, r2 - reads
}

func withPolls(t *testing.T, test func(t *testing.T, h *Hub, p *polled, s *Stream)) {
	synctest.Test(t, func(t *testing.T) {
		p := &polled{world: newWorld()}
		p.store("1", cache.Load{Version: "1"})
		h := New(Config{})
		h.SetReader(p)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = h.Run(ctx) })
		s := open(t, h, alice, Item{Ref: ref("a")})
		expect(t, s, time.Second, "0 CURRENT 1, complete")
		test(t, h, p, s)
		s.Close()
		time.Sleep(time.Minute)
		if polls, reads := p.during(time.Hour); polls+reads != 0 {
			t.Errorf("%d polls and %d reads without a watcher", polls, reads)
		}
		if stats := h.Stats(); int(stats.Polls) != p.polls || int(stats.Reads) != p.reads["a"] {
			t.Errorf("%+v; %d polls, %d reads", stats, p.polls, p.reads["a"])
		}
		cancel()
		running.Wait()
	})
}

// TestPoll: while polls find the known version, nothing is read, and another version is read
// within the interval.
func TestPoll(t *testing.T) {
	withPolls(t, func(t *testing.T, h *Hub, p *polled, s *Stream) {
		if polls, reads := p.during(10 * ttl); polls < 299 || polls > 335 || reads != 0 {
			t.Errorf("%d polls and %d reads within 10 times to live", polls, reads)
		}
		p.store("2", cache.Load{Version: "2"})
		expect(t, s, pollEvery, "0 CHANGED 2")
		if polls, reads := p.during(time.Minute); polls < 5 || reads != 0 {
			t.Errorf("%d polls and %d reads after a change", polls, reads)
		}
		// What another load has found is known.
		p.store("3", cache.Load{Version: "3"})
		h.Loaded(cache.Load{Key: cache.Key{Integration: "it", Revision: "1", Store: store, Name: "a"}, Concerns: func(string) bool { return true }, Version: "3", ReadAt: time.Now()})
		expect(t, s, time.Second, "0 CHANGED 3")
		if polls, reads := p.during(time.Minute); polls < 5 || reads != 0 {
			t.Errorf("%d polls and %d reads after a load", polls, reads)
		}
	})
}

// TestPollHint: a hint is a read, not a poll.
func TestPollHint(t *testing.T) {
	withPolls(t, func(t *testing.T, h *Hub, p *polled, _ *Stream) {
		time.Sleep(5 * time.Second)
		h.Hint("it", store, "a")
		if polls, reads := p.during(time.Second); polls != 0 || reads != 1 {
			t.Errorf("%d polls and %d reads", polls, reads)
		}
	})
}

// TestPollRefused: a store that does not permit polls is read once per time-to-live, and asked
// once after each read.
func TestPollRefused(t *testing.T) {
	withPolls(t, func(t *testing.T, _ *Hub, p *polled, s *Stream) {
		p.do(func() { p.refused = true })
		if polls, reads := p.during(10 * ttl); reads < 9 || reads > 12 || polls < 9 || polls > 12 {
			t.Errorf("%d polls and %d reads within 10 times to live", polls, reads)
		}
		p.store("2", cache.Load{Version: "2"})
		expect(t, s, ttl, "0 CHANGED 2")
		p.do(func() { p.refused = false })
		time.Sleep(ttl)
		if polls, reads := p.during(2 * ttl); reads != 0 || polls < 50 {
			t.Errorf("%d polls and %d reads when polls are permitted", polls, reads)
		}
	})
}

// TestPollOutage: failed polls do not take the place of reads.
func TestPollOutage(t *testing.T) {
	withPolls(t, func(t *testing.T, _ *Hub, p *polled, s *Stream) {
		p.do(func() { p.failure = errors.New("away") })
		if _, reads := p.during(10 * ttl); reads < 9 || reads > 12 {
			t.Errorf("%d reads within 10 times to live", reads)
		}
		p.fail("a", secret.ReasonStoreUnavailable)
		expect(t, s, 2*ttl, "0 UNREADABLE STORE_UNAVAILABLE")
		p.do(func() { p.failure = nil })
		p.store("2", cache.Load{Version: "2"})
		expect(t, s, 2*ttl, "0 CHANGED 2")
		if polls, reads := p.during(2 * ttl); reads != 0 || polls < 50 {
			t.Errorf("%d polls and %d reads after the outage", polls, reads)
		}
	})
}

// TestPollDeleted: a version that was deleted and restored is noticed by polls. In between the
// secret is read once per time-to-live, because polls do not tell whether the error is still
// the same.
func TestPollDeleted(t *testing.T) {
	withPolls(t, func(t *testing.T, _ *Hub, p *polled, s *Stream) {
		p.store("1 gone", cache.Load{Err: secret.Errorf(secret.ReasonSecretDisabled, "no")})
		expect(t, s, pollEvery, "0 UNREADABLE SECRET_DISABLED")
		if polls, reads := p.during(10 * ttl); polls < 250 || reads < 9 || reads > 12 {
			t.Errorf("%d polls and %d reads within 10 times to live", polls, reads)
		}
		p.store("1", cache.Load{Version: "1"})
		expect(t, s, pollEvery, "0 CURRENT 1")
		// The end of a version's validity is not a matter of polls.
		end := time.Now().Add(ttl)
		p.store("2", cache.Load{Version: "2", ExpiresAt: end})
		expect(t, s, pollEvery, "0 CHANGED 2", "0 EXPIRING 2")
		p.store("2", cache.Load{Err: secret.Errorf(secret.ReasonSecretDisabled, "no")})
		expect(t, s, ttl+time.Second, "0 UNREADABLE SECRET_DISABLED")
		if late := time.Since(end); late < 0 || late > time.Second {
			t.Errorf("noticed %v after the end", late)
		}
	})
}

// TestPollBehind: a read that still returns the old version is repeated with the next poll.
func TestPollBehind(t *testing.T) {
	withPolls(t, func(t *testing.T, _ *Hub, p *polled, s *Stream) {
		p.store("2", cache.Load{Version: "1"})
		if polls, reads := p.during(time.Minute); reads < 5 || reads > 7 || polls < reads {
			t.Errorf("%d polls and %d reads in a minute", polls, reads)
		}
		p.store("2", cache.Load{Version: "2"})
		expect(t, s, pollEvery, "0 CHANGED 2")
	})
}
