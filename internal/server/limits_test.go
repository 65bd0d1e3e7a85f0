package server

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// expectOverloaded looks at what a caller over a limit gets.
func expectOverloaded(t *testing.T, err error) {
	t.Helper()
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("got %v, want RESOURCE_EXHAUSTED", err)
	}
	var reason string
	var delay time.Duration
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			delay = d.GetRetryDelay().AsDuration()
		}
	}
	if reason != string(secret.ReasonOverloaded) || delay < time.Second {
		t.Errorf("reason %q, to be tried again after %v", reason, delay)
	}
}

func (ts *testServer) overLimit(t *testing.T, l admission.Limit) float64 {
	t.Helper()
	families, err := ts.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "secretbroker_calls_over_limit_total" && m.GetLabel()[0].GetValue() == string(l) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("%s is not counted", l)
	return 0
}

// TestCallsPerSecond limits each principal by itself, whatever it calls.
func TestCallsPerSecond(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 2})
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	// The bucket fills while the test runs; sooner or later it is empty.
	var err error
	for err == nil {
		_, err = ask(t, conn, &secretbrokerv1.ResolveRequest{})
	}
	expectOverloaded(t, err)
	if got := ts.overLimit(t, admission.PerSecond); got != 1 {
		t.Errorf("%v refusals are counted", got)
	}
	if log := ts.log.String(); !strings.Contains(log, "call refused") || !strings.Contains(log, string(granted)) {
		t.Errorf("log: %s", log)
	}
	if _, err := ask(t, ts.dial(t, ts.ca.withURIs(string(granted)+"0")), &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another principal gets %v", err)
	}
}

// TestMethodsWithoutARuleAreLimited as well: asking for them is no way around.
func TestMethodsWithoutARuleAreLimited(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 1})
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	code := codes.Unimplemented
	for n := 0; code == codes.Unimplemented && n < 1000; n++ {
		code = status.Code(callAny(t, conn, "/secretbroker.v1.ResolverService/NoSuchMethod", false))
	}
	if code != codes.ResourceExhausted {
		t.Errorf("got %v", code)
	}
}

// TestConcurrentCalls refuses a caller what it has too much of under way, and
// takes it back when a call ends, in whatever way.
func TestConcurrentCalls(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerCaller: 1})
	begun, finish := make(chan struct{}, 1), make(chan error)
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		begun <- struct{}{}
		err := <-finish
		if err != nil {
			panic(err)
		}
		return &resolve.Result{}, nil
	}
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	answered := make(chan error, 1)
	for name, end := range map[string]error{"answered": nil, "panicked": context.Canceled} {
		go func() {
			_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
			answered <- err
		}()
		<-begun
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		expectOverloaded(t, err)
		// Another principal is not held up, nor are streams.
		if _, err := healthpb.NewHealthClient(ts.dial(t, ts.ca.withURIs(string(auditorID)))).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("another principal: %v", err)
		}
		finish <- end
		if err := <-answered; (err == nil) != (end == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := ts.overLimit(t, admission.PerCaller); got != 2 {
		t.Errorf("%v refusals are counted", got)
	}
	ts.SetCallLimits(admission.Limits{Total: 1})
	go func() {
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		answered <- err
	}()
	<-begun
	_, err := ask(t, ts.dial(t, ts.ca.withURIs(string(auditorID))), &secretbrokerv1.ResolveRequest{})
	expectOverloaded(t, err)
	finish <- nil
	<-answered
}

// TestStreamsTakeNoCallsPlace: those who watch the broker's health for hours are
// counted apart.
func TestStreamsTakeNoCallsPlace(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerCaller: 1})
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	watch := func() error {
		stream, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	if err := watch(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("beside a stream: %v", err)
	}
	expectOverloaded(t, watch())
}

// TestRefusalsDoNotFillTheLog: a flood of refused calls is told of, and counted.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 1})
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	const n = 2 * refusalBurst
	for range n {
		_, _ = ask(t, conn, &secretbrokerv1.ResolveRequest{}) // refused, nearly always
	}
	if lines := strings.Count(ts.log.String(), "call refused"); lines < refusalBurst/2 || lines >= n {
		t.Errorf("%d lines", lines)
	}
	if got := ts.overLimit(t, admission.PerSecond); got < n/2 {
		t.Errorf("%v refusals are counted", got)
	}
}

// TestPushback: a connection whose calls are refused is read from more slowly,
// up to a bound.
func TestPushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn := &pushbackConn{Conn: near, closed: make(chan struct{})}
		go func() {
			for {
				if _, err := far.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		read := func() time.Duration {
			begin := time.Now()
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			return time.Since(begin)
		}
		expect := func(what string, want time.Duration) {
			t.Helper()
			if got := read(); got != want {
				t.Errorf("%s: read after %v, want %v", what, got, want)
			}
		}
		expect("before any refusal", 0)
		conn.refused(time.Now())
		conn.refused(time.Now())
		expect("after two", 2*pausePerRefusal)
		expect("afterwards", 0)
		for range 1000 {
			conn.refused(time.Now())
		}
		expect("after many", maxPause)

		conn.refused(time.Now())
		begin := time.Now()
		_ = conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(begin) > 0 {
			t.Errorf("closed: %v after %v", err, time.Since(begin))
		}
		_ = conn.Close()
		_ = far.Close()
	})
}

// TestRefusalsPushBack: the interceptor finds the connection that a call came on.
func TestRefusalsPushBack(t *testing.T) {
	ts := startServer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spy := &spyListener{Listener: pushbackListener{l}, conns: make(chan net.Conn, 1)}
	go func() { _ = ts.grpc.Serve(spy) }() // until the server's shutdown
	ts.addr = l.Addr().String()
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Fatal(err)
	}
	accepted, _ := (<-spy.conns).(*pushbackConn)
	until := func() time.Time {
		accepted.mu.Lock()
		defer accepted.mu.Unlock()
		return accepted.until
	}
	if at := until(); !at.IsZero() {
		t.Errorf("pushed back until %v for an admitted call", at)
	}
	ts.SetCallLimits(admission.Limits{PerSecond: 1})
	for err == nil {
		_, err = ask(t, conn, &secretbrokerv1.ResolveRequest{})
	}
	expectOverloaded(t, err)
	if until().IsZero() {
		t.Error("the connection was not pushed back")
	}
}

type spyListener struct {
	net.Listener
	conns chan net.Conn
}

func (l *spyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.conns <- conn
	}
	return conn, err
}

// TestPeerAddress: what is logged and recorded of a peer is its plain address.
func TestPeerAddress(t *testing.T) {
	ts := startServer(t)
	var remote *peer.Peer
	ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
		remote, _ = peer.FromContext(ctx)
		return &resolve.Result{}, nil
	}
	if _, err := ask(t, ts.dial(t, ts.ca.withURIs(string(granted))), &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Fatal(err)
	}
	if who := ts.resolver.who.PeerAddress; who != remote.Addr.String() || !strings.HasPrefix(who, "127.0.0.1:") || remote.Addr.Network() != "tcp" {
		t.Errorf("the peer's address is %q", who)
	}
}
