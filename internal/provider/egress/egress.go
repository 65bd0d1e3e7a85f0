// Package egress makes the only connections to secret stores and login authorities: an
// *http.Client (NewClient) or a Dialer that connects where the integration says and
// nowhere else.
//
// The rules hold for every kind of store, in the order in which a request meets them:
//
//   - Transport refuses a request to an origin that is not listed, before it resolves a
//     name. Redirects are responses and are not followed.
//   - Concurrent requests to one origin share one dial (dialGroup).
//   - Dialer resolves the name and checks the address policy of the origin on the very
//     address that it connects to, at each connection. An attacker who controls the
//     name in the DNS, and changes its answer between two lookups (DNS rebinding),
//     cannot make the broker connect to an internal address.
//   - Only the operator's proxy is used, and never for metadata services.
//   - Timeouts, and limits on the size of headers and bodies, apply to every exchange.
//   - A failure at the proxy is told apart from one of the store (ProxyError).
//   - OutageOf turns an error into a text for people that quotes nothing that the other
//     side sent.
//
// The package knows no SDK and no store.
package egress

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Config determines where one client may send requests, and how.
type Config struct {
	// Origins, "https://HOST[:PORT]" in lower case and without ":443", are the only
	// origins that requests are sent to, except Local.
	Origins []string
	// Local are origins on the machine itself or its link, such as metadata services.
	// They may have any address, and never use a proxy.
	Local []string
	// Dial maps a host in lower case to the "host:port" to connect to instead. An
	// address in it is used unchecked; a name in it may resolve to a private address.
	// The certificate is still checked for the host, and no proxy is used.
	Dial map[string]string
	// PrivateEndpoint permits names to resolve to private addresses.
	PrivateEndpoint bool
	// Roots are the trusted certificate authorities; nil means the system's.
	Roots *x509.CertPool
	// Certificate, if not nil, is the client's certificate.
	Certificate *tls.Certificate
	// Timeout limits one exchange, from connecting to the last byte of the response.
	// Zero means 4 s.
	Timeout time.Duration
	// Concurrency is the expected number of concurrent requests to one origin. That
	// many idle connections are kept; zero means 64.
	Concurrency int
	// MaxBody limits the size of a response, in bytes, after decompression; zero
	// means 512 KiB.
	MaxBody int64
	// Renegotiate permits one TLS renegotiation, for old front ends that require it.
	Renegotiate bool
	// Proxy returns the proxy for a request, as http.Transport.Proxy does. Nil means the
	// proxies of the process's environment, as with http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Resolver resolves names; nil means the system's resolver.
	Resolver *net.Resolver
	// Connecting, if not nil, is called with each permitted address before the client
	// connects to it; an error prevents the connection. It is for tests.
	Connecting func(address string) error
}

const (
	defaultTimeout     = 4 * time.Second
	defaultConcurrency = 64
	// DefaultMaxBody is the default of Config.MaxBody. The largest secret of a
	// cloud's store has 64 KiB, and JSON encoding multiplies that by six at worst.
	DefaultMaxBody = 512 << 10
	// streamBuffer and connectionBuffer limit the unread data of HTTP/2 responses, in
	// bytes: a server may not send more ahead. net/http's own limits are 4 MiB and 1
	// GiB. The largest secrets fit into streamBuffer, so they take one round trip.
	streamBuffer, connectionBuffer = 128 << 10, 1 << 20
	// maxHeader limits the size of a response's header, in bytes.
	maxHeader = 64 << 10
)

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	return c
}

// Origin returns scheme and host of u, with the port unless it is https's default.
func Origin(u *url.URL) string { return origin(u) }
