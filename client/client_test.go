package client_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// failWith returns a function that always answers with this error.
func failWith(code codes.Code, message string, details ...protoadapt.MessageV1) answerFunc {
	st := must(status.New(code, message).WithDetails(details...))
	return func(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		return nil, st.Err()
	}
}

func reason(r string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Domain: "secretbroker", Reason: r}
}

func retryIn(d time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	fetched, expires := time.Unix(1700000000, 5), time.Unix(1700000300, 0)
	var got *secretbrokerv1.ResolveRequest
	var agent, authority, certName string
	var tlsVersion uint16
	s := newSetup(t, func(ctx context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		got = in
		md, _ := metadata.FromIncomingContext(ctx)
		agent, authority = md.Get("user-agent")[0], md.Get(":authority")[0]
		p, _ := peer.FromContext(ctx)
		state := p.AuthInfo.(credentials.TLSInfo).State
		certName, tlsVersion = state.VerifiedChains[0][0].DNSNames[0], state.Version
		return &secretbrokerv1.ResolveResponse{
			Configs: map[string]*secretbrokerv1.ResolvedConfig{
				"a": {Value: "hunter2", Version: "v7", FetchTime: timestamppb.New(fetched), CacheExpireTime: timestamppb.New(expires), Stale: true, SecretExpireTime: timestamppb.New(expires.Add(time.Hour))},
				"b": {},
			},
			Errors: map[string]*secretbrokerv1.ConfigError{
				"c": {Reason: "STORE_THROTTLED", Message: "wait", RetryDelay: durationpb.New(3 * time.Second)},
				"d": {Reason: "SECRET_NOT_FOUND", Message: "no such secret", RetryDelay: durationpb.New(-time.Second)},
			},
			RequestId: "req-9",
		}, nil
	})
	// The name in the certificate differs from the host of the address.
	s.setTLS(s.ca, s.ca, "broker.test", inAnHour())
	s.cfg.ServerName = "broker.test"
	c, _ := s.client(t)

	maxAge := 90 * time.Second
	res, err := c.Resolve(t.Context(), client.ResolveRequest{
		IntegrationID: "prod",
		Configs:       map[string]string{"a": "ref a", "b": "ref b"},
		MaxAge:        &maxAge,
		AllowPartial:  true,
		Connector:     "orders-sink",
	})
	if err != nil {
		t.Fatal(err)
	}

	want := &secretbrokerv1.ResolveRequest{
		IntegrationId: "prod",
		Configs:       map[string]string{"a": "ref a", "b": "ref b"},
		MaxAge:        durationpb.New(maxAge),
		AllowPartial:  true,
		Connector:     "orders-sink",
	}
	if !proto.Equal(got, want) {
		t.Errorf("the broker got %v, want %v", got, want)
	}
	if !strings.HasPrefix(agent, "secretbroker-go/") {
		t.Errorf("user agent %q", agent)
	}
	if authority != "broker.test" {
		t.Errorf("authority %q, want broker.test", authority)
	}
	if certName != "worker-1.test" || tlsVersion != 0x0304 {
		t.Errorf("the broker saw %q over TLS version %#x, want worker-1.test over 1.3 (0x304)", certName, tlsVersion)
	}

	a, b := res.Values["a"], res.Values["b"]
	if len(res.Values) != 2 || res.RequestID != "req-9" {
		t.Errorf("got %d values, request id %q", len(res.Values), res.RequestID)
	}
	if a.Reveal() != "hunter2" || a.Version != "v7" || !a.FetchTime.Equal(fetched) || !a.CacheExpireTime.Equal(expires) || !a.SecretExpireTime.Equal(expires.Add(time.Hour)) || !a.Stale {
		t.Errorf("a: version %q, fetched %v, expires %v, stale %v, right value %v", a.Version, a.FetchTime, a.CacheExpireTime, a.Stale, a.Reveal() == "hunter2")
	}
	if b.Reveal() != "" || !b.FetchTime.IsZero() || !b.CacheExpireTime.IsZero() || !b.SecretExpireTime.IsZero() || b.Stale {
		t.Errorf("b: fetched %v, expires %v: want zero times", b.FetchTime, b.CacheExpireTime)
	}
	if diff := cmp.Diff(map[string]client.ConfigError{
		"c": {Config: "c", Reason: client.ReasonStoreThrottled, Message: "wait", RetryAfter: 3 * time.Second},
		"d": {Config: "d", Reason: client.ReasonSecretNotFound, Message: "no such secret"},
	}, res.Errors); diff != "" {
		t.Error(diff)
	}
}

// TestResolveMaxAge: an unset max_age accepts the cached value, and zero forces a read. The
// client must not confuse them.
func TestResolveMaxAge(t *testing.T) {
	t.Parallel()
	got := make(chan *durationpb.Duration, 1)
	s := newSetup(t, func(ctx context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		got <- in.GetMaxAge()
		return echo(ctx, in)
	})
	c, _ := s.client(t)
	res, err := c.Resolve(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if d := <-got; d != nil {
		t.Errorf("max_age is %v, want it unset", d)
	}
	if res.Values["database.password"].Reveal() != "a reference" {
		t.Error("wrong value")
	}
	now := request
	now.MaxAge = new(time.Duration)
	if _, err := c.Resolve(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if d := <-got; d == nil || d.AsDuration() != 0 {
		t.Errorf("max_age is %v, want it set to zero", d)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		fail        answerFunc
		maxAttempts int
		calls       int // maximum number of calls
		atLeast     time.Duration
	}{
		{name: "unavailable", fail: failWith(codes.Unavailable, "", reason("STORE_UNAVAILABLE")), calls: 4},
		{name: "unavailable without details", fail: failWith(codes.Unavailable, ""), calls: 4},
		{name: "overloaded", fail: failWith(codes.ResourceExhausted, "", reason("OVERLOADED")), calls: 4},
		{name: "delay is the minimum wait", fail: failWith(codes.ResourceExhausted, "", reason("STORE_THROTTLED"), retryIn(3*time.Second)), calls: 4, atLeast: 3 * time.Second},
		{name: "delay without a reason", fail: failWith(codes.ResourceExhausted, "", retryIn(time.Second)), calls: 4, atLeast: time.Second},
		{name: "delay negative", fail: failWith(codes.Unavailable, "", retryIn(-time.Hour)), calls: 4},
		{name: "delay beyond the deadline", fail: failWith(codes.Unavailable, "", retryIn(time.Hour)), calls: 1},
		{name: "extremely long delay", fail: failWith(codes.Unavailable, "", &errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: 1 << 62}}), calls: 1},
		{name: "fewer attempts", fail: failWith(codes.Unavailable, ""), maxAttempts: 2, calls: 2},
		{name: "one attempt", fail: failWith(codes.Unavailable, ""), maxAttempts: 1, calls: 1},
		{name: "many attempts", fail: failWith(codes.Unavailable, ""), maxAttempts: 70, calls: 70},
		// A message that is too large does not become smaller.
		{name: "exhausted without reason", fail: failWith(codes.ResourceExhausted, "message larger than max"), calls: 1},
		{name: "denied", fail: failWith(codes.PermissionDenied, "", reason("ACCESS_DENIED"), retryIn(time.Second)), calls: 1},
		{name: "invalid", fail: failWith(codes.InvalidArgument, ""), calls: 1},
		{name: "precondition", fail: failWith(codes.FailedPrecondition, ""), calls: 1},
		{name: "not found", fail: failWith(codes.NotFound, ""), calls: 1},
		{name: "internal", fail: failWith(codes.Internal, "", retryIn(time.Second)), calls: 1},
		{name: "deadline", fail: failWith(codes.DeadlineExceeded, ""), calls: 1},
		{name: "unauthenticated", fail: failWith(codes.Unauthenticated, ""), calls: 1},
		{name: "canceled", fail: failWith(codes.Canceled, ""), calls: 1},
		{name: "unknown", fail: failWith(codes.Unknown, ""), calls: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSetup(t, tt.fail)
			s.cfg.MaxAttempts = tt.maxAttempts
			c, waits := s.client(t)
			_, err := c.Resolve(t.Context(), request)
			var e *client.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %T %v, want an *Error", err, err)
			}
			if n := int(s.calls.Load()); n != tt.calls {
				t.Errorf("%d calls, want %d", n, tt.calls)
			}
			if len(*waits) != tt.calls-1 {
				t.Errorf("%d waits for %d calls", len(*waits), tt.calls)
			}
			const first, most = 200 * time.Millisecond, 5 * time.Second
			for i, d := range *waits {
				step := most
				if i < 5 {
					step = min(first<<i, most)
				}
				if d < tt.atLeast+step/2 || d >= tt.atLeast+step {
					t.Errorf("wait %d is %v, want it in [%v, %v)", i+1, d, tt.atLeast+step/2, tt.atLeast+step)
				}
			}
		})
	}
}

func TestRetryThenSuccess(t *testing.T) {
	t.Parallel()
	fail := failWith(codes.Unavailable, "", reason("STORE_UNAVAILABLE"))
	var s *setup
	s = newSetup(t, func(ctx context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		if s.calls.Load() < 3 {
			return fail(ctx, in)
		}
		return echo(ctx, in)
	})
	c, waits := s.client(t)
	res, err := c.Resolve(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Values) != 1 || len(*waits) != 2 {
		t.Errorf("%d values after %d waits, want 1 after 2", len(res.Values), len(*waits))
	}
}

// TestResolveTooLarge: a response above the limit is refused and not requested again.
func TestResolveTooLarge(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 17<<20)
	s := newSetup(t, func(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		return &secretbrokerv1.ResolveResponse{RequestId: large}, nil
	})
	c, _ := s.client(t)
	_, err := c.Resolve(t.Context(), request)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.ResourceExhausted {
		t.Errorf("got %v, want RESOURCE_EXHAUSTED", err)
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

// hang answers when the call has ended.
func hang(begun chan<- struct{}) answerFunc {
	return func(ctx context.Context, _ *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func TestResolveCancelled(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	s := newSetup(t, hang(begun))
	c, _ := s.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	_, err := c.Resolve(ctx, request)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.Canceled || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want an *Error that is context.Canceled", err)
	}
}

func TestResolveTimeout(t *testing.T) {
	t.Parallel()
	s := newSetup(t, hang(make(chan struct{}, 1)))
	s.cfg.Timeout = 200 * time.Millisecond
	c, _ := s.client(t)
	_, err := c.Resolve(t.Context(), request)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.DeadlineExceeded || !strings.Contains(e.Message, s.addr) {
		t.Errorf("got %v, want DEADLINE_EXCEEDED with the address", err)
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	s := newSetup(t, failWith(codes.Unavailable, "the store is down", reason("STORE_UNAVAILABLE"), &errdetails.RequestInfo{RequestId: "req-3"}))
	c := s.waitingClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	c.SetWait(func(ctx context.Context, _ time.Duration) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	_, err := c.Resolve(ctx, request)
	var e *client.Error
	if !errors.As(err, &e) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want an *Error that is context.Canceled", err)
	}
	if e.Code != codes.Canceled || e.RequestID != "req-3" || !strings.Contains(e.Message, "the store is down") {
		t.Errorf("got %v, want an error that contains the last failure", err)
	}
}

func TestResolveAfterClose(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := c.Resolve(t.Context(), request)
	var e *client.Error
	if !errors.As(err, &e) || e.Code != codes.Canceled || errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want CANCELLED that is not the context's", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority := newCA("test CA")
	good := writeConfig(dir, "127.0.0.1:1", authority, "worker-1.test")
	otherCert, otherKey := issue(authority, "worker-2.test", inAnHour())
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		write(path, b)
		return path
	}
	tests := []struct {
		name string
		edit func(*client.Config)
		want []string
	}{
		{"nothing set", func(c *client.Config) { *c = client.Config{} }, []string{"Addr", "CAFile", "CertFile", "KeyFile"}},
		{"no port", func(c *client.Config) { c.Addrs = []string{"broker"} }, []string{`"broker"`, "host:port"}},
		{"no host", func(c *client.Config) { c.Addrs = []string{":8443"} }, []string{"host:port"}},
		{"no CA", func(c *client.Config) { c.CAFile = "" }, []string{"CAFile not set"}},
		{"no certificate", func(c *client.Config) { c.CertFile = "" }, []string{"CertFile not set"}},
		{"no key", func(c *client.Config) { c.KeyFile = "" }, []string{"KeyFile not set"}},
		{"negative timeout", func(c *client.Config) { c.Timeout = -1 }, []string{"Timeout"}},
		{"negative attempts", func(c *client.Config) { c.MaxAttempts = -1 }, []string{"MaxAttempts"}},
		{"all files missing", func(c *client.Config) { c.CAFile, c.CertFile = "/none/ca", "/none/cert" }, []string{"/none/ca", "/none/cert"}},
		{"key file missing", func(c *client.Config) { c.KeyFile = "/none/key" }, []string{"/none/key"}},
		{"key of another certificate", func(c *client.Config) { c.KeyFile = file("other-key", otherKey) }, []string{"other-key", "does not match"}},
		{"certificate cut off", func(c *client.Config) { c.CertFile = file("cut-cert", append(otherCert, otherCert[:90]...)) }, []string{"cut-cert", "truncated"}},
		{"CA cut off", func(c *client.Config) { c.CAFile = file("cut-ca", append(authority.PEM(), authority.PEM()[:90]...)) }, []string{"cut-ca", "truncated"}},
		{"CA empty", func(c *client.Config) { c.CAFile = file("empty-ca", nil) }, []string{"empty-ca", "no PEM certificate"}},
		{"CA damaged", func(c *client.Config) {
			c.CAFile = file("bad-ca", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
		}, []string{"bad-ca", "certificate 1"}},
		{"key as CA", func(c *client.Config) { c.CAFile = c.KeyFile }, []string{"tls-key.pem", "only PEM certificates"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.edit(&cfg)
			c, err := client.New(cfg)
			if err == nil {
				_ = c.Close()
				t.Fatal("no error")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), string(otherKey[30:60])) {
				t.Error("the error quotes a key")
			}
		})
	}
	c, err := client.New(good) // the cases fail for no other reason
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}
