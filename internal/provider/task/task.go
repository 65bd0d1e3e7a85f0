// Package task owns the goroutines of a provider whose SDK does not honour the
// contexts of its callers: it starts and stops them, and recovers from their panics.
// It knows neither stores nor secrets.
package task

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// Group is the set of goroutines of one provider. It is safe for concurrent use.
type Group struct {
	closing context.Context
	cancel  context.CancelFunc

	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// NewGroup returns an empty Group. The caller must stop it.
func NewGroup() *Group {
	ctx, cancel := context.WithCancel(context.Background())
	return &Group{closing: ctx, cancel: cancel}
}

// Start runs f in a goroutine and passes it a context that ends with Stop. It
// returns false, without running f, after Stop.
func (t *Group) Start(f func(closing context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.wg.Go(func() {
		deepen()
		f(t.closing)
	})
	return true
}

// room is about the stack size that an SDK and net/http need.
type room [16 << 10]byte

// deepen makes the goroutine's stack grow while it is almost empty. Otherwise the
// stack would grow in steps, each of which copies the content so far; that takes a
// tenth of the time of a read.
//
//go:noinline
func deepen() {
	var r room
	touch(&r)
}

//go:noinline
func touch(*room) {}

// Stop cancels the running goroutines and waits for them, at most timeout.
func (t *Group) Stop(timeout time.Duration) error {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.cancel()
	done := make(chan struct{})
	go func() {
		t.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return errors.New("provider: requests are still under way after closing")
	}
}

// Contain calls f and converts a panic to an error. SDKs index into parts of headers
// without checking their number. A store, or a server in its position, must not be
// able to end the process that way.
func Contain(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("provider: the SDK panicked")
			if e, ok := r.(runtime.Error); ok { // its text quotes no data
				err = fmt.Errorf("provider: the SDK panicked: %w", e)
			}
		}
	}()
	return f()
}
