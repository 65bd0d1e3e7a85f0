package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/internal/backoff"
)

const (
	// maxCopyQueue limits the queue of a Copier, in bytes: about ten thousand records
	// while the collector is down.
	maxCopyQueue = 8 << 20
	// sendTime limits the time for connecting and sending a record together.
	sendTime = 2 * time.Second
)

// reconnects are the pauses between attempts to connect.
var reconnects = backoff.Limits{First: 500 * time.Millisecond, Longest: 30 * time.Second}

// Copy says where the records of a log are sent.
type Copy struct {
	Collector Collector
	// Required makes Take fail if the records cannot be written to the connection. This
	// does not prove that the collector has them: syslog has no acknowledgements.
	// Without Required a bounded queue keeps records until they can be sent, and Take
	// does not wait.
	Required bool
}

// Copier sends the records of a log to one Copy. If the Copy is not required, the Copier
// runs a goroutine, which ends with Close. A Copier is safe for concurrent use, except for
// Take and Disconnect of a required one: only the writer of the log may call them.
type Copier struct {
	Copy
	logger *slog.Logger
	sender sender

	mu     sync.Mutex
	queue  [][]byte
	bytes  int
	closed bool
	sent   uint64
	drop   uint64
	down   error // of the last attempt to send; nil if it succeeded

	wake  chan struct{} // has a token when the queue or closed has changed
	stop  context.CancelFunc
	ended chan struct{}
}

// NewCopier returns a Copier. The caller must Close it, or Disconnect it if c is required.
func NewCopier(c Copy, logger *slog.Logger) *Copier {
	ctx, stop := context.WithCancel(context.Background())
	cp := &Copier{
		Copy: c, logger: logger, sender: sender{collector: c.Collector, header: newHeader()},
		wake: make(chan struct{}, 1), stop: stop, ended: make(chan struct{}),
	}
	if c.Required {
		close(cp.ended)
	} else {
		go cp.run(ctx)
	}
	return cp
}

// Take sends or queues whole lines. It does not retain lines, and returns an error only if
// the copy is required.
func (c *Copier) Take(lines []byte) error {
	if c.Required {
		return c.sendAll(lines)
	}
	c.mu.Lock()
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSuffix(line, []byte{'\n'})
		switch {
		case len(line) == 0: // the newline that ended a torn line
		case c.closed || c.bytes+len(line) > maxCopyQueue:
			c.drop++
		default:
			c.queue = append(c.queue, bytes.Clone(line))
			c.bytes += len(line)
		}
	}
	c.mu.Unlock()
	c.nudge()
	return nil
}

func (c *Copier) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// sendAll is Take for a required copy. It returns within two seconds.
func (c *Copier) sendAll(lines []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTime)
	defer cancel()
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSuffix(line, []byte{'\n'})
		if len(line) == 0 {
			continue
		}
		fresh := c.sender.conn == nil
		err := c.sender.send(ctx, line)
		if err != nil && !fresh { // the collector may have closed an idle connection
			err = c.sender.send(ctx, line)
		}
		c.note(err)
		if err != nil {
			return fmt.Errorf("send the required copy to %s: %w", c.Collector, err)
		}
	}
	return nil
}

// run sends the queued lines in order.
func (c *Copier) run(ctx context.Context) {
	defer close(c.ended)
	defer c.sender.close()
	failures := 0 // in a row
	for {
		line, ok := c.next(ctx)
		if !ok {
			return
		}
		for {
			err := c.sender.send(ctx, line)
			c.note(err)
			if err == nil {
				failures = 0
				break
			}
			if errors.Is(err, syscall.EMSGSIZE) { // the line does not fit into a datagram
				c.count(&c.drop)
				break
			}
			failures++
			if !c.wait(ctx, backoff.Jitter(reconnects.After(failures))) {
				c.count(&c.drop)
				return
			}
		}
	}
}

// next waits for the next line. It returns false when the queue is empty and closed, or ctx
// ends.
func (c *Copier) next(ctx context.Context) ([]byte, bool) {
	for {
		c.mu.Lock()
		if len(c.queue) > 0 {
			line := c.queue[0]
			c.queue[0] = nil
			c.queue = c.queue[1:]
			c.bytes -= len(line)
			c.mu.Unlock()
			return line, true
		}
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return nil, false
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// wait waits for d before another attempt. It returns false if there must be none, because
// the Copier is closed: Close does not wait for a collector to come back.
func (c *Copier) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-c.wake:
		case <-ctx.Done():
			return false
		}
	}
}

func (c *Copier) count(n *uint64) {
	c.mu.Lock()
	*n++
	c.mu.Unlock()
}

// note stores the result of an attempt, and logs a change between failure and success.
func (c *Copier) note(err error) {
	c.mu.Lock()
	before := c.down
	c.down = err
	if err == nil {
		c.sent++
	}
	c.mu.Unlock()
	switch {
	case err != nil && before == nil:
		c.logger.Warn("the copy of the audit log cannot be sent", "copy", c.Collector.String(), "error", err)
	case err == nil && before != nil:
		c.logger.Info("the copy of the audit log is being sent again", "copy", c.Collector.String())
	}
}

// Close sends the queued lines for at most patience. It drops the rest and logs their
// number. It must not be called for a required copy.
func (c *Copier) Close(patience time.Duration) {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	if again {
		<-c.ended
		return
	}
	c.nudge()
	timer := time.AfterFunc(patience, c.stop)
	<-c.ended
	timer.Stop()
	c.stop()
	c.mu.Lock()
	c.drop += uint64(len(c.queue))
	c.queue, c.bytes = nil, 0
	lost := c.drop
	c.mu.Unlock()
	if lost > 0 {
		c.logger.Warn("records were not sent to the copy of the audit log", "copy", c.Collector.String(), "records", lost)
	}
}

// Disconnect closes the connection of a required copy.
func (c *Copier) Disconnect() { c.sender.close() }

// Stats returns the current counters.
func (c *Copier) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Sent: c.sent, Dropped: c.drop, QueueBytes: c.bytes}
}

// Problem describes for an operator why records cannot be sent, "" if they can.
func (c *Copier) Problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil {
		return ""
	}
	return fmt.Sprintf("the copy to %s cannot be sent: %v (dropped so far: %d)", c.Collector, c.down, c.drop)
}

// Stats are the counters of a Copier since its creation.
type Stats struct {
	// Sent counts records written to the connection. Dropped counts records that were
	// not sent because the queue was full, they were too long, or the log was closed.
	Sent, Dropped uint64
	// QueueBytes is the size of the queue, in bytes.
	QueueBytes int
}
