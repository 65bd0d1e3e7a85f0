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
)

const (
	// maxCopyQueue is how many bytes a Copier queues at most: some ten thousand records
	// for the time of a collector's outage.
	maxCopyQueue = 8 << 20
	// sendTime is how long connecting and sending may take together.
	sendTime = 2 * time.Second
	// minBackoff and maxBackoff are the times between attempts to connect.
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Copy says where the records of a log are sent.
type Copy struct {
	Collector Collector
	// Required makes Take fail if the connection does not take the records. That proves
	// less than it seems: syslog acknowledges nothing. Without Required a bounded queue
	// holds records until they can be sent, and Take does not wait.
	Required bool
}

// Copier sends the records of a log to one Copy. For a Copy that is not required it has
// a goroutine, which ends with Close. A Copier is safe for concurrent use, but for Take
// and Disconnect of a required one, which the writer of the log calls.
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
	down   error // why nothing is being sent

	wake  chan struct{} // holds one token when there is something to look at
	stop  context.CancelFunc
	ended chan struct{}
}

// NewCopier returns a Copier. The caller has to Close it, or to Disconnect it if c is
// required.
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

// Take sends or queues whole lines. It keeps nothing of lines, and returns an error only
// if the copy is required.
func (c *Copier) Take(lines []byte) error {
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

func (c *Copier) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// sendAll is Take of a required copy. It takes two seconds at most.
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
		if err != nil && !fresh { // the connection may merely have grown old
			err = c.sender.send(ctx, line)
		}
		c.note(err)
		if err != nil {
			return fmt.Errorf("the copy to %s, which is required: %w", c.Collector, err)
		}
	}
	return nil
}

// run sends what is queued, in order.
func (c *Copier) run(ctx context.Context) {
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

// wait returns false if there will be no other attempt: nobody waits for an
// absent collector to return at the end.
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

// note keeps what came of an attempt, and logs when that changes.
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

// Close sends what is queued if that is possible within patience, and drops and logs the
// rest. It is not for a required copy.
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

// Stats returns the current figures.
func (c *Copier) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{Sent: c.sent, Dropped: c.drop, QueueBytes: c.bytes}
}

// Problem says why records cannot be sent, "" if they can.
func (c *Copier) Problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil {
		return ""
	}
	return fmt.Sprintf("the copy to %s cannot be sent: %v (dropped so far: %d)", c.Collector, c.down, c.drop)
}

// Stats are the figures of a Copier since it was made.
type Stats struct {
	// Sent counts records handed to the connection, Dropped those that were given
	// up because the queue was full, they are too long, or the log was closed.
	Sent, Dropped uint64
	// QueueBytes wait to be sent.
	QueueBytes int
}
