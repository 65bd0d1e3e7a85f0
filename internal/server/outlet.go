package server

import (
	"errors"
	"sync"
	"time"
)

// outlet is the way out of a connection. What is answered on it is kept back until
// all that it was told to wait for has come about, so that a handler can be done
// with a call whose audit record is still on its way to the disk: HTTP/2 writes the
// answers of many calls at once, and one wait does for all of them.
type outlet struct {
	mu      sync.Mutex
	held    []recording
	failed  error      // of one of them; nothing goes out any more
	writing sync.Mutex // one write at a time, each after what it has to wait for
}

// recording is something that is being recorded.
type recording = interface{ Wait() error }

// Hold is resolve.Outlet's. gRPC writes an answer after its handler has returned, so
// that what a handler held is seen by the write.
func (o *outlet) Hold(until recording) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.held); n > 0 && o.held[n-1] == until {
		return // calls that share a group commit
	}
	o.held = append(o.held, until)
}

// settle waits for everything that is held. news says that it is the first failure.
func (o *outlet) settle() (news bool, err error) {
	o.mu.Lock()
	held, err := o.held, o.failed
	o.held = nil
	o.mu.Unlock()
	if err != nil {
		return false, err
	}
	for _, until := range held {
		if err := until.Wait(); err != nil {
			o.mu.Lock()
			o.failed = err
			o.mu.Unlock()
			return true, err
		}
	}
	return false, nil
}

// Write writes to the connection once everything is recorded that b may tell of. If
// that fails, the connection is closed: what it would have answered is in b, with
// values, and callers learn from the next connection what is wrong.
func (c *connection) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	news, err := c.settle()
	if news {
		c.unrecorded(err)
		_ = c.raw.Close() // by which gRPC notices
	}
	if err != nil {
		return 0, err
	}
	c.traffic.writes(b)
	defer c.traffic.written()
	return c.Conn.Write(b)
}

// Read reads from the connection, unless its peer makes the broker keep too much:
// then it is cut off.
func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		why := c.traffic.received(b[:n], time.Now())
		if why != nil && (!errors.Is(why, errTooMuchMemory) || !c.traffic.wait(c.patience.memory)) {
			c.abused(why)
			return 0, why
		}
	}
	return n, err
}
