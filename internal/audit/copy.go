package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

const (
	// maxCopyQueue is how many bytes wait for a copy at most: an outage of a
	// collector is bridged for some ten thousand records.
	maxCopyQueue = 8 << 20
	// sendTime is how long connecting and sending may take.
	sendTime = 2 * time.Second
	// minBackoff and maxBackoff are the times between attempts to connect.
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Copy is a syslog collector that is sent every record after it was written.
type Copy struct {
	Syslog Syslog
	// Required makes a Write fail whose records the connection does not take. It
	// says no more than that: syslog acknowledges nothing. Without it, sending is
	// tried for as long as a bounded queue has room, and nobody waits.
	Required bool
}

// copier sends records to one Copy. Unless that is required, one goroutine does
// so, which ends after close.
type copier struct {
	Copy
	logger *slog.Logger
	sender sender

	mu     sync.Mutex
	queue  [][]byte
	bytes  int
	closed bool
	sent   uint64
	drop   uint64
	down   error // why nothing is being sent

	wake  chan struct{} // holds one token when there is something to look at
	stop  context.CancelFunc
	ended chan struct{}
}

func newCopier(c Copy, logger *slog.Logger) *copier {
	ctx, stop := context.WithCancel(context.Background())
	cp := &copier{
		Copy: c, logger: logger, sender: sender{syslog: c.Syslog, header: newHeader()},
		wake: make(chan struct{}, 1), stop: stop, ended: make(chan struct{}),
	}
	if c.Required {
		close(cp.ended)
	} else {
		go cp.run(ctx)
	}
	return cp
}

// take is handed whole lines by the Log's writer. It keeps nothing of them, and
// returns an error only if the copy is required.
func (c *copier) take(lines []byte) error {
	if c.Required {
		return c.sendAll(lines)
	}
	c.mu.Lock()
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSuffix(line, []byte{'\n'})
		switch {
		case len(line) == 0: // what ended a torn line
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

func (c *copier) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// sendAll is take of a required copy.
func (c *copier) sendAll(lines []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTime)
	defer cancel()
	for line := range bytes.Lines(lines) {
		line = bytes.TrimSuffix(line, []byte{'\n'})
		if len(line) == 0 {
			continue
		}
		fresh := c.sender.conn == nil
		err := c.sender.send(ctx, line)
		if err != nil && !fresh { // the connection may merely have grown old
			err = c.sender.send(ctx, line)
		}
		c.note(err)
		if err != nil {
			return fmt.Errorf("the copy to %s, which is required: %w", c.Syslog, err)
		}
	}
	return nil
}

// run sends what is queued, in order.
func (c *copier) run(ctx context.Context) {
	defer close(c.ended)
	defer c.sender.close()
	backoff := minBackoff
	for {
		line, ok := c.next(ctx)
		if !ok {
			return
		}
		for {
			err := c.sender.send(ctx, line)
			c.note(err)
			if err == nil {
				backoff = minBackoff
				break
			}
			if errors.Is(err, syscall.EMSGSIZE) { // no datagram will ever hold it
				c.count(&c.drop)
				break
			}
			if !c.wait(ctx, backoff) {
				c.count(&c.drop)
				return
			}
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// next returns the next line, and false when there is none and will be none.
func (c *copier) next(ctx context.Context) ([]byte, bool) {
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

// wait returns false if there will be no other attempt: nobody waits for an
// absent collector to return at the end.
func (c *copier) wait(ctx context.Context, d time.Duration) bool {
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

func (c *copier) count(n *uint64) {
	c.mu.Lock()
	*n++
	c.mu.Unlock()
}

// note keeps what came of an attempt, and logs when that changes.
func (c *copier) note(err error) {
	c.mu.Lock()
	before := c.down
	c.down = err
	if err == nil {
		c.sent++
	}
	c.mu.Unlock()
	switch {
	case err != nil && before == nil:
		c.logger.Warn("the copy of the audit log cannot be sent", "copy", c.Syslog.String(), "error", err)
	case err == nil && before != nil:
		c.logger.Info("the copy of the audit log is being sent again", "copy", c.Syslog.String())
	}
}

// close sends what is queued if that is possible within patience; the rest is
// dropped and logged. It is not for a required copy.
func (c *copier) close(patience time.Duration) {
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
		c.logger.Warn("records were not sent to the copy of the audit log", "copy", c.Syslog.String(), "records", lost)
	}
}

func (c *copier) stats() CopyStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CopyStats{Sent: c.sent, Dropped: c.drop, QueueBytes: c.bytes}
}

// problem says what is wrong with the copy, or nothing.
func (c *copier) problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil {
		return ""
	}
	return fmt.Sprintf("the copy to %s cannot be sent: %v (dropped so far: %d)", c.Syslog, c.down, c.drop)
}
