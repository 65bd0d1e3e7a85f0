package egress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a server for a few hosts that counts its connections.
type site struct {
	*testing.T
	server *httptest.Server
	roots  *x509.CertPool
	hosts  []string
	// conns is the number of connections that completed TLS.
	conns atomic.Int32
}

// newSite serves hosts; set changes the server before it starts.
func newSite(t *testing.T, handler http.HandlerFunc, set func(*httptest.Server), hosts ...string) *site {
	t.Helper()
	s := &site{T: t, hosts: hosts, roots: x509.NewCertPool()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: hosts, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s.roots.AddCert(cert)
	s.server = httptest.NewUnstartedServer(handler)
	s.server.EnableHTTP2 = true
	s.server.TLS = &tls.Config{
		Certificates:     []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		VerifyConnection: func(tls.ConnectionState) error { s.conns.Add(1); return nil },
	}
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if set != nil {
		set(s.server)
	}
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	return s
}

// config returns a configuration that dials the site for all hosts.
func (s *site) config() Config {
	cfg := Config{Roots: s.roots, Dial: make(map[string]string), Timeout: 20 * time.Second}
	for _, h := range s.hosts {
		cfg.Origins = append(cfg.Origins, "https://"+h)
		cfg.Dial[h] = s.server.Listener.Addr().String()
	}
	return cfg
}

func (s *site) client(cfg Config) *http.Client {
	c := NewClient(cfg)
	s.Cleanup(c.CloseIdleConnections)
	return c
}

func get(ctx context.Context, c *http.Client, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// together sends n requests at the same time and returns how many failed.
func together(ctx context.Context, t *testing.T, c *http.Client, n int, url string) (failed int) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = get(ctx, c, url) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Log(err)
			failed++
		}
	}
	return failed
}

// meeting returns a handler that responds when n requests have arrived.
func meeting(n int) http.HandlerFunc {
	var arrived atomic.Int32
	all := make(chan struct{})
	return func(_ http.ResponseWriter, r *http.Request) {
		if arrived.Add(1) == int32(n) {
			close(all)
		}
		select {
		case <-all:
		case <-r.Context().Done():
		}
	}
}

const (
	burst   = 64
	siteURL = "https://a.example.test/"
)

// TestBurst: concurrent requests open one connection if they can share one, and as
// many as necessary otherwise. No request waits for the response to another.
func TestBurst(t *testing.T) {
	for name, tc := range map[string]struct {
		set   func(*httptest.Server)
		conns int32 // 0 for any number
	}{
		"HTTP/2":   {nil, 1},
		"HTTP/1.1": {func(s *httptest.Server) { s.EnableHTTP2 = false }, burst},
		// net/http opens a connection for each request that the first connection does
		// not accept, and some more.
		"HTTP/2 with a limit": {func(s *httptest.Server) { s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: burst / 4} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, meeting(burst), tc.set, "a.example.test")
			c := s.client(s.config())
			for range 2 { // the second time with idle connections
				if failed := together(t.Context(), t, c, burst, siteURL); failed > 0 {
					t.Errorf("%d requests failed", failed)
				}
				if n := s.conns.Load(); tc.conns > 0 && n != tc.conns {
					t.Errorf("%d connections", n)
				}
			}
		})
	}
}

// TestBurstIsNotLedAstray: whatever happens to the leading request, the others
// continue.
func TestBurstIsNotLedAstray(t *testing.T) {
	s := newSite(t, func(http.ResponseWriter, *http.Request) {}, nil, "a.example.test")
	for name, leave := range map[string]func(cancel func(), way *dialGroup){
		"it is cancelled": func(cancel func(), _ *dialGroup) { cancel() },
		"it hangs":        func(_ func(), way *dialGroup) { way.patience = time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			dialling, hang := make(chan struct{}), make(chan struct{})
			defer close(hang)
			var dials atomic.Int32
			cfg := s.config()
			cfg.Connecting = func(string) error {
				if dials.Add(1) == 1 {
					close(dialling)
					<-hang // as if there were no server
				}
				return nil
			}
			c := s.client(cfg)
			way := c.Transport.(*Transport).allowed["https://a.example.test"]
			way.patience = time.Hour
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := make(chan error, 1)
			go func() { first <- get(ctx, c, siteURL) }()
			<-dialling
			leave(cancel, way)
			if failed := together(t.Context(), t, c, burst, siteURL); failed > 0 {
				t.Errorf("%d requests failed", failed)
			}
			cancel()
			<-first // nil if the request got the connection of another
		})
	}
}

// TestBurstFails: if connecting fails, all requests get an error.
func TestBurstFails(t *testing.T) {
	s := newSite(t, func(http.ResponseWriter, *http.Request) {}, nil, "a.example.test")
	cfg := s.config()
	cfg.Roots = x509.NewCertPool()
	c := s.client(cfg)
	c.Transport.(*Transport).allowed["https://a.example.test"].patience = time.Hour
	if failed := together(t.Context(), t, c, burst, siteURL); failed != burst {
		t.Errorf("%d requests failed", failed)
	}
}

// TestNoCoalescing: HTTP/2 permits a client to send requests for one host over a
// connection to another whose certificate covers both. This client does not: a token
// for one store stays on connections to that store.
func TestNoCoalescing(t *testing.T) {
	type meet struct{ conn, sni, host string }
	var mu sync.Mutex
	seen := make(map[meet]int)
	s := newSite(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[meet{r.RemoteAddr, r.TLS.ServerName, r.Host}]++
		if r.ProtoMajor != 2 {
			t.Errorf("spoken is %s", r.Proto)
		}
	}, nil, "a.example.test", "b.example.test")
	c := s.client(s.config())
	for range 3 {
		for _, h := range s.hosts {
			if failed := together(t.Context(), t, c, 8, "https://"+h+"/"); failed > 0 {
				t.Errorf("%d requests failed", failed)
			}
		}
	}
	hosts := make(map[string]string)
	for m := range seen {
		if m.sni != m.host {
			t.Errorf("a request for %s came over a connection to %s", m.host, m.sni)
		}
		if other, ok := hosts[m.conn]; ok && other != m.host {
			t.Errorf("one connection carried requests for %s and %s", other, m.host)
		}
		hosts[m.conn] = m.host
	}
	if len(hosts) != 2 || s.conns.Load() != 2 {
		t.Errorf("%d connections for 2 hosts", s.conns.Load())
	}
}

// TestGoAway: when a server announces that it accepts no more requests on a
// connection, no request fails.
func TestGoAway(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }, nil, "a.example.test")
	c := s.client(s.config())
	for range 20 {
		if failed := together(t.Context(), t, c, 4, siteURL); failed > 0 {
			t.Errorf("%d requests failed", failed)
		}
	}
	if s.conns.Load() < 2 {
		t.Error("the server did not send anybody away")
	}
}

// TestSilentConnection: requests on a connection that has silently died end with
// HTTP/2's pings, and the next ones get another connection.
func TestSilentConnection(t *testing.T) {
	s := newSite(t, func(http.ResponseWriter, *http.Request) {}, nil, "a.example.test")
	p := newPipe(t, s.server.Listener.Addr().String())
	cfg := s.config()
	cfg.Dial["a.example.test"] = p.listener.Addr().String()
	cfg.Timeout = time.Hour // the requests must end for another reason
	c := s.client(cfg)
	base := c.Transport.(*Transport).Base()
	base.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Millisecond, PingTimeout: 10 * time.Millisecond}
	if err := get(t.Context(), c, siteURL); err != nil {
		t.Fatal(err)
	}
	p.clog()
	err := get(t.Context(), c, siteURL)
	if err == nil {
		t.Fatal("an answer came through a pipe that nothing comes through")
	}
	if o := OutageOf(err, Advice{}); !errors.Is(o.Cause, ErrTimedOut) {
		t.Errorf("the outage is %+v", o)
	}
	p.clear()
	if err := get(t.Context(), c, siteURL); err != nil {
		t.Errorf("after a connection has died: %v", err)
	}
}

// pipe forwards connections until it is clogged. Then it accepts all data and
// forwards none.
type pipe struct {
	listener net.Listener
	mu       sync.Mutex
	clogged  chan struct{} // closed by clog
}

func newPipe(t *testing.T, to string) *pipe {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pipe{listener: ln, clogged: make(chan struct{})}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			t.Cleanup(func() { _, _ = in.Close(), out.Close() })
			p.mu.Lock()
			clogged := p.clogged
			p.mu.Unlock()
			conns.Go(func() { pass(out, in, clogged) })
			conns.Go(func() { pass(in, out, clogged) })
		}
	})
	t.Cleanup(conns.Wait)
	t.Cleanup(func() { _ = ln.Close() })
	return p
}

// clog stops forwarding on all existing connections.
func (p *pipe) clog() { close(p.clogged) }

// clear forwards new connections.
func (p *pipe) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clogged = make(chan struct{})
}

func pass(to, from net.Conn, clogged <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-clogged:
			continue
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestSessionResumption: a second connection resumes the TLS session without the
// certificate, and clients do not share sessions.
func TestSessionResumption(t *testing.T) {
	var resumed atomic.Bool
	s := newSite(t, func(_ http.ResponseWriter, r *http.Request) { resumed.Store(r.TLS.DidResume) }, nil, "a.example.test", "b.example.test")
	c := s.client(s.config())
	expect := func(c *http.Client, url string, want bool) {
		t.Helper()
		if err := get(t.Context(), c, url); err != nil {
			t.Fatal(err)
		}
		if resumed.Load() != want {
			t.Errorf("%s: resumed is %v", url, !want)
		}
	}
	expect(c, siteURL, false)
	c.CloseIdleConnections()
	expect(c, siteURL, true)
	expect(c, "https://b.example.test/", false)
	expect(s.client(s.config()), siteURL, false)
	cfg := s.config()
	cfg.Roots = x509.NewCertPool()
	if err := get(t.Context(), s.client(cfg), siteURL); err == nil {
		t.Error("a client took a certificate that it does not trust")
	}
}
