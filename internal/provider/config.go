package provider

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Config is what the Providers of all integrations share, whatever their kind. The zero
// Config is ready to use.
type Config struct {
	// Logger receives renewed credentials and failed renewals. Nil discards them.
	Logger *slog.Logger
	// Now is the clock that credentials, leases and the dates of secrets are compared
	// with. Requests to AWS are signed with the system's clock. Nil means time.Now.
	Now func() time.Time
	// LoginTimeout bounds the acquisition of one credential, with all its requests and
	// retries. Zero means 10 s.
	LoginTimeout time.Duration
	// TryTimeout bounds one HTTP exchange, from dialing to the last byte of the
	// response. Zero means 4 s. An integration's reads.timeout takes precedence.
	TryTimeout time.Duration
	// MaxRetries is how often Azure's and Google's kinds repeat a request at once after
	// a broken connection or a failure of the server. The other kinds repeat once.
	// Timeouts and throttling are never repeated. Zero means 2, a negative number none.
	MaxRetries int
	// Proxy picks the proxy of a request, as http.Transport.Proxy does. Nil means the
	// proxies of the process's environment. It is not asked about hosts that the integration dials
	// elsewhere, nor about metadata services.
	Proxy func(*http.Request) (*url.URL, error)
	// Resolver looks up the names of stores and login authorities. Nil means the
	// system's.
	Resolver *net.Resolver
	// Lost, if not nil, is called when a store has revoked a generated credential before its
	// end: that of the version. It must not block, and may be called concurrently.
	Lost func(in *integration.Integration, ref secret.Ref, version string)
	// Connecting is egress.Config.Connecting, for tests.
	Connecting func(address string) error
}

// For returns the configuration for one integration: c with its defaults, with the
// integration's limits, and with a logger that names the integration.
func (c Config) For(in *integration.Integration) Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("integration_id", in.ID)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.LoginTimeout == 0 {
		c.LoginTimeout = 10 * time.Second
	}
	if c.TryTimeout == 0 {
		c.TryTimeout = 4 * time.Second
	}
	if in.Reads.Timeout > 0 {
		c.TryTimeout = in.Reads.Timeout
	}
	if c.MaxRetries == 0 {
		c.MaxRetries = 2
	}
	if c.Lost == nil {
		c.Lost = func(*integration.Integration, secret.Ref, string) {}
	}
	return c
}

// Egress returns the part of an integration's egress.Config that is the same for all
// kinds. The caller adds the origins, the roots and the addresses to dial.
func (c Config) Egress(in *integration.Integration) egress.Config {
	return egress.Config{
		Timeout:     c.TryTimeout,
		Concurrency: in.Reads.MaxConcurrent,
		Proxy:       c.Proxy,
		Resolver:    c.Resolver,
		Connecting:  c.Connecting,
	}
}
