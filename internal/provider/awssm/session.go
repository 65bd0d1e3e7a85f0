package awssm

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/secretbroker/secretbroker/internal/provider/task"
)

const (
	// sessionMargin is how long keys must still be good to be used while their
	// successors are being acquired.
	sessionMargin = time.Minute
	// refreshAhead is how long before their end keys are replaced, in the
	// background, by the first read that sees it.
	refreshAhead = 5 * time.Minute
	// refreshPause is the least time between two attempts to replace keys that are
	// still good.
	refreshPause = 30 * time.Second
	// renewPause is the least time between two replacements of keys because AWS
	// refused them. An endpoint that refuses all keys must not make the broker ask
	// for new ones with each read.
	renewPause = 5 * time.Second
)

// keySource says where keys come from. It contacts AWS or reads files; what it
// returns is not kept by it. Its errors are *secret.Error.
type keySource func(ctx context.Context) (aws.Credentials, error)

// sessions holds the keys that requests are signed with, and has them replaced.
// Every acquisition runs in a goroutine of its own, bounded by timeout, shared by
// everyone who waits for it; callers wait no longer than their own context, and
// not at all for the replacement of keys that are still good.
//
// It is safe for concurrent use. Its errors are *secret.Error, the caller's
// context error, or errClosed.
type sessions struct {
	source  keySource
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
	tasks   *task.Group

	mu      sync.Mutex
	running *acquisition
	good    *acquisition // the latest that succeeded, unless its keys were refused
	tried   time.Time    // when the latest began
	renewed time.Time    // when the latest began because keys were refused
}

// acquisition is one run of the source. Its result may be read once done is
// closed.
type acquisition struct {
	done chan struct{}
	keys aws.Credentials
	err  error
}

// get returns keys that are good now.
func (s *sessions) get(ctx context.Context) (*acquisition, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, err := s.join()
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a, a.err
	default: // a result is not given up because ctx has ended too
	}
	select {
	case <-a.done:
		return a, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join returns the acquisition whose result answers a read: the latest good one,
// the running one, or a new one.
func (s *sessions) join() (*acquisition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.left()
	if left > sessionMargin {
		if left < refreshAhead && s.running == nil && s.now().Sub(s.tried) >= refreshPause {
			_, _ = s.start() // closed: the keys are good all the same
		}
		return s.good, nil
	}
	if s.running != nil {
		return s.running, nil
	}
	return s.start()
}

// left is how long the keys at hand are still good. s.mu is held.
func (s *sessions) left() time.Duration {
	switch {
	case s.good == nil:
		return 0
	case !s.good.keys.CanExpire:
		return refreshAhead
	default:
		return s.good.keys.Expires.Sub(s.now())
	}
}

// start begins an acquisition. s.mu is held.
func (s *sessions) start() (*acquisition, error) {
	a := &acquisition{done: make(chan struct{})}
	if !s.tasks.Start(func(closing context.Context) { s.acquire(closing, a) }) {
		return nil, errClosed
	}
	s.running, s.tried = a, s.now()
	return a, nil
}

func (s *sessions) acquire(closing context.Context, a *acquisition) {
	ctx, cancel := context.WithTimeout(closing, s.timeout)
	defer cancel()
	err := task.Contain(func() (err error) {
		a.keys, err = s.source(ctx)
		return err
	})
	switch {
	case err == nil && !a.keys.HasKeys():
		err = errors.New("awssm: the credential gave no keys")
	case err == nil && a.keys.CanExpire && a.keys.Expires.Sub(s.now()) <= sessionMargin:
		err = clockFault("the keys that the integration's credential has been given end within a minute")
	}
	if err != nil {
		a.keys, a.err = aws.Credentials{}, explainSession(ctx, s.timeout, err)
		if closing.Err() == nil {
			s.log.Warn("no keys for AWS", "error", a.err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = nil
	if a.err == nil {
		s.good = a
	}
	close(a.done)
}

// renew is told that AWS refused the keys of old. It reports whether get may have
// others now.
func (s *sessions) renew(old *acquisition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good != old {
		return true
	}
	now := s.now()
	if !s.renewed.IsZero() && now.Sub(s.renewed) < renewPause {
		return false
	}
	s.good, s.renewed = nil, now
	return true
}
