package server

import (
	"errors"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/resolve"
)

// commitBarrier delays the writes of a connection until the audit log has committed
// the records of every answer that they may contain.
//
// A handler can return while the record of its call is still on the way to the disk,
// and no goroutine waits per call: HTTP/2 writes the answers of many calls at once, and
// the connection waits once for all of them.
type commitBarrier struct {
	mu      sync.Mutex
	pending []resolve.Commit // what the next write waits for
	failed  error            // the first failed commit; nothing is written after it
	writing sync.Mutex       // allows one write at a time, so that none overtakes one that waits
}

// HoldUntil implements resolve.CommitBarrier. gRPC writes an answer after its handler
// has returned, so the write sees every commit that the handler added.
func (b *commitBarrier) HoldUntil(commit resolve.Commit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.pending); n > 0 && b.pending[n-1] == commit {
		return // calls of one batch share their commit
	}
	b.pending = append(b.pending, commit)
}

// await waits for the pending commits. If one failed, first reports whether this call
// is the first to return the error.
func (b *commitBarrier) await() (first bool, err error) {
	b.mu.Lock()
	pending, err := b.pending, b.failed
	b.pending = nil
	b.mu.Unlock()
	if err != nil {
		return false, err
	}
	for _, commit := range pending {
		if err := commit.Wait(); err != nil {
			b.mu.Lock()
			b.failed = err
			b.mu.Unlock()
			return true, err
		}
	}
	return false, nil
}

// Write writes b to the connection after the commits of all records that b may depend
// on. If one of them failed, Write closes the connection instead: b contains the
// unrecorded answers with their values. Callers learn the reason on their next
// connection.
func (c *connection) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	first, err := c.await()
	if first {
		c.unrecorded(err)
		_ = c.raw.Close() // gRPC notices that
	}
	if err != nil {
		return 0, err
	}
	c.traffic.writes(b)
	defer c.traffic.written()
	return c.Conn.Write(b)
}

// Read reads from the connection. It closes the connection if the peer exceeds a bound on
// memory or frames, see traffic.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		why := c.traffic.received(b[:n], time.Now())
		if why != nil && (!errors.Is(why, errTooMuchMemory) || !c.traffic.wait(c.timeouts.memory)) {
			c.abused(why)
			return 0, why
		}
	}
	return n, err
}
