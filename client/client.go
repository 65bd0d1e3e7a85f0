// Package client resolves references to secrets through a secretbroker.
//
// A program holds a client certificate and nothing else: no cloud credential
// and no store's SDK. It makes one Client and keeps it:
//
//	c, err := client.New(client.Config{
//		Addr:     "broker.example.org:8443",
//		CAFile:   "/etc/secretbroker/ca.pem",
//		CertFile: "/etc/secretbroker/tls.pem",
//		KeyFile:  "/etc/secretbroker/tls-key.pem",
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//
//	res, err := c.Resolve(ctx, client.Request{
//		IntegrationID: "sqlserver-prod",
//		Configs: map[string]string{
//			"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password",
//		},
//	})
//	if err != nil {
//		return err // an *Error: which config failed, why, and what to do
//	}
//	password := res.Values["database.password"].Reveal()
//
// The package owns the connection to the broker: mutual TLS with files that are
// read again when they change, retries of what may pass by itself, and errors a
// program can decide on. It knows nothing of stores, policies or how references
// are written: it sends what it is given and the broker judges it.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/clienttls"
)

const (
	defaultTimeout     = 10 * time.Second
	defaultMaxAttempts = 4

	// The wait before the second attempt is at most minBackoff; it doubles from
	// attempt to attempt up to maxBackoff.
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second

	// maxResponseBytes leaves room for hundreds of secrets of the largest size
	// that a store allows (64 KiB), and bounds what an answer may take of memory.
	maxResponseBytes = 16 << 20
	// maxHeaderBytes bounds an error's details, which travel as a header.
	maxHeaderBytes = 1 << 20
)

// Config says how to reach the broker. Addr, CAFile, CertFile and KeyFile are
// required; the others have useful zero values.
type Config struct {
	// Addr is the broker's address, "host:port". Every address that the host
	// resolves to is tried. HTTPS_PROXY and NO_PROXY apply.
	Addr string
	// Addrs are the addresses of further replicas, for a broker that has no one
	// name for all of them. Addr may then be left out.
	Addrs []string
	// Balance is how calls are spread over the replicas.
	Balance Balance

	// CAFile is a PEM file with the certificates that may have signed the
	// broker's. The system's roots are not trusted.
	CAFile string
	// CertFile is a PEM file with this program's certificate, followed by any
	// intermediate ones.
	CertFile string
	// KeyFile is a PEM file with the certificate's private key, unencrypted.
	KeyFile string
	// ServerName is the name that the broker's certificate must be for, where
	// that is not the host of Addr.
	ServerName string

	// Timeout bounds one call from beginning to end, its retries and the
	// waits between them included; an earlier deadline of the context counts.
	// Zero means 10 seconds.
	Timeout time.Duration
	// MaxAttempts is how often one call is tried at most. Zero means 4, one
	// means that nothing is tried again.
	MaxAttempts int

	// Logger is told when changed files cannot be used, so that a failed
	// rotation is seen before the old certificate ends. It gets no key material
	// and no values. Nil means slog.Default().
	Logger *slog.Logger
}

// Client talks to one broker over one connection to each replica that it uses,
// which it makes when it is first needed and makes again when it is lost. It is safe for concurrent use.
type Client struct {
	addr        string
	balance     Balance
	timeout     time.Duration
	maxAttempts int
	conn        *grpc.ClientConn
	rpc         secretbrokerv1.ResolverServiceClient
	// wait is sleep, but in tests.
	wait func(ctx context.Context, d time.Duration) error
}

// New makes a Client. It reads the files, so that a wrong path fails here, but
// does not contact the broker. The files are read again for every new
// connection; when they cannot be used, the last ones that could stay in use.
//
// The error names everything that is wrong with cfg.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("secretbroker: client configuration: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxAttempts == 0 {
		cfg.MaxAttempts = defaultMaxAttempts
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	files, err := clienttls.Open(clienttls.Config{CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, Changed: func(problem string) {
		if problem != "" {
			cfg.Logger.Warn("secretbroker: TLS files cannot be used, those read earlier stay in use", "error", problem)
		} else {
			cfg.Logger.Info("secretbroker: TLS files can be used again")
		}
	}})
	if err != nil {
		return nil, fmt.Errorf("secretbroker: client configuration: %w", err)
	}
	addr := strings.Join(cfg.addrs(), ", ")
	target, options := cfg.target()
	options = append(options, cfg.balanceOptions()...)
	conn, err := grpc.NewClient(target, append(options,
		grpc.WithTransportCredentials(&transportCreds{addr: addr, caFile: cfg.CAFile, certFile: cfg.CertFile, files: files}),
		// Also the name that the handshake verifies; empty means the host of Addr.
		grpc.WithAuthority(cfg.ServerName),
		grpc.WithUserAgent("secretbroker-go/"+version()),
		// The operator of the DNS must not influence how the broker is called.
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(false), grpc.MaxCallRecvMsgSize(maxResponseBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			// Below the idle limit of the load balancers on the way (some four
			// minutes), well above what the broker takes for abuse.
			Time:                time.Minute,
			Timeout:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// grpc's own ceiling of two minutes would leave a client failing long
			// after its broker is back.
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * maxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("secretbroker: client configuration: Addr: %w", err)
	}
	return &Client{
		addr:        addr,
		balance:     cfg.Balance,
		timeout:     cfg.Timeout,
		maxAttempts: cfg.MaxAttempts,
		conn:        conn,
		rpc:         secretbrokerv1.NewResolverServiceClient(conn),
		wait:        sleep,
	}, nil
}

// Close ends the connection and every call that is under way. The Client
// cannot be used afterwards.
func (c *Client) Close() error { return c.conn.Close() }

// Request asks for the secrets that a set of references names.
type Request struct {
	// IntegrationID is the provider integration whose cloud identity reads the
	// secrets.
	IntegrationID string
	// Configs is config name to reference, or a connector's whole configuration:
	// when that has the property secret.manager.enabled, only the names listed in
	// secret.manager.managed.configs are references, and only those come back.
	// It is not changed, and must not be changed before Resolve returns.
	Configs map[string]string
	// MaxAge refuses values that the broker read from the store longer ago than
	// this; zero has them read now. Nil takes what the broker's cache holds.
	MaxAge *time.Duration
	// AllowPartial has failing configs reported in Response.Errors and the others
	// answered, instead of failing the whole call.
	AllowPartial bool
	// Connector is the caller's own name for what it resolves for. It is written
	// to the broker's audit log and decides nothing.
	Connector string
}

// Resolve asks the broker for the values of req.Configs. Without
// req.AllowPartial either all of them are answered or the call fails.
//
// It tries again, with growing waits, when the broker cannot be reached, is
// overloaded or says that its store is, and waits as long as the broker asks
// for. A wait that would outlast ctx or Config.Timeout is not begun: the last
// error is returned at once.
//
// The error is an *Error. It also matches ctx's error when that ended the call.
func (c *Client) Resolve(ctx context.Context, req Request) (*Response, error) {
	out, err := call(ctx, c, c.rpc.Resolve, req.message())
	if err != nil {
		return nil, err
	}
	return newResponse(out), nil
}

// call does one call of the Client's from beginning to end: rpc is tried as
// Config.Timeout, Config.MaxAttempts and what the broker asks for allow. in is
// not changed. The error is an *Error.
func call[In, Out any](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), in *In) (*Out, error) {
	return callWhile(ctx, c, rpc, in, (*Error).retryable)
}

// callWhile is call for which again says what failures it is tried again after.
func callWhile[In, Out any](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), in *In, again func(*Error) bool) (*Out, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ctx = c.balanced(ctx, in)
	for attempt := 1; ; attempt++ {
		out, err := rpc(ctx, in)
		if err == nil {
			return out, nil
		}
		e := newError(c.addr, err)
		if e.ended() {
			e.cause = ctx.Err()
		}
		if attempt >= c.maxAttempts || !again(e) {
			return nil, e
		}
		d, ok := retryDelay(ctx, attempt, e.RetryAfter)
		if !ok {
			return nil, e
		}
		if err := c.wait(ctx, d); err != nil {
			return nil, endedWaiting(err, e)
		}
	}
}

// retryDelay returns how long to wait after a failed attempt, and false if that
// would outlast ctx. What the broker asks for is the least; the part above it
// is spread at random, so that runtimes that failed together do not come back
// together.
func retryDelay(ctx context.Context, attempt int, retryAfter time.Duration) (time.Duration, bool) {
	step := maxBackoff
	if shift := attempt - 1; shift < 8 { // beyond that it has long reached maxBackoff
		step = min(minBackoff<<shift, maxBackoff)
	}
	spread := step/2 + rand.N(step/2) //nolint:gosec // spreads load, protects nothing
	deadline, ok := ctx.Deadline()
	if !ok {
		return retryAfter + spread, true
	}
	left := time.Until(deadline)
	// Two comparisons, because the sum may overflow.
	if retryAfter >= left || retryAfter+spread >= left {
		return 0, false
	}
	return retryAfter + spread, true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// validate reports everything that can be seen to be wrong without reading a
// file.
func (cfg Config) validate() error {
	var errs []error
	if len(cfg.addrs()) == 0 {
		errs = append(errs, errors.New(`the broker's address Addr is not set; give it as "host:port"`))
	}
	for _, addr := range cfg.addrs() {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf(`the broker's address Addr is %q; give it as "host:port"`, addr))
		}
	}
	if _, ok := serviceConfigs[cfg.Balance]; !ok {
		errs = append(errs, fmt.Errorf(`the Balance is %q; give "", "round_robin" or "integration"`, cfg.Balance))
	}
	var missing []string
	for _, f := range []struct{ name, path string }{
		{"CAFile", cfg.CAFile}, {"CertFile", cfg.CertFile}, {"KeyFile", cfg.KeyFile},
	} {
		if f.path == "" {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("%s not set; the broker is reached by mutual TLS only, which needs CAFile, CertFile and KeyFile", strings.Join(missing, ", ")))
	}
	if cfg.Timeout < 0 {
		errs = append(errs, fmt.Errorf("the Timeout is %v; leave it zero for %v", cfg.Timeout, defaultTimeout))
	}
	if cfg.MaxAttempts < 0 {
		errs = append(errs, fmt.Errorf("MaxAttempts is %d; leave it zero for %d", cfg.MaxAttempts, defaultMaxAttempts))
	}
	return errors.Join(errs...)
}

// modulePath is the module path under which a program's build
// information.
const modulePath = "github.com/secretbroker/secretbroker"

// version returns the module's version in the running program, "devel" where it
// was not built from a released one.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath && m.Version != "" && m.Version != "(devel)" {
			return m.Version
		}
	}
	return "devel"
}
