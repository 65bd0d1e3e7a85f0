package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/trust"
)

// connections holds every open connection and limits the number of connections of each
// principal. Up to the limit, connections serve calls. The same number again is accepted
// but has its calls refused, so that the caller learns the reason. Beyond that the
// handshake fails. Peers without an identity count as one principal. connections also
// closes the connections of peers whose certificate is no longer valid, or denied.
type connections struct {
	limit    int
	log      *slog.Logger
	metrics  *connectionMetrics
	memory   *budget.Budget
	timeouts timeouts
	abuse    *rate.Limiter // limits log lines about abuse
	denials  *denial.Set
	// deniedLog limits log lines about new connections of denied clients.
	deniedLog *rate.Limiter

	mu   sync.Mutex
	of   map[authz.Principal]*owner
	open map[*connection]struct{}
}

// owner is the state that the connections of one principal share.
type owner struct {
	count   int // open connections
	account *budget.Account
	resets  *rate.Limiter
	control *rate.Limiter
}

func newConnections(limit int, log *slog.Logger, metrics *connectionMetrics, memory *budget.Budget, p timeouts, denials *denial.Set) *connections {
	return &connections{
		limit: limit, log: log, metrics: metrics, memory: memory, timeouts: p, abuse: rate.NewLimiter(refusalsPerSecond, refusalBurst),
		denials: denials, deniedLog: rate.NewLimiter(refusalsPerSecond, refusalBurst),
		of: make(map[authz.Principal]*owner), open: make(map[*connection]struct{}),
	}
}

var errTooManyConnections = errors.New("server: the caller has too many connections open")

// connection is a connection to an identified peer. It reports when it is closed.
type connection struct {
	net.Conn          // the TLS connection
	raw      net.Conn // the connection below TLS
	who      authz.Principal
	peer     *trust.Peer // used by recheck only
	removed  func()
	isCut    bool // used by recheck only

	certificate denial.Certificate
	denials     *denial.Set
	// cleared is the last list that was found not to deny the certificate.
	cleared atomic.Pointer[denial.List]
	// denied is the list that denied the certificate during the handshake, nil if it did
	// not. begun is the time of the handshake.
	denied *denial.List
	begun  time.Time

	commitBarrier
	traffic  traffic
	timeouts timeouts
	// abused is called when the peer exceeds a bound on memory or waiting time.
	abused func(why error)
	// unrecorded is called when the audit log could not record an answer.
	unrecorded func(err error)
}

// add tracks a connection until it is closed.
func (c *connections) add(conn *connection) (excess bool, err error) {
	conn.removed = sync.OnceFunc(func() { c.remove(conn) })
	conn.unrecorded = func(err error) {
		c.metrics.unrecorded.Inc()
		c.log.Error("closed a connection and withheld its answers: the audit log cannot be written", "peer", conn.RemoteAddr().String(),
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
	conn.traffic.goingAway, conn.traffic.announce = context.WithCancel(context.Background())
	conn.timeouts = c.timeouts
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

// forget removes the state of a principal that has no connection, unless the principal
// recently made rapid resets or sent many control frames: a new connection must not give
// it a new allowance. It requires the lock.
func (c *connections) forget(who authz.Principal, now time.Time) {
	if o := c.of[who]; o.count <= 0 && o.resets.TokensAt(now) >= resetBurst && o.control.TokensAt(now) >= controlBurst/2 {
		o.account.Close()
		delete(c.of, who)
	}
}

// cutAbuser closes a connection whose peer exceeded a bound on memory or waiting time.
func (c *connections) cutAbuser(conn *connection, why error) {
	c.metrics.abused[why].Inc()
	if c.abuse.Allow() {
		c.log.Warn("closed a connection", "peer", conn.RemoteAddr().String(), "principal", string(conn.who), "serial", conn.certificate.Serial, "error", why)
	}
	_ = conn.raw.Close() // below TLS, as in recheck
}

// checkTraffic closes the connections that keep the broker waiting for too long. It checks
// at every interval until ctx ends.
func (c *connections) checkTraffic(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, conn := range c.all() {
				if why := conn.traffic.check(now, c.timeouts); why != nil {
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

// deniedBy returns the entry of the deny list that denies the peer now, or nil. Unless the
// list has changed since the last call, it costs two atomic loads.
func (c *connection) deniedBy(now time.Time) *denial.Entry {
	list := c.denials.Current()
	if list == c.cleared.Load() {
		return nil
	}
	entry := list.Find(c.certificate, now)
	if entry == nil {
		c.cleared.Store(list)
	}
	return entry
}

// tellDenied counts and logs a connection of a denied client.
func (c *connections) tellDenied(isNew bool, conn *connection, entry *denial.Entry) {
	c.metrics.denied.Inc()
	if !c.deniedLog.Allow() {
		return
	}
	log := c.log.With("peer", conn.RemoteAddr().String(), "principal", string(conn.certificate.Principal),
		"certificate_sha256", conn.certificate.SHA256, "denial", entry.Subject.String())
	if isNew {
		log.Warn("a denied client connected; its calls are refused")
		return
	}
	log.Warn("closed a connection: its client is denied")
}

// watch applies the checks of the handshake to every open connection again: after each
// change of the trust configuration or the deny list and at every interval, until ctx ends.
func (c *connections) watch(ctx context.Context, in *trust.Store, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		changed, denied := in.Changed(), c.denials.Changed() // before recheck, so that no change is missed
		c.recheck()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-denied:
		case <-tick.C:
		}
	}
}

// deniedTime is how long a new connection of a denied client stays open, so that the client
// learns from the answers to its calls why they are refused.
const deniedTime = 5 * time.Second

// recheck closes the connections of peers that the handshake would now refuse or deny. Only
// one goroutine calls it.
func (c *connections) recheck() {
	now := time.Now()
	for _, conn := range c.all() {
		if conn.isCut {
			continue
		}
		if conn.denied != nil {
			// With another list the client may be admitted again, which takes a handshake.
			if conn.denied != c.denials.Current() || now.Sub(conn.begun) >= deniedTime {
				conn.isCut = true
				_ = conn.raw.Close() // as below
			}
			continue
		}
		if entry := conn.deniedBy(now); entry != nil {
			c.tellDenied(false, conn, entry)
			conn.isCut = true
			_ = conn.raw.Close() // as below
			continue
		}
		if err := conn.peer.Check(); err != nil {
			c.log.Warn("closed a connection: its client certificate is no longer valid", "peer", conn.RemoteAddr().String(),
				"principal", string(conn.who), "serial", conn.certificate.Serial, "error", err)
			conn.isCut = true
			c.metrics.cut.Inc()
			// Close the connection below TLS: TLS would wait for the peer to read the close
			// notification. gRPC notices, ends the calls and closes conn.
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

// SyscallConn lets gRPC set options of the socket, as on an unwrapped connection.
func (c *connection) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
