package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// expectOverloaded checks the error that a caller over a limit gets.
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
		t.Errorf("reason %q, retry delay %v", reason, delay)
	}
}

func (ts *testServer) overLimit(t *testing.T, l admission.Limit) float64 {
	t.Helper()
	return ts.overLabel(t, string(l))
}

// overLabel returns the counter of a limit's label.
func (ts *testServer) overLabel(t *testing.T, label string) float64 {
	t.Helper()
	return ts.counter(t, "secretbroker_calls_over_limit_total", label)
}

// counter returns the counter or gauge name whose first label has that value.
func (ts *testServer) counter(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := ts.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("there is no counter for %s", label)
	return 0
}

// TestCallsPerSecond: the limit counts each principal's calls separately, of all methods
// together.
func TestCallsPerSecond(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 2})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	// The bucket fills while the test runs. The calls are faster and empty it.
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
	if _, err := ask(t, ts.dial(t, ts.ca.Client(string(granted)+"0")), &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another principal got %v", err)
	}
}

// TestMethodsWithoutARuleAreLimited: calls of unknown methods count as well.
func TestMethodsWithoutARuleAreLimited(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 1})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	code := codes.Unimplemented
	for n := 0; code == codes.Unimplemented && n < 1000; n++ {
		code = status.Code(callAny(t, conn, "/secretbroker.v1.ResolverService/NoSuchMethod", false))
	}
	if code != codes.ResourceExhausted {
		t.Errorf("got %v", code)
	}
}

// TestConcurrentCalls: a caller with too many active calls is refused, and admitted again
// when a call ends in any way.
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
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	answered := make(chan error, 1)
	for name, end := range map[string]error{"answered": nil, "panicked": context.Canceled} {
		go func() {
			_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
			answered <- err
		}()
		<-begun
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		expectOverloaded(t, err)
		// Neither another principal nor streams are delayed.
		if _, err := healthpb.NewHealthClient(ts.dial(t, ts.ca.Client(string(auditorID)))).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("another principal got %v", err)
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
	_, err := ask(t, ts.dial(t, ts.ca.Client(string(auditorID))), &secretbrokerv1.ResolveRequest{})
	expectOverloaded(t, err)
	finish <- nil
	<-answered
}

// TestStreams: streams that watch the broker's health for hours are counted separately from
// calls, and limited for each principal, and so are streams of reflection.
func TestStreams(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.MaxConnectionsPerPrincipal = 3 })
	ts.SetCallLimits(admission.Limits{PerCaller: 1})
	for name, tc := range map[string]struct {
		most int
		open func(context.Context, *grpc.ClientConn) error
	}{
		"health": {3, func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		"reflection": {8, func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
			if err == nil {
				err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
			}
			if err == nil || errors.Is(err, io.EOF) { // refused before the request was sent
				_, err = stream.Recv()
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			conn := ts.dial(t, ts.ca.Client(string(granted)))
			for n := range tc.most {
				if err := tc.open(ctx, conn); err != nil {
					t.Fatalf("stream %d: %v", n, err)
				}
			}
			expectOverloaded(t, tc.open(ctx, conn))
			if got := ts.overLabel(t, name+"_"+string(admission.PerCaller)); got != 1 {
				t.Errorf("%v refusals are counted", got)
			}
			if got := ts.counter(t, "secretbroker_streams", name); got != float64(tc.most) {
				t.Errorf("%v streams are counted", got)
			}
			if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
				t.Errorf("a call beside the streams: %v", err)
			}
			if err := tc.open(ctx, ts.dial(t, ts.ca.Client(string(auditorID)))); err != nil {
				t.Errorf("another principal: %v", err)
			}
			cancel()
			asynctest.Eventually(t, "the streams have left", func() bool { return ts.counter(t, "secretbroker_streams", name) == 0 })
		})
	}
}

// TestRefusalsDoNotFillTheLog: a flood of refused calls is counted, and logged in part.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 1})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	const n = 2 * refusalBurst
	for range n {
		_, _ = ask(t, conn, &secretbrokerv1.ResolveRequest{}) // nearly always refused
	}
	if lines := strings.Count(ts.log.String(), "call refused"); lines < refusalBurst/2 || lines >= n {
		t.Errorf("%d lines", lines)
	}
	if got := ts.overLimit(t, admission.PerSecond); got < n/2 {
		t.Errorf("%v refusals are counted", got)
	}
}

// TestFailuresDoNotFillTheLog: the number of log lines per second about configs that could
// not be resolved is limited: if the disk is full, every call fails with such an error.
func TestFailuresDoNotFillTheLog(t *testing.T) {
	ts := startServer(t)
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		return nil, secret.Errorf(secret.ReasonAuditUnavailable, "no").WithCause(errors.New("no space left on device"))
	}
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	const n = 3 * refusalBurst
	for range n {
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err == nil {
			t.Fatal("no error")
		}
	}
	if lines := strings.Count(ts.log.String(), "could not be resolved"); lines < refusalBurst || lines >= n {
		t.Errorf("%d lines", lines)
	}
}

// TestManagementIsAdmittedApart: calls that manage integrations and calls that resolve use
// separate capacity, and one principal may have few of the former.
func TestManagementIsAdmittedApart(t *testing.T) {
	ts := startServer(t)
	ts.SetCallLimits(admission.Limits{PerSecond: 1000, PerCaller: 1, Total: 2})
	ts.manager.listing, ts.manager.list = make(chan struct{}), make(chan struct{})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	list := func() error {
		_, err := secretbrokerv1.NewIntegrationServiceClient(conn).ListIntegrations(t.Context(), &secretbrokerv1.ListIntegrationsRequest{})
		return err
	}
	const n = 8 // managementLimits.PerCaller
	listed := make(chan error, n)
	for range n {
		go func() { listed <- list() }()
		<-ts.manager.listing
	}
	expectOverloaded(t, list())
	if got := ts.overLabel(t, "management_max_concurrent_calls_per_principal"); got != 1 {
		t.Errorf("%v refusals are counted", got)
	}
	if got := ts.overLimit(t, admission.PerCaller); got != 0 {
		t.Errorf("%v refusals are counted for other calls", got)
	}
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("Resolve of the same principal: %v", err)
	}
	another := ts.dial(t, ts.ca.Client(string(auditorID)))
	if _, err := secretbrokerv1.NewPolicyServiceClient(another).Explain(t.Context(), &secretbrokerv1.ExplainRequest{}); err != nil {
		t.Errorf("another principal got %v", err)
	}
	for range n {
		ts.manager.list <- struct{}{}
		if err := <-listed; err != nil {
			t.Error(err)
		}
	}
	ts.manager.listing = nil

	// The other way round: the capacity for Resolve is used up.
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		begun <- struct{}{}
		<-finish
		return &resolve.Result{}, nil
	}
	answered := make(chan error, 1)
	go func() {
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		answered <- err
	}()
	<-begun
	if err := list(); err != nil {
		t.Errorf("during a Resolve: %v", err)
	}
	close(finish)
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// TestManagementTakesTurns: while management calls occupy all slots, further ones wait, but
// neither ValidateIntegration nor Resolve does.
func TestManagementTakesTurns(t *testing.T) {
	ts := startServer(t, func(c *Config) { c.Limits.ManagementRunning = 2 })
	ts.manager.listing, ts.manager.list = make(chan struct{}), make(chan struct{})
	list := func(ctx context.Context, who authz.Principal) error {
		_, err := secretbrokerv1.NewIntegrationServiceClient(ts.dial(t, ts.ca.Client(string(who)))).ListIntegrations(ctx, &secretbrokerv1.ListIntegrationsRequest{})
		return err
	}
	const n = 3
	listed := make(chan error, n)
	for _, who := range []authz.Principal{granted, auditorID} {
		go func() { listed <- list(t.Context(), who) }()
		<-ts.manager.listing
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := list(ctx, ownerID); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a third call does not wait: %v", err)
	}
	conn := ts.dial(t, ts.ca.Client(string(ownerID)))
	if _, err := secretbrokerv1.NewIntegrationServiceClient(conn).ValidateIntegration(t.Context(), &secretbrokerv1.ValidateIntegrationRequest{}); err != nil {
		t.Errorf("ValidateIntegration: %v", err)
	}
	if _, err := ask(t, ts.dial(t, ts.ca.Client(string(granted))), &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("Resolve: %v", err)
	}
	if err := list(t.Context(), ownerID); err == nil || ts.overLabel(t, "management_cpu") != 1 {
		t.Errorf("a call that waited too long: %v", err)
	} else {
		expectOverloaded(t, err)
	}
	go func() { listed <- list(t.Context(), ownerID) }()
	for range n - 1 {
		ts.manager.list <- struct{}{}
	}
	<-ts.manager.listing // the call that waited
	ts.manager.list <- struct{}{}
	for range n {
		if err := <-listed; err != nil {
			t.Error(err)
		}
	}
}
