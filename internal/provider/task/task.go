// Package task owns the goroutines of a provider whose SDK does not honour the
// contexts of its callers: it starts them, ends them, and contains their panics.
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

// Group are the goroutines of one provider. It is safe for concurrent use.
type Group struct {
	closing context.Context
	cancel  context.CancelFunc

	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

// NewGroup makes an empty Group. It must be stopped.
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

// room is about what an SDK and net/http take of a stack.
type room [16 << 10]byte

// deepen has the goroutine's stack grow while nothing is on it. It would else grow
// in steps, each of which copies what is there by then: a tenth of what a read
// costs.
//
//go:noinline
func deepen() {
	var r room
	touch(&r)
}

//go:noinline
func touch(*room) {}

// Stop cancels what runs and waits for it, at most timeout.
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

// Contain calls f and turns a panic into an error. SDKs index into parts of
// headers without looking how many there are; a store, or whatever answers in
// its place, must not end the process that way.
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
