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

// Config says where the requests of one client may go, and how.
type Config struct {
	// Origins, "https://HOST[:PORT]" in lower case and without ":443", are the
	// only ones that requests are sent to, but for Local.
	Origins []string
	// Local are origins on the machine itself or its link, such as metadata
	// services: any address will do, and no proxy is asked.
	Local []string
	// Dial maps a host in lower case to the "host:port" to connect to instead. An
	// address is taken at its word, a name may lead to a private address. Name and
	// certificate checks stay those of the host, and no proxy is used.
	Dial map[string]string
	// PrivateEndpoint says that names may lead to private addresses.
	PrivateEndpoint bool
	// Roots are the authorities whose certificates are good; nil for the system's.
	Roots *x509.CertPool
	// Certificate, if not nil, is what the client shows of itself.
	Certificate *tls.Certificate
	// Timeout bounds one exchange, from connecting to the last byte of the answer.
	// Zero means 4 s.
	Timeout time.Duration
	// Concurrency is how many requests to one origin run side by side. As many
	// connections are kept for the next ones; zero means 64.
	Concurrency int
	// MaxBody is the most that is read of an answer, in bytes, after
	// decompression; zero means 512 KiB.
	MaxBody int64
	// Renegotiate allows one TLS renegotiation, for front ends that still want it.
	Renegotiate bool
	// Proxy picks the proxy of a request, as http.Transport.Proxy. Nil means
	// http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Resolver looks names up; nil means the system's.
	Resolver *net.Resolver
	// Connecting, if not nil, is told of each address that may be connected to,
	// right before; its error stops that. It is for tests.
	Connecting func(address string) error
}

const (
	defaultTimeout     = 4 * time.Second
	defaultConcurrency = 64
	// DefaultMaxBody is the most that is read of an answer unless told otherwise.
	// The largest secret of a cloud's store has 64 KiB, of which JSON makes six times
	// as much at worst.
	DefaultMaxBody = 512 << 10
	// streamBuffer and connectionBuffer are how much of HTTP/2 answers that are not
	// read yet is kept, in bytes: a server may send no more ahead. net/http's own
	// bounds are 4 MiB and 1 GiB. The largest secrets fit into streamBuffer, so that
	// they take one round trip.
	streamBuffer, connectionBuffer = 128 << 10, 1 << 20
	// maxHeader is the most that is read of an answer's header, in bytes.
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
	if c.Proxy == nil {
		c.Proxy = http.ProxyFromEnvironment
	}
	return c
}

// Origin is scheme and host of u, with the port if it is not https's own.
func Origin(u *url.URL) string { return origin(u) }
