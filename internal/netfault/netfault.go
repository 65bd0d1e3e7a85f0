// Package netfault is a TCP proxy for tests that simulates network failures: it delays
// traffic, stalls it without closing connections, resets connections, refuses new ones, and
// redirects new connections to another server. It counts the traffic.
package netfault

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy forwards TCP connections to a target. All methods are safe for
// concurrent use.
type Proxy struct {
	listener net.Listener
	ctx      context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup

	toServer, toClient atomic.Uint64 // bytes forwarded
	roundTrips         atomic.Uint64
	accepted           atomic.Uint64

	mu     sync.Mutex
	target string
	delay  time.Duration
	refuse bool
	hold   chan struct{} // closed by Release; nil while traffic flows
	conns  map[*pair]struct{}
}

// pair is a connection of a client and the connection to the server; server is nil until it
// has been made.
type pair struct {
	client, server net.Conn
	// answered reports that the last bytes went to the client, so that the next bytes of
	// the client start another round trip.
	answered atomic.Bool
}

// Listen starts a proxy on an address, such as "127.0.0.1:0". The caller closes it.
func Listen(addr, target string) (*Proxy, error) {
	ctx, stop := context.WithCancel(context.Background())
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		stop()
		return nil, err
	}
	p := &Proxy{listener: l, ctx: ctx, stop: stop, target: target, conns: make(map[*pair]struct{})}
	p.running.Go(p.accept)
	return p, nil
}

// Addr returns the address that clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close resets all connections, stops listening and waits for the proxy's
// goroutines.
func (p *Proxy) Close() error {
	p.stop()
	err := p.listener.Close()
	p.Release()
	p.Cut()
	p.running.Wait()
	return err
}

// SetTarget sends future connections to another server. It does not affect open ones.
func (p *Proxy) SetTarget(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// SetDelay delays bytes that arrive from now on by oneWay in each direction. It does not
// reduce the throughput.
func (p *Proxy) SetDelay(oneWay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = oneWay
}

// Refuse makes the proxy reset new connections (true), or accept them again (false).
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Hold makes the proxy a black hole: connections stay open and new ones are accepted, but
// until Release the proxy forwards neither bytes nor the end of a connection. Release
// delivers what was sent in the meantime, as TCP does.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold == nil {
		p.hold = make(chan struct{})
	}
}

// Release ends Hold.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold != nil {
		close(p.hold)
		p.hold = nil
	}
}

// Cut resets all open connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c.client)
		if c.server != nil {
			reset(c.server)
		}
	}
}

// Open returns the number of open connections.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Stats counts the traffic since Listen.
type Stats struct {
	ToServer, ToClient uint64 // bytes
	// RoundTrips is how many times a client started to send after the server had
	// answered, over all connections. Pipelined requests count as one.
	RoundTrips uint64
	// Accepted is the number of connections.
	Accepted uint64
}

// Sub returns the difference to earlier Stats.
func (s Stats) Sub(earlier Stats) Stats {
	return Stats{
		ToServer: s.ToServer - earlier.ToServer, ToClient: s.ToClient - earlier.ToClient,
		RoundTrips: s.RoundTrips - earlier.RoundTrips, Accepted: s.Accepted - earlier.Accepted,
	}
}

// Stats returns the counts so far.
func (p *Proxy) Stats() Stats {
	return Stats{ToServer: p.toServer.Load(), ToClient: p.toClient.Load(), RoundTrips: p.roundTrips.Load(), Accepted: p.accepted.Load()}
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // makes Close send a reset; fails if c is closed
	}
	_ = c.Close() // the written data does not matter
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.accepted.Add(1)
		c := &pair{client: client}
		c.answered.Store(true)
		p.mu.Lock()
		if p.refuse || p.ctx.Err() != nil {
			p.mu.Unlock()
			reset(client)
			continue
		}
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { p.forward(c) })
	}
}

// forward serves one client until either side has ended.
func (p *Proxy) forward(c *pair) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		_ = c.client.Close()
	}()
	if p.waitHeld() != nil { // a black hole does not connect to the server
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	var d net.Dialer
	server, err := d.DialContext(p.ctx, "tcp", target)
	if err != nil {
		reset(c.client)
		return
	}
	defer server.Close()
	p.mu.Lock()
	c.server = server
	p.mu.Unlock()
	var ways sync.WaitGroup
	ways.Go(func() { p.pump(c, server, c.client, true) })
	ways.Go(func() { p.pump(c, c.client, server, false) })
	ways.Wait()
}

// waitHeld waits while traffic is held. It fails if the proxy is closed.
func (p *Proxy) waitHeld() error {
	for {
		p.mu.Lock()
		hold := p.hold
		p.mu.Unlock()
		if hold == nil {
			return p.ctx.Err()
		}
		select {
		case <-hold:
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
}

// chunk is the result of one Read and the time at which to forward it; nil bytes are the end.
type chunk struct {
	bytes []byte
	due   time.Time
}

// pump forwards one direction. It reads and writes in different goroutines, so that a delay
// does not stop the sender.
func (p *Proxy) pump(c *pair, to, from net.Conn, fromClient bool) {
	queue := make(chan chunk, 1024)
	p.running.Go(func() {
		defer close(queue)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			p.mu.Lock()
			due := time.Now().Add(p.delay)
			p.mu.Unlock()
			if n > 0 {
				queue <- chunk{buf[:n], due}
			}
			if err != nil {
				queue <- chunk{nil, due}
				return
			}
		}
	})
	failed := false
	for next := range queue {
		if failed {
			continue // until the reader has ended
		}
		if p.waitUntil(next.due) != nil || p.waitHeld() != nil || next.bytes == nil {
			failed = true
			_, _ = to.Close(), from.Close() // ends the other direction, and the reader
			continue
		}
		p.count(c, fromClient, len(next.bytes))
		if _, err := to.Write(next.bytes); err != nil {
			failed = true
			_, _ = to.Close(), from.Close()
		}
	}
}

func (p *Proxy) count(c *pair, fromClient bool, n int) {
	if !fromClient {
		p.toClient.Add(uint64(n)) //nolint:gosec // Read returns no negative count
		c.answered.Store(true)
		return
	}
	p.toServer.Add(uint64(n)) //nolint:gosec // as above
	if c.answered.Swap(false) {
		p.roundTrips.Add(1)
	}
}

func (p *Proxy) waitUntil(due time.Time) error {
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}
