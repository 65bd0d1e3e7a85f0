package egress

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// NewClient returns a client that sends only to cfg's origins, to the local ones
// never through a proxy, and connects as Dialer permits. It does not follow
// redirects: the 3xx is the response. Its Transport is a *Transport.
func NewClient(cfg Config) *http.Client {
	cfg = cfg.withDefaults()
	d := NewDialer(cfg)
	choose := cfg.Proxy
	if choose == nil {
		choose = environmentProxy()
	}
	g := &Transport{allowed: make(map[string]*dialGroup), timeout: cfg.Timeout, maxBody: cfg.MaxBody, environment: cfg.Proxy == nil}
	local := make(map[string]bool)
	for _, o := range cfg.Origins {
		g.allowed[o] = &dialGroup{patience: maxLead}
	}
	for _, o := range cfg.Local {
		g.allowed[o], local[o] = &dialGroup{patience: maxLead}, true
	}
	g.next = &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if _, elsewhere := cfg.Dial[strings.ToLower(r.URL.Hostname())]; elsewhere || local[origin(r.URL)] {
				return nil, nil
			}
			proxy, err := choose(r)
			d.trust(proxy)
			if t := tunnelOf(r.Context()); t != nil {
				t.proxy.Store(proxy)
			}
			return proxy, err
		},
		OnProxyConnectResponse: connectAnswer,
		DialContext:            d.Dial,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			RootCAs:    cfg.Roots,
			// The cache belongs to this client alone: a TLS session is only valid for
			// the roots and the certificate that it was established with.
			ClientSessionCache: tls.NewLRUClientSessionCache(0),
		},
		TLSHandshakeTimeout:    cfg.Timeout,
		ResponseHeaderTimeout:  cfg.Timeout,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConns:           max(256, 2*cfg.Concurrency),
		MaxIdleConnsPerHost:    cfg.Concurrency,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		// A connection that died silently must not delay later requests. Usually the
		// system detects it, when data is not acknowledged, see setUserTimeout.
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second,
			MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: connectionBuffer,
		},
	}
	if cfg.Renegotiate {
		g.next.TLSClientConfig.Renegotiation = tls.RenegotiateOnceAsClient
	}
	if cfg.Certificate != nil {
		g.next.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cfg.Certificate, nil
		}
	}
	return &http.Client{
		Transport:     g,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Transport is an http.RoundTripper that refuses requests to other origins than the
// permitted ones, and limits the time and size of each exchange: it reads the
// response before RoundTrip returns. A 200 response must be UTF-8.
type Transport struct {
	next    *http.Transport
	allowed map[string]*dialGroup // by origin
	timeout time.Duration
	maxBody int64
	// environment means that the proxies are from the process's environment.
	environment bool
}

// Origins returns the origins that the transport sends to, sorted.
func (g *Transport) Origins() []string { return slices.Sorted(maps.Keys(g.allowed)) }

// Base returns the underlying transport. It is for tests.
func (g *Transport) Base() *http.Transport { return g.next }

// RoundTrip implements http.RoundTripper.
func (g *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	to := origin(r.URL)
	way := g.allowed[to]
	if way == nil || (r.Host != "" && r.Host != r.URL.Host) {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, &OriginError{to}
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), g.timeout, ErrTimedOut)
	defer cancel()
	through := &tunnel{target: r.URL, environment: g.environment}
	connecting, done := way.enter(context.WithValue(ctx, tunnelKey{}, through))
	defer done()
	resp, err := g.next.RoundTrip(r.WithContext(connecting))
	if err == nil {
		err = g.readAll(resp)
		if through.proxy.Load() != nil && r.URL.Scheme == "http" && resp.StatusCode == http.StatusProxyAuthRequired {
			err = &connectError{resp.StatusCode} // without CONNECT, the response is the proxy's
		}
	}
	if err != nil {
		if r.Context().Err() == nil && errors.Is(context.Cause(ctx), ErrTimedOut) {
			err = ErrTimedOut
		}
		if r.Context().Err() == nil {
			err = through.explain(err)
		}
		return nil, err
	}
	resp.Request = r
	return resp, nil
}

// CloseIdleConnections is called by http.Client.CloseIdleConnections.
func (g *Transport) CloseIdleConnections() { g.next.CloseIdleConnections() }

// readAll replaces resp's body by its content.
func (g *Transport) readAll(resp *http.Response) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, g.maxBody+1))
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, new(flate.CorruptInputError)) {
		return errNotGzip
	}
	if err != nil {
		return err
	}
	if int64(len(b)) > g.maxBody {
		mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // empty if it cannot be parsed
		return &SizeError{Limit: g.maxBody, Success: resp.StatusCode == http.StatusOK && mediaType == "application/json"}
	}
	// Decoding would replace invalid UTF-8 and so change the secret.
	if resp.StatusCode == http.StatusOK && !utf8.Valid(b) {
		return errNotText
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return nil
}

// origin returns scheme and host, with the port unless it is the scheme's default.
func origin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	return u.Scheme + "://" + host
}

// OriginError is the error for a request to an origin that is not permitted.
type OriginError struct{ origin string }

func (e *OriginError) Error() string {
	return fmt.Sprintf("egress: refused to send a request to %s, which the integration does not list", e.origin)
}

// NonRetriable tells Azure's SDK not to try again.
func (*OriginError) NonRetriable() {}

// AnswerError is the error for a response that cannot be used.
type AnswerError string

func (e AnswerError) Error() string { return string(e) }

// NonRetriable tells Azure's SDK not to try again.
func (AnswerError) NonRetriable() {}

const (
	errTooLarge = AnswerError("egress: the response is too large")
	errNotText  = AnswerError("egress: the response is not UTF-8")
	errNotGzip  = AnswerError("egress: the response does not match its content encoding")
)

// SizeError is the error for a response that is larger than Config.MaxBody. It is also an
// AnswerError.
type SizeError struct {
	// Limit is Config.MaxBody.
	Limit int64
	// Success means that the response has status 200 and is JSON according to its header,
	// so that it is probably what the request asked for.
	Success bool
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("egress: the response is larger than %d bytes", e.Limit)
}

// Unwrap makes the error an AnswerError.
func (*SizeError) Unwrap() error { return errTooLarge }

// ErrTimedOut is the error for an exchange that took longer than Config.Timeout.
var ErrTimedOut = errors.New("egress: timed out waiting for the response")
