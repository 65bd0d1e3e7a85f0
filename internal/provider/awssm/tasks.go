package awssm

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// tasks owns the goroutines of one provider: it starts them, tells them when to
// end and waits for them. It is safe for concurrent use.
type tasks struct {
	closing context.Context
	cancel  context.CancelFunc

	mu      sync.Mutex
	stopped bool
	wg      sync.WaitGroup
}

func newTasks() *tasks {
	ctx, cancel := context.WithCancel(context.Background())
	return &tasks{closing: ctx, cancel: cancel}
}

// start runs f in a goroutine and passes it a context that ends with stop. It
// returns false, without running f, after stop.
func (t *tasks) start(f func(closing context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.wg.Go(func() { f(t.closing) })
	return true
}

// stop cancels what runs and waits for it, at most timeout.
func (t *tasks) stop(timeout time.Duration) error {
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
		return errors.New("awssm: requests are still under way after closing")
	}
}

// contain calls f and turns a panic into an error. The SDK indexes into parts of
// headers without looking how many there are; a vault, or whatever answers in
// its place, must not end the process that way.
func contain(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("awssm: the SDK panicked")
			if e, ok := r.(runtime.Error); ok { // its text quotes no data
				err = fmt.Errorf("awssm: the SDK panicked: %w", e)
			}
		}
	}()
	return f()
}
