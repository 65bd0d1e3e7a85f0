//go:build unix

package sqlstore

import (
	"sync"
	"time"
)

// clock is the real clock plus an offset that a test sets.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func newClock() *clock { return &clock{} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}
