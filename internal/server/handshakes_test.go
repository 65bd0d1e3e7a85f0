package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/resolve"
)

// strangers are peers that never authenticate. Each function does something to the
// connection until it or ctx ends.
var strangers = map[string]func(ctx context.Context, conn net.Conn){
	"silent": func(_ context.Context, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
	"slow": func(ctx context.Context, conn net.Conn) {
		hello := clientHello(1 << 10)
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := conn.Write(hello[i%len(hello) : i%len(hello)+1]); err != nil {
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	},
	"garbage": func(_ context.Context, conn net.Conn) {
		_, _ = conn.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 64))
		_, _ = io.Copy(io.Discard, conn)
	},
	"endless hello": func(ctx context.Context, conn net.Conn) {
		for ctx.Err() == nil {
			if _, err := conn.Write(clientHello(1 << 14)); err != nil {
				return
			}
		}
	},
	"TLS 1.2": func(_ context.Context, conn net.Conn) {
		_ = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Renegotiation: tls.RenegotiateFreelyAsClient}).Handshake()
	},
	"no certificate": func(_ context.Context, conn net.Conn) {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if c.Handshake() == nil {
			_, _ = io.Copy(io.Discard, c)
		}
	},
	"gone after the hello": func(_ context.Context, conn net.Conn) { _, _ = conn.Write(clientHello(512)) },
}

// clientHello is the beginning of a handshake message of 64 KiB, in a record of n bytes.
func clientHello(n int) []byte {
	record := append([]byte{22, 3, 1, 0, 0}, make([]byte, n)...)
	binary.BigEndian.PutUint16(record[3:], uint16(n))
	copy(record[5:], []byte{1, 0, 0xff, 0xff})
	return record
}

// TestFlood: hundreds of peers that never authenticate do not prevent others from
// connecting and calling.
func TestFlood(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	worker := s.ca.Client(string(granted))
	lasting := s.dial(t, worker)
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	for _, stranger := range strangers {
		for range 60 {
			flood.Go(func() {
				for ctx.Err() == nil {
					conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr)
					if err != nil {
						return
					}
					unblock := context.AfterFunc(ctx, func() { conn.Close() })
					stranger(ctx, conn)
					unblock()
					conn.Close()
					select { // slow enough to leave CPU time: this tests connections
					case <-ctx.Done():
					case <-time.After(3 * time.Second):
					}
				}
			})
		}
	}
	for handshakes := 0.0; handshakes < 100; handshakes = s.gauge(t, "secretbroker_tls_handshakes_in_progress") {
		<-time.After(time.Millisecond)
	}
	for range 20 {
		if _, err := ask(t, lasting, &secretbrokerv1.ResolveRequest{}); err != nil {
			t.Errorf("on an existing connection: %v", err)
		}
		conn := s.dial(t, worker)
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
			t.Errorf("on a new connection: %v", err)
		}
		conn.Close()
	}
}

func (s *trustedServer) gauge(t *testing.T, name string) float64 {
	t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		sum := 0.0 // of all labels
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		return sum
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// TestHandshakesAreBounded: one handshake too many ends the oldest one, and an honest
// client connects in spite of any number of silent peers.
func TestHandshakesAreBounded(t *testing.T) {
	const limit, silent = 16, 200
	s := startTrusted(t, Limits{MaxHandshakes: limit}, IdentityRules{})
	conns := make([]net.Conn, silent)
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp", s.addr); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	for s.gauge(t, "secretbroker_tls_handshakes_displaced_total") < silent-limit {
		<-time.After(time.Millisecond)
	}
	if n := s.gauge(t, "secretbroker_tls_handshakes_in_progress"); n != limit {
		t.Errorf("%v handshakes are active, want %d", n, limit)
	}
	open := 0
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		var timeout net.Error
		if _, err := conn.Read(make([]byte, 1)); asNetError(err, &timeout) && timeout.Timeout() {
			open++
		}
	}
	if open != limit {
		t.Errorf("%d of the silent connections are open, want %d", open, limit)
	}
	if _, err := ask(t, s.dial(t, s.ca.Client(string(granted))), &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("an honest client got %v", err)
	}
	if n := s.gauge(t, "secretbroker_tls_handshakes_displaced_total"); n != silent-limit+1 {
		t.Errorf("%v handshakes were displaced, want %d", n, silent-limit+1)
	}
	if log := s.log.String(); strings.Count(log, "refused a connection") > 20 {
		t.Errorf("too many log lines: %s", log)
	}
}

func asNetError(err error, target *net.Error) bool {
	e, ok := err.(net.Error) //nolint:errorlint // as net.Conn returns it
	*target = e
	return ok
}

// TestStrangerMayNotSendMuch: a peer that is not authenticated yet can send only a few
// certificates, because they use the broker's memory.
func TestStrangerMayNotSendMuch(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	for name, tt := range map[string]struct {
		certificates int
		ok           bool
	}{"few": {8, true}, "many": {100, false}} {
		t.Run(name, func(t *testing.T) {
			worker := s.ca.Client(string(granted))
			for range tt.certificates {
				worker.Certificate = append(worker.Certificate, s.ca.Cert.Raw)
			}
			if _, err := ask(t, s.dial(t, worker), &secretbrokerv1.ResolveRequest{}); (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
			if !tt.ok {
				asynctest.Eventually(t, "the log says why", func() bool { return strings.Contains(s.log.String(), "sent too many bytes") })
			}
		})
	}
	// After authentication the peer may send as much as a request may contain.
	conn := s.dial(t, s.ca.Client(string(granted)))
	for range 3 {
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{Connector: strings.Repeat("x", maxHandshakeBytes)}); err != nil {
			t.Error(err)
		}
	}
}

// TestStreamLimit: a call beyond the limit of a connection waits at the client.
func TestStreamLimit(t *testing.T) {
	s := startTrusted(t, Limits{MaxStreamsPerConnection: 2}, IdentityRules{})
	begun, finish := make(chan struct{}, 3), make(chan struct{})
	s.resolver.next = func(context.Context) (*resolve.Result, error) {
		begun <- struct{}{}
		<-finish
		return &resolve.Result{}, nil
	}
	conn := s.dial(t, s.ca.Client(string(granted)))
	ready(t, conn) // the client now knows the limit
	answered := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
			answered <- err
		}()
	}
	<-begun
	<-begun
	select {
	case <-begun:
		t.Error("a third call is active")
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	for range 3 {
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
}

func ready(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	conn.Connect()
	for state := conn.GetState(); state.String() != "READY"; state = conn.GetState() {
		if !conn.WaitForStateChange(t.Context(), state) {
			t.Fatal("no connection")
		}
	}
}

// TestOtherTrustDomain: if the trust domain is pinned, a certificate of the same authority
// but of another trust domain has no identity.
func TestOtherTrustDomain(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{TrustDomain: spiffeid.RequireTrustDomainFromString("example.org")})
	if _, err := ask(t, s.dial(t, s.ca.Client(string(granted))), &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Error(err)
	}
	_, err := ask(t, s.dial(t, s.ca.Client("spiffe://example.com/connect/worker-1")), &secretbrokerv1.ResolveRequest{})
	if err == nil || !strings.Contains(err.Error(), "another trust domain") {
		t.Errorf("got %v", err)
	}
}

// TestShutdownDoesNotWaitForStrangers: peers that are not authenticated yet do not delay
// the shutdown.
func TestShutdownDoesNotWaitForStrangers(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for s.gauge(t, "secretbroker_tls_handshakes_in_progress") == 0 {
		<-time.After(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), handshakeTimeout/2)
	defer cancel()
	s.Shutdown(ctx)
	if ctx.Err() != nil {
		t.Error("the shutdown used all of its time")
	}
}
