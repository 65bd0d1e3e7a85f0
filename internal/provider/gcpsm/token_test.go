package gcpsm

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// issuer is an identity of one step, whose result the test determines.
type issuer struct {
	calls    atomic.Int64
	lifetime time.Duration
	stop     func() // of source
	// work runs during each acquisition, to delay it or make it fail; nil does
	// neither.
	work func(ctx context.Context) error
}

func (i *issuer) source(t *testing.T) *tokenSource {
	t.Helper()
	id := &identity{steps: []step{{who: oauthEndpoint, setting: "x", get: func(ctx context.Context, c *caller, _ token) (token, error) {
		i.calls.Add(1)
		if i.work != nil {
			if err := i.work(ctx); err != nil {
				c.last = exchange{made: true, err: err}
				return token{}, err
			}
		}
		return newToken("ya29.x", time.Now().Add(i.lifetime)), nil
	}}}}
	cfg := provider.Config{Logger: slog.New(slog.DiscardHandler)}.For(&integration.Integration{})
	tasks := task.NewGroup()
	s := newTokenSource(cfg, cfg.Logger, id, http.DefaultTransport, tasks)
	i.stop = func() {
		s.Close()
		if err := tasks.Stop(time.Minute); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(i.stop)
	return s
}

func (i *issuer) want(t *testing.T, calls int64) {
	t.Helper()
	synctest.Wait()
	if n := i.calls.Load(); n != calls {
		t.Errorf("%d acquisitions, want %d", n, calls)
	}
}

func get(t *testing.T, s *tokenSource) *heldToken {
	t.Helper()
	a, err := s.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTokenIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{lifetime: time.Hour, work: func(context.Context) error { time.Sleep(time.Second); return nil }}
		s := i.source(t)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { _, _ = s.Get(t.Context()) })
		}
		wg.Wait()
		get(t, s)
		i.want(t, 1)
	})
}

// A token's successor is requested before the token ends, but not before the metadata
// server issues a new one.
func TestTokenIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{lifetime: time.Hour}
		s := i.source(t)
		first := get(t, s)
		time.Sleep(time.Hour - refreshMargin - time.Second)
		if get(t, s) != first {
			t.Error("renewed too soon")
		}
		i.want(t, 1)
		time.Sleep(refreshMargin - tokenMargin)
		if get(t, s) == first {
			t.Error("the new token is not used")
		}
		i.want(t, 2)
	})
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		i := &issuer{lifetime: time.Hour, work: func(context.Context) error {
			if down.Load() {
				return errors.New("down")
			}
			return nil
		}}
		s := i.source(t)
		first := get(t, s)
		down.Store(true)
		time.Sleep(time.Hour - tokenMargin - 1)
		if get(t, s) != first {
			t.Error("the good token is not used")
		}
		time.Sleep(1)
		if _, err := s.Get(t.Context()); err == nil {
			t.Error("a token about to expire was handed out")
		}
	})
}

// A caller that stops waiting does not cancel the acquisition.
func TestTokenWaitersAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{lifetime: time.Hour, work: func(context.Context) error { time.Sleep(3 * time.Second); return nil }}
		s := i.source(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		get(t, s)
		i.want(t, 1)
		done, cancel2 := context.WithCancel(t.Context())
		cancel2()
		if _, err := s.Get(done); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLoginTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{work: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		s := i.source(t)
		began := time.Now()
		_, err := s.Get(t.Context())
		if e := secret.AsError(err); e.Reason != secret.ReasonStoreUnavailable || time.Since(began) != 10*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestTokenAlreadyExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{lifetime: tokenMargin}
		if _, err := i.source(t).Get(t.Context()); secret.AsError(err).Reason != secret.ReasonStoreAuthenticationFailed {
			t.Errorf("got %v", err)
		}
	})
}

// stop ends running acquisitions, and Get returns no token after it.
func TestTokenStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{work: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		s := i.source(t)
		errs := make(chan error)
		go func() { _, err := s.Get(t.Context()); errs <- err }()
		synctest.Wait()
		i.stop()
		if err := <-errs; !errors.Is(err, storeerror.ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := s.Get(t.Context()); !errors.Is(err, storeerror.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		i.want(t, 1)
	})
}

func TestTokenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{lifetime: time.Hour}
		s := i.source(t)
		first := get(t, s)
		if !s.refused(first) {
			t.Error("no other token is got")
		}
		second := get(t, s)
		if second == first {
			t.Fatal("the refused token is still used")
		}
		if !s.refused(first) { // reported late, by another read
			t.Error("the second token is not offered")
		}
		if s.refused(second) {
			t.Error("dropped again at once")
		}
		if get(t, s) != second {
			t.Error("not the second token")
		}
		time.Sleep(credential.RefusalPause)
		if !s.refused(second) {
			t.Error("not dropped after the pause")
		}
		get(t, s)
		i.want(t, 3)
	})
}
