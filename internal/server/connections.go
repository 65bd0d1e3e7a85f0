package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// connections knows every open connection. It bounds how many each principal
// has: up to the limit they serve; as many again are let in so that the caller
// can be told why its calls are refused; beyond that the handshake fails. Peers
// without an identity count as one principal. And it cuts off those whose
// certificate is no longer good.
type connections struct {
	limit    int
	log      *slog.Logger
	metrics  *connectionMetrics
	memory   *budget.Budget
	patience patience
	abuse    *rate.Limiter // of log lines

	mu   sync.Mutex
	of   map[authz.Principal]*owner
	open map[*connection]struct{}
}

// owner is what the connections of one principal have in common.
type owner struct {
	count   int // of open connections
	account *budget.Account
	resets  *rate.Limiter
	control *rate.Limiter
}

func newConnections(limit int, log *slog.Logger, metrics *connectionMetrics, memory *budget.Budget, p patience) *connections {
	return &connections{
		limit: limit, log: log, metrics: metrics, memory: memory, patience: p, abuse: rate.NewLimiter(refusalsPerSecond, refusalBurst),
		of: make(map[authz.Principal]*owner), open: make(map[*connection]struct{}),
	}
}

var errTooManyConnections = errors.New("server: the caller has too many connections open")

// connection is one of a known peer; it tells when it is closed.
type connection struct {
	net.Conn          // TLS
	raw      net.Conn // beneath it
	who      authz.Principal
	serial   string
	peer     *trust.Peer // for recheck alone
	removed  func()
	isCut    bool // for recheck alone
	commitBarrier
	traffic  traffic
	patience patience
	// abused is called when the peer makes the broker keep too much, or wait.
	abused func(why error)
	// unrecorded is called when what was answered could not be recorded.
	unrecorded func(err error)
}

// add keeps a connection until it is closed.
func (c *connections) add(conn *connection) (excess bool, err error) {
	conn.removed = sync.OnceFunc(func() { c.remove(conn) })
	conn.unrecorded = func(err error) {
		c.metrics.unrecorded.Inc()
		c.log.Error("a connection was closed, and its answers withheld: the audit log cannot be written", "peer", conn.RemoteAddr().String(),
			"principal", string(conn.who), "error", err)
	}
	conn.abused = func(why error) { c.cutAbuser(conn, why) }
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.of[conn.who]
	if o == nil {
		o = &owner{account: c.memory.Account(string(conn.who)), resets: rate.NewLimiter(resetsPerSecond, resetBurst), control: rate.NewLimiter(controlPerSecond, controlBurst)}
		c.of[conn.who] = o
	}
	if o.count >= 2*c.limit {
		return false, errTooManyConnections
	}
	o.count++
	conn.traffic.account, conn.traffic.resets, conn.traffic.control = o.account, o.resets, o.control
	conn.traffic.in.skip = prefaceLength
	conn.patience = c.patience
	c.open[conn] = struct{}{}
	return o.count > c.limit, nil
}

func (c *connections) remove(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[conn.who].count--
	c.forget(conn.who, time.Now())
	delete(c.open, conn)
}

// forget forgets a principal that has no connection, unless it has recently made
// rapid resets or sent many control frames. The lock is held.
func (c *connections) forget(who authz.Principal, now time.Time) {
	if o := c.of[who]; o.count <= 0 && o.resets.TokensAt(now) >= resetBurst && o.control.TokensAt(now) >= controlBurst/2 {
		o.account.Close()
		delete(c.of, who)
	}
}

// cutAbuser cuts off a connection whose peer makes the broker keep too much, or
// wait.
func (c *connections) cutAbuser(conn *connection, why error) {
	c.metrics.abused[why].Inc()
	if c.abuse.Allow() {
		c.log.Warn("a connection was cut", "peer", conn.RemoteAddr().String(), "principal", string(conn.who), "serial", conn.serial, "error", why)
	}
	_ = conn.raw.Close() // beneath TLS, as in recheck
}

// checkTraffic cuts off connections that keep the broker waiting, at every
// interval, until ctx ends.
func (c *connections) checkTraffic(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, conn := range c.all() {
				if why := conn.traffic.check(now, c.patience); why != nil {
					c.cutAbuser(conn, why)
				}
			}
			c.mu.Lock()
			for who := range c.of {
				c.forget(who, now)
			}
			c.mu.Unlock()
		}
	}
}

// all returns the open connections.
func (c *connections) all() []*connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := make([]*connection, 0, len(c.open))
	for conn := range c.open {
		open = append(open, conn)
	}
	return open
}

// watch judges every open connection anew, as its handshake did, whenever
// something else comes into force and at every interval, until ctx ends.
func (c *connections) watch(ctx context.Context, in *trust.Store, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		changed := in.Changed() // before, so that no change is missed
		c.recheck()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// recheck cuts off whoever would not be let in just now. It is called by one
// goroutine.
func (c *connections) recheck() {
	for _, conn := range c.all() {
		if conn.isCut {
			continue
		}
		if err := conn.peer.Check(); err != nil {
			c.log.Warn("a connection was cut: its client certificate is no longer good", "peer", conn.RemoteAddr().String(),
				"principal", string(conn.who), "serial", conn.serial, "error", err)
			conn.isCut = true
			c.metrics.cut.Inc()
			// Beneath TLS, which would wait for the peer to take its goodbye. gRPC
			// notices, ends the calls and closes the connection.
			_ = conn.raw.Close()
		}
	}
}

func (c *connection) Close() error {
	c.removed()
	err := c.Conn.Close()
	c.traffic.close()
	return err
}

// SyscallConn lets gRPC set the socket's options, as it could without counting.
func (c *connection) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
