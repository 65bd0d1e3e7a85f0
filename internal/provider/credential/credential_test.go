package credential

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errRefused = secret.Errorf(secret.ReasonStoreAuthenticationFailed, "the secret is wrong")
	errDown    = secret.Errorf(secret.ReasonStoreUnavailable, "nobody there")
	errClosed  = errors.New("closed")
)

// issuer issues credentials and counts the requests.
type issuer struct {
	*Source[int]
	tasks *task.Group

	mu      sync.Mutex
	asked   int
	running int
	overlap bool
	at      []time.Time
	life    time.Duration
	takes   time.Duration
	fail    error
	lasts   []int // the credential to renew, per request; 0 for none
}

func newIssuer(t *testing.T, life time.Duration, change func(*Config[int])) *issuer {
	t.Helper()
	i := &issuer{tasks: task.NewGroup(), life: life}
	cfg := Config[int]{Acquire: i.acquire, Timeout: 10 * time.Second, Tasks: i.tasks, Closed: errClosed}
	if change != nil {
		change(&cfg)
	}
	i.Source = New(cfg)
	t.Cleanup(func() {
		i.Close()
		if err := i.tasks.Stop(time.Minute); err != nil {
			t.Error(err)
		}
		if i.overlap {
			t.Error("two acquisitions ran at the same time")
		}
	})
	return i
}

func (i *issuer) acquire(ctx context.Context, last *Held[int]) (*Held[int], error) {
	i.mu.Lock()
	i.asked++
	i.running++
	i.overlap = i.overlap || i.running > 1
	i.at = append(i.at, time.Now())
	n, takes, fail := i.asked, i.takes, i.fail
	h := &Held[int]{Value: n, Began: time.Now(), Life: i.life}
	if last != nil {
		i.lasts = append(i.lasts, last.Value)
	} else {
		i.lasts = append(i.lasts, 0)
	}
	i.mu.Unlock()
	defer func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.running--
	}()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if fail != nil {
		return nil, fail
	}
	return h, nil
}

func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

func (i *issuer) gives(t *testing.T, want int) *Held[int] {
	t.Helper()
	h, err := i.Get(t.Context())
	if err != nil || h.Value != want {
		t.Fatalf("got %v, %v; want credential %d", h, err, want)
	}
	return h
}

func (i *issuer) asks(t *testing.T, least, most int) {
	t.Helper()
	synctest.Wait()
	if n := i.count(); n < least || n > most {
		t.Errorf("asked %d times, want %d to %d", n, least, most)
	}
}

func TestOneForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.takes = 3 * time.Second
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { // perhaps the first caller; it must not cancel the others when it leaves
			if _, err := i.Get(hurried); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		for range 100 {
			wg.Go(func() {
				if h, err := i.Get(t.Context()); err != nil || h.Value != 1 {
					t.Error(h, err)
				}
			})
		}
		wg.Wait()
		i.asks(t, 1, 1)
	})
}

// 200 reads a second for ten minutes with a refused credential cause only a few
// requests to the identity provider, at growing intervals.
func TestRefusedCredentialIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.fail = errRefused
		began := time.Now()
		for range 200 {
			if _, err := i.Get(t.Context()); !errors.Is(err, errRefused) {
				t.Fatal(err)
			}
		}
		i.asks(t, 1, 1)
		for time.Since(began) < 10*time.Minute {
			_, _ = i.Get(t.Context())
			time.Sleep(5 * time.Millisecond)
		}
		i.asks(t, 12, 18)
		for n := 1; n < len(i.at); n++ {
			pause, want := i.at[n].Sub(i.at[n-1]), refusalLimits.After(n)
			if pause < want*4/5 || pause > want+5*time.Millisecond {
				t.Errorf("pause %d is %v, want %v or a fifth less", n, pause, want)
			}
		}
		// It recovers within MaxRefusalPause.
		i.set(func() { i.fail = nil })
		healed := time.Now()
		for {
			if _, err := i.Get(t.Context()); err == nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(healed); took > MaxRefusalPause+time.Second {
			t.Errorf("healed after %v", took)
		}
		// The next failure counts as a first one.
		i.set(func() { i.fail = errRefused })
		i.Forget(func(int) bool { return true })
		asked := i.count()
		_, _ = i.Get(t.Context())
		time.Sleep(RefusalPause)
		_, _ = i.Get(t.Context())
		i.asks(t, asked+2, asked+2)
	})
}

func TestOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.fail = errDown
		for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
			_, _ = i.Get(t.Context())
		}
		i.asks(t, 8, 12)
		i.set(func() { i.fail = nil })
		time.Sleep(MaxOutagePause)
		if _, err := i.Get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The pause follows a RetryAfter, within limits, and callers get the rest of it.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.fail = &secret.Error{Reason: secret.ReasonStoreThrottled, Message: "slow down", RetryAfter: 30 * time.Second}
		_, _ = i.Get(t.Context())
		time.Sleep(20 * time.Second)
		_, err := i.Get(t.Context())
		if e := secret.AsError(err); e.RetryAfter != 10*time.Second {
			t.Errorf("to be tried again after %v", e.RetryAfter)
		}
		i.asks(t, 1, 1)
		i.set(func() {
			i.fail = &secret.Error{Reason: secret.ReasonStoreThrottled, Message: "slow down", RetryAfter: time.Hour}
		})
		time.Sleep(10 * time.Second)
		_, _ = i.Get(t.Context())
		i.set(func() { i.fail = nil })
		time.Sleep(MaxRefusalPause)
		if _, err := i.Get(t.Context()); err != nil {
			t.Errorf("after %v: %v", MaxRefusalPause, err)
		}
	})
}

// A credential whose file has changed is tried at once. If the file is the same, it
// is not, however often Get is called.
func TestChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, func(c *Config[int]) { c.Inputs = Files(path) })
		i.fail = errRefused
		for range 200 {
			if _, err := i.Get(t.Context()); !errors.Is(err, errRefused) {
				t.Fatal(err)
			}
		}
		i.asks(t, 1, 1)
		write("wrong, too")
		for range 200 {
			_, _ = i.Get(t.Context())
		}
		i.asks(t, 2, 2)
		write("right")
		i.set(func() { i.fail = nil })
		i.gives(t, 3)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		i.gives(t, 3) // the current credential stays valid
	})
}

// A timer renews a credential in use before its end, and no caller waits. A
// credential that is no longer used ends.
func TestRenewalByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.gives(t, 1)
		time.Sleep(45 * time.Minute) // not used since, but acquired for a caller
		i.asks(t, 2, 2)
		if i.lasts[1] != 1 {
			t.Errorf("renewed %v", i.lasts)
		}
		began := time.Now()
		i.set(func() { i.takes = 5 * time.Second })
		for range 10 { // in constant use: renewed once in each life
			for range 40 {
				if _, err := i.Get(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
		}
		i.asks(t, 9, 12)
		if waited := time.Since(began); waited != 400*time.Minute {
			t.Errorf("somebody waited: %v", waited-400*time.Minute)
		}
		asked := i.count()
		time.Sleep(24 * time.Hour) // not used
		i.asks(t, asked, asked+1)
		i.set(func() { i.takes = 0 })
		i.gives(t, i.count()+1)
	})
}

// A touched credential is in use, too.
func TestTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.gives(t, 1)
		for range 300 {
			time.Sleep(time.Minute)
			i.Touch()
		}
		i.asks(t, 6, 8)
	})
}

// With Keep, a credential is renewed from the start, whether or not it is used, also
// after failures.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, 20*time.Second, func(c *Config[int]) { c.Keep = true })
		i.fail = errDown
		i.Begin()
		time.Sleep(time.Minute)
		i.asks(t, 6, 14)
		i.set(func() { i.fail = nil })
		time.Sleep(MaxOutagePause)
		asked := i.count()
		time.Sleep(time.Hour)
		i.asks(t, asked+3600/20, asked+3600/13+1)
		for n, last := range i.lasts[asked:] {
			if last != asked+n {
				t.Fatalf("renewed %d when there was %d", last, asked+n)
			}
		}
		i.set(func() { i.fail = errDown }) // renewal is retried while the credential is valid
		time.Sleep(19 * time.Second)
		i.set(func() { i.fail = nil })
		time.Sleep(MaxOutagePause)
		asked = i.count()
		i.gives(t, asked)
		i.Close()
		time.Sleep(time.Hour)
		i.asks(t, asked, asked)
	})
}

// The machine was suspended: the timer stood still. A kept credential is renewed within a
// minute, not only at the end of the timer.
func TestKeptWhileSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skipped atomic.Int64
		now := func() time.Time {
			if d := time.Duration(skipped.Load()); d > 0 {
				return time.Now().Round(0).Add(d) // only the wall clock
			}
			return time.Now()
		}
		i := newIssuer(t, time.Hour, func(c *Config[int]) { c.Keep, c.Now = true, now })
		i.Begin()
		time.Sleep(5 * time.Minute)
		i.asks(t, 1, 1)
		skipped.Store(int64(45 * time.Minute))
		time.Sleep(keepInterval)
		i.asks(t, 2, 2)
		if i.lasts[1] != 1 {
			t.Error("the credential had ended")
		}
	})
}

// The machine was suspended: the monotonic clock stopped, and by the wall clock the
// credential has ended.
func TestSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skipped atomic.Int64
		now := func() time.Time {
			n := time.Now()
			if d := time.Duration(skipped.Load()); d > 0 {
				return n.Round(0).Add(d) // only the wall clock
			}
			return n
		}
		i := newIssuer(t, time.Hour, func(c *Config[int]) { c.Now = now })
		i.gives(t, 1)
		skipped.Store(int64(2 * time.Hour))
		i.gives(t, 2)
		skipped.Store(0) // setting the wall clock back does not extend a life
		time.Sleep(61 * time.Minute)
		i.gives(t, i.count())
		if i.count() < 3 {
			t.Error("a credential that has ended was given")
		}
	})
}
