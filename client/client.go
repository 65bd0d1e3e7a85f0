// Package client resolves references to secrets through a secretbroker.
//
// A program needs only a client certificate: no cloud credential and no SDK of a store. It
// creates one Client and keeps it:
//
//	c, err := client.New(client.Config{
//		Addrs:    []string{"secretbroker.example.org:8443"},
//		CAFile:   "/etc/secretbroker/ca.pem",
//		CertFile: "/etc/secretbroker/tls.pem",
//		KeyFile:  "/etc/secretbroker/tls-key.pem",
//	})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//
//	res, err := c.Resolve(ctx, client.ResolveRequest{
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
// The package manages the connection to the broker: mutual TLS with files that are read
// again when they change, retries of transient failures, and errors that a program can
// handle. It does not know stores, policies or the syntax of references: it sends references
// unchanged, and the broker validates them.
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

	// The wait before the second attempt is at most minBackoff. It doubles with each
	// attempt up to maxBackoff.
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second

	// maxResponseBytes allows hundreds of secrets of the largest size that a store allows
	// (64 KiB), and limits the memory for an answer.
	maxResponseBytes = 16 << 20
	// maxHeaderBytes limits an error's details, which are sent as a header.
	maxHeaderBytes = 1 << 20
)

// Config configures a Client. Addrs, CAFile, CertFile and KeyFile are required; the others
// have useful zero values.
type Config struct {
	// Addrs are the addresses of the broker, each "host:port". One address is usual: the
	// client tries every IP address that the host resolves to, and HTTPS_PROXY and NO_PROXY
	// apply. List the replicas of a broker that have no common name.
	Addrs []string
	// Balance determines how calls are distributed over the replicas.
	Balance Balance

	// CAFile is a PEM file with the authorities that may have issued the broker's
	// certificate. The client does not trust the system's roots.
	CAFile string
	// CertFile is a PEM file with this program's certificate, followed by any intermediate
	// certificates.
	CertFile string
	// KeyFile is a PEM file with the certificate's private key, unencrypted.
	KeyFile string
	// ServerName is the name that the broker's certificate must have, if it differs from
	// the host of its address.
	ServerName string

	// Timeout limits the duration of one call, including its retries and the waits between
	// them. An earlier deadline of the context takes precedence. Zero means 10 seconds.
	Timeout time.Duration
	// MaxAttempts is the maximum number of attempts of one call. Zero means 4; one
	// disables retries.
	MaxAttempts int

	// Logger logs when changed files are invalid, so that an operator notices a failed
	// rotation before the old certificate expires, and when a Follower cannot keep its
	// values current. The messages contain neither key material nor values. Nil means
	// slog.Default().
	Logger *slog.Logger
}

// Client calls one broker. It uses one connection for each replica, which it makes when it
// is first needed and makes again after it was lost. It is safe for concurrent use.
type Client struct {
	addr        string
	balance     Balance
	timeout     time.Duration
	maxAttempts int
	log         *slog.Logger
	conn        *grpc.ClientConn
	rpc         secretbrokerv1.ResolverServiceClient
	watches     secretbrokerv1.WatchServiceClient
	// closed ends when Close is called.
	closed context.Context
	end    context.CancelFunc
	// wait is sleep except in tests.
	wait func(ctx context.Context, d time.Duration) error
}

// New returns a Client. It reads the files, so that a wrong path fails here, but does not
// contact the broker. The client reads the files again for every new connection; if they
// are invalid, it continues with the last valid contents.
//
// The error lists everything that is wrong with cfg.
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
			cfg.Logger.Warn("secretbroker: TLS files are invalid; continuing with their earlier contents", "error", problem)
		} else {
			cfg.Logger.Info("secretbroker: TLS files are valid again")
		}
	}})
	if err != nil {
		return nil, fmt.Errorf("secretbroker: client configuration: %w", err)
	}
	addr := strings.Join(cfg.Addrs, ", ")
	target, options := cfg.target()
	options = append(options, cfg.balanceOptions()...)
	conn, err := grpc.NewClient(target, append(options,
		grpc.WithTransportCredentials(&transportCreds{addr: addr, caFile: cfg.CAFile, certFile: cfg.CertFile, files: files}),
		// The handshake verifies this name; empty means the host of the address.
		grpc.WithAuthority(cfg.ServerName),
		grpc.WithUserAgent("secretbroker-go/"+version()),
		// The DNS must not be able to change how the client calls the broker.
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(false), grpc.MaxCallRecvMsgSize(maxResponseBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			// Shorter than the idle timeout of load balancers (about four minutes), and
			// much longer than the interval that the broker considers abuse.
			Time:                time.Minute,
			Timeout:             10 * time.Second,
			PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			// grpc's default maximum of two minutes would let calls fail long after the
			// broker has returned.
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * maxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("secretbroker: client configuration: Addrs: %w", err)
	}
	closed, end := context.WithCancel(context.Background())
	return &Client{
		addr:        addr,
		balance:     cfg.Balance,
		timeout:     cfg.Timeout,
		maxAttempts: cfg.MaxAttempts,
		log:         cfg.Logger,
		conn:        conn,
		rpc:         secretbrokerv1.NewResolverServiceClient(conn),
		watches:     secretbrokerv1.NewWatchServiceClient(conn),
		closed:      closed,
		end:         end,
		wait:        sleep,
	}, nil
}

// Close closes the connections and ends every active call. The Client cannot be used
// afterwards.
func (c *Client) Close() error {
	c.end()
	return c.conn.Close()
}

// ResolveRequest is a request for secrets by their references.
type ResolveRequest struct {
	// IntegrationID is the provider integration whose cloud identity reads the secrets.
	IntegrationID string
	// Configs maps config names to references, or is a connector's complete configuration:
	// if it has the property secret.manager.enabled, only the names listed in
	// secret.manager.managed.configs are references, and the response has only those.
	// Resolve does not change it; it must not be changed before Resolve returns.
	Configs map[string]string
	// MaxAge is the maximum time since the broker read a value from the store; zero makes
	// the broker read now. Nil accepts any value in the broker's cache.
	MaxAge *time.Duration
	// NotReadBefore, unless zero, refuses values whose read the broker began earlier, by
	// the broker's clock. Use a time that the broker has given, such as a FetchTime. A
	// broker that does not know this field refuses the call.
	NotReadBefore time.Time
	// AllowPartial reports failed configs in ResolveResponse.Errors and returns the other
	// values, instead of failing the whole call.
	AllowPartial bool
	// Connector is the caller's name for the connector that needs the secrets. The broker
	// writes it to its audit log and uses it for no decision.
	Connector string
}

// Resolve requests the values of req.Configs from the broker. Without req.AllowPartial, it
// returns either all of them or an error.
//
// It retries with exponential backoff if the broker is unreachable or overloaded, or reports
// that its store is, and waits at least as long as the broker requests. If a wait would
// exceed the deadline of ctx or Config.Timeout, it returns the last error at once.
//
// The error is an *Error. It also matches ctx's error if that ended the call.
func (c *Client) Resolve(ctx context.Context, req ResolveRequest) (*ResolveResponse, error) {
	out, err := call(ctx, c, c.rpc.Resolve, req.message())
	if err != nil {
		return nil, err
	}
	return newResolveResponse(out), nil
}

// call makes one call with its retries, within Config.Timeout, Config.MaxAttempts and the
// delays that the broker requests. It does not change in. The error is an *Error.
func call[In, Out any](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), in *In) (*Out, error) {
	return callWhile(ctx, c, rpc, in, (*Error).retryable)
}

// callWhile is call with a function that determines which failures are retried.
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

// retryDelay returns the time to wait after a failed attempt, and false if the wait would
// exceed the deadline of ctx. The delay that the broker requests is the minimum. Jitter is
// added to it, so that runtimes that failed at the same time do not retry at the same time.
func retryDelay(ctx context.Context, attempt int, retryAfter time.Duration) (time.Duration, bool) {
	step := maxBackoff
	if shift := attempt - 1; shift < 8 { // larger shifts exceed maxBackoff
		step = min(minBackoff<<shift, maxBackoff)
	}
	spread := step/2 + rand.N(step/2) //nolint:gosec // not used for security
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

// validate returns all errors in cfg that can be found without reading a file.
func (cfg Config) validate() error {
	var errs []error
	if len(cfg.Addrs) == 0 {
		errs = append(errs, errors.New(`the broker's address is not set; set Addrs to its "host:port"`))
	}
	for _, addr := range cfg.Addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf(`the broker's address in Addrs is %q; expected "host:port"`, addr))
		}
	}
	if _, ok := serviceConfigs[cfg.Balance]; !ok {
		errs = append(errs, fmt.Errorf(`the Balance is %q; set it to "", "round_robin" or "integration"`, cfg.Balance))
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
		errs = append(errs, fmt.Errorf("%s not set; the broker requires mutual TLS, which needs CAFile, CertFile and KeyFile", strings.Join(missing, ", ")))
	}
	if cfg.Timeout < 0 {
		errs = append(errs, fmt.Errorf("the Timeout is %v; leave it zero for %v", cfg.Timeout, defaultTimeout))
	}
	if cfg.MaxAttempts < 0 {
		errs = append(errs, fmt.Errorf("MaxAttempts is %d; leave it zero for %d", cfg.MaxAttempts, defaultMaxAttempts))
	}
	return errors.Join(errs...)
}

// modulePath is this module's path in a program's build information.
const modulePath = "github.com/secretbroker/secretbroker"

// version returns the version of the module in the running program, "devel" if the program
// was not built with a released version.
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
