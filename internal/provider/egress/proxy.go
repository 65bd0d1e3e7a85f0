package egress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// environmentProxy returns the function for Config.Proxy that applies the process's
// environment: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in upper or lower case. Unlike
// http.ProxyFromEnvironment it reads the environment when it is called, and fails for requests
// whose proxy has an invalid URL instead of sending them without a proxy.
func environmentProxy() func(*http.Request) (*url.URL, error) {
	cfg := httpproxy.FromEnvironment()
	markInvalid(&cfg.HTTPProxy, "http")
	markInvalid(&cfg.HTTPSProxy, "https")
	choose := cfg.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) {
		proxy, err := choose(r.URL)
		if proxy != nil && proxy.Host == invalidProxy {
			return nil, &proxyURLError{proxyVariable(r.URL.Scheme)}
		}
		return proxy, err
	}
}

// invalidProxy replaces the host of a proxy with an invalid URL. httpproxy ignores such a URL,
// or takes its scheme for the host.
const invalidProxy = "invalid-proxy-url.invalid"

// markInvalid replaces a proxy, unless it is empty or usable for requests of the scheme.
func markInvalid(proxy *string, scheme string) {
	alone := httpproxy.Config{HTTPProxy: *proxy, HTTPSProxy: *proxy}
	used, err := alone.ProxyFunc()(&url.URL{Scheme: scheme, Host: "host.invalid"})
	if *proxy != "" && (err != nil || used == nil || used.Hostname() == "" || strings.HasSuffix(used.Host, ":")) {
		*proxy = "http://" + invalidProxy
	}
}

// proxyURLError is the error for a request whose proxy has an invalid URL.
type proxyURLError struct{ variable string }

func (e *proxyURLError) Error() string {
	return "egress: the URL of the proxy in the environment variable " + e.variable + " is invalid"
}

// proxyVariable returns the environment variable that names the proxy for requests of a
// scheme.
func proxyVariable(scheme string) string {
	for _, name := range []string{strings.ToUpper(scheme) + "_PROXY", strings.ToLower(scheme) + "_proxy"} {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return ""
}

// isHTTP reports whether a proxy is reached over HTTP, and not with SOCKS.
func isHTTP(proxy *url.URL) bool { return proxy.Scheme == "http" || proxy.Scheme == "https" }

// tunnel is what is known of the proxy of one exchange. It is in the exchange's context.
type tunnel struct {
	target *url.URL
	// environment means that the proxy is from the process's environment.
	environment bool
	// proxy is nil if there is none. A dial of an earlier attempt may still read it while
	// net/http repeats the request.
	proxy atomic.Pointer[url.URL]
	// open means that the proxy has connected to the target, or that the exchange has got a
	// connection. The goroutine that dials sets it.
	open atomic.Bool
	// dialled is the connection to the proxy while its response to CONNECT is awaited.
	dialled atomic.Pointer[net.Conn]
}

// await limits how long the proxy may take to open the tunnel. net/http does not end a
// dial with its request, and would wait for a minute.
func (t *tunnel) await(proxy net.Conn, limit time.Duration) {
	if t.proxy.Load() != nil && t.target.Scheme == "https" && proxy.SetDeadline(time.Now().Add(limit)) == nil {
		t.dialled.Store(&proxy)
	}
}

type tunnelKey struct{}

func tunnelOf(ctx context.Context) *tunnel {
	t, _ := ctx.Value(tunnelKey{}).(*tunnel)
	return t
}

// connectAnswer implements http.Transport.OnProxyConnectResponse.
func connectAnswer(ctx context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &connectError{resp.StatusCode}
	}
	t := tunnelOf(ctx)
	if t == nil {
		return nil
	}
	t.open.Store(true)
	if conn := t.dialled.Swap(nil); conn != nil {
		return (*conn).SetDeadline(time.Time{})
	}
	return nil
}

// connectError is a proxy's response to CONNECT other than 200.
type connectError struct{ status int }

func (e *connectError) Error() string { return fmt.Sprintf("the proxy answered HTTP %d", e.status) }

// explain adds to err, the error of an exchange, what the proxy has to do with it.
func (t *tunnel) explain(err error) error {
	proxy := t.proxy.Load()
	if proxy == nil {
		return err
	}
	e := &ProxyError{proxy: proxy, target: hostPort(t.target), err: err, status: http.StatusOK}
	if t.environment {
		e.variable = proxyVariable(t.target.Scheme)
	}
	var (
		refusal *connectError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &refusal):
		e.status, e.atFault = refusal.status, true
	case errors.As(err, &op) && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		e.atFault = true
	default: // with SOCKS it is not known when the proxy has connected to the target
		e.atFault = !t.open.Load() && isHTTP(proxy)
	}
	return e
}

// ProxyError is the error for an exchange through a proxy. Its text has the proxy's host
// and port, but not the user and password.
type ProxyError struct {
	proxy    *url.URL
	variable string // the environment variable that names the proxy; "" if it is not known
	target   string // "host:port"
	// atFault means that the proxy did not connect to the target.
	atFault bool
	// status is the proxy's response to CONNECT; 200 if it sent none or that one.
	status int
	err    error
}

func (e *ProxyError) Error() string { return "through " + e.name() + ": " + e.err.Error() }
func (e *ProxyError) Unwrap() error { return e.err }

// name names the proxy and the source of its address.
func (e *ProxyError) name() string {
	name := "the proxy " + hostPort(e.proxy)
	if e.variable != "" {
		name += " (of the environment variable " + e.variable + ")"
	}
	return name
}

// outage converts e to an Outage.
func (e *ProxyError) outage(advice Advice) Outage {
	o := outageOf(e.err, advice)
	if !e.atFault {
		if o.Text != "" && !errors.As(e.err, new(AnswerError)) && !errors.As(e.err, new(*OriginError)) {
			o.Text += "; the connection goes through " + e.name()
		}
		return o
	}
	text, cause := "", o.Cause
	variable := cmp.Or(e.variable, "the proxy's settings")
	switch {
	case e.status == http.StatusProxyAuthRequired && e.proxy.User != nil:
		text = "does not accept the user and password in " + variable
	case e.status == http.StatusProxyAuthRequired:
		text = "requires a login; put the user and password into the URL in " + variable
	case e.status == http.StatusBadGateway, e.status == http.StatusServiceUnavailable, e.status == http.StatusGatewayTimeout:
		text, o.Transient = "cannot connect to "+e.target+"; check the network path from the proxy to it", true
	case e.status == http.StatusForbidden:
		text = "does not allow connections to " + e.target + "; allow them in the proxy, or add the host to NO_PROXY if the broker can reach it without a proxy"
	case e.status != http.StatusOK:
		text = "did not open a connection to " + e.target + "; check that it is an HTTP proxy"
	case o.MissingHost != "":
		text = "does not exist: its name is not in the DNS; check " + variable
	case o.Text == "":
		text = "does not open a connection; check " + variable
	default:
		text = o.Text
	}
	if e.status != http.StatusOK {
		text += fmt.Sprintf(" (HTTP %d)", e.status)
		cause = &connectError{e.status}
	}
	return Outage{Text: "cannot be reached: " + e.name() + " " + text, Cause: cause, Transient: o.Transient}
}
