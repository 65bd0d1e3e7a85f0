package azurekv

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// maxBody is the most that is read of an answer, in bytes, after
	// decompression. The largest secret is 25 KB (Key Vault service limits).
	maxBody = 1 << 20
	// maxHeader is the most that is read of an answer's header, in bytes.
	maxHeader = 64 << 10
)

// Where managed identities get their tokens if the environment names no other
// place: the instance metadata service of a virtual machine, and the agent of
// Azure Arc. Both are links of the machine itself and speak plain HTTP.
const (
	imdsOrigin = "http://169.254.169.254"
	arcOrigin  = "http://127.0.0.1:40342"
)

// discoveryOrigin is where the SDK asks whether an authority that it does not
// know is genuine.
const discoveryOrigin = "https://login.microsoftonline.com"

// authorityAliases are the hosts of each cloud's login authority. Its discovery
// document may name another one of them as the token endpoint. Source: instance
// discovery metadata of Microsoft Entra ID.
var authorityAliases = [][]string{
	{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
	{"login.chinacloudapi.cn", "login.partner.microsoftonline.cn"},
	{"login.microsoftonline.us", "login.usgovcloudapi.net"},
}

// newVaultClient makes the client for the vaults: it sends to https on their
// hosts and nowhere else, so that no access token can go elsewhere.
func newVaultClient(cfg Config, a *registry.Azure, roots *x509.CertPool, hosts map[string]string) *http.Client {
	allowed := make(map[string]bool, len(hosts))
	for _, host := range hosts {
		allowed["https://"+strings.ToLower(host)] = true
	}
	return newClient(cfg, a, roots, allowed, nil)
}

// newLoginClient makes the client for credentials. It sends to:
//
//   - https on the host of the login authority, and, if that is one of
//     Microsoft's, on the other names of the same authority;
//   - login.microsoftonline.com, if the authority is not one of Microsoft's and
//     instance discovery is on;
//   - for managed_identity and default only, the endpoint that the environment
//     names (App Service, Azure ML, Arc), or else the machine's own metadata
//     service or Arc agent. managed_identity sends to nothing else.
//
// A regional authority (AZURE_REGIONAL_AUTHORITY_NAME) is not among them.
func newLoginClient(cfg Config, a *registry.Azure, roots *x509.CertPool) *http.Client {
	allowed, local := make(map[string]bool), make(map[string]bool)
	if a.Credential.Type != registry.AzureManagedIdentity {
		for _, o := range authorityOrigins(a) {
			allowed[o] = true
		}
	}
	switch a.Credential.Type {
	case registry.AzureManagedIdentity, registry.AzureDefault:
		for _, o := range identityOrigins() {
			allowed[o], local[o] = true, true
		}
	}
	return newClient(cfg, a, roots, allowed, local)
}

func authorityOrigins(a *registry.Azure) []string {
	u, err := url.Parse(a.AuthorityHost)
	if err != nil {
		return nil
	}
	for _, names := range authorityAliases {
		for _, name := range names {
			if name == strings.ToLower(u.Host) {
				origins := make([]string, len(names))
				for i, n := range names {
					origins[i] = "https://" + n
				}
				return origins
			}
		}
	}
	origins := []string{origin(u)}
	if !a.DisableInstanceDiscovery {
		origins = append(origins, discoveryOrigin)
	}
	return origins
}

// identityOrigins follows the SDK's order of looking for a managed identity:
// App Service, then Azure ML or Cloud Shell, then Arc, then the metadata service.
// Arc may also be found by its agent's file, with or without the variable.
func identityOrigins() []string {
	of := func(name string) string {
		u, err := url.Parse(os.Getenv(name))
		if err != nil || u.Host == "" {
			return ""
		}
		return origin(u)
	}
	identity, msi := of("IDENTITY_ENDPOINT"), of("MSI_ENDPOINT")
	switch {
	case identity != "" && os.Getenv("IDENTITY_HEADER") != "":
		return []string{identity}
	case msi != "":
		return []string{msi}
	case identity != "":
		return []string{identity, imdsOrigin}
	default:
		return []string{imdsOrigin, arcOrigin}
	}
}

// origin is scheme and host, with the port if it is not the scheme's own.
func origin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	return u.Scheme + "://" + host
}

// newClient makes a client that sends to the allowed origins only, to the local
// ones never through a proxy, and connects as dialer allows. It follows no
// redirect: the 3xx is the answer.
func newClient(cfg Config, a *registry.Azure, roots *x509.CertPool, allowed, local map[string]bool) *http.Client {
	d := newDialer(cfg, a, allowed, local)
	t := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if _, elsewhere := a.Dial[strings.ToLower(r.URL.Hostname())]; elsewhere || local[origin(r.URL)] {
				return nil, nil
			}
			proxy, err := cfg.Proxy(r)
			d.trust(proxy)
			return proxy, err
		},
		DialContext: d.dial,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			RootCAs:    roots,
			// As in the SDK's own transport, for Azure's older front ends.
			Renegotiation: tls.RenegotiateOnceAsClient,
		},
		TLSHandshakeTimeout:    cfg.TryTimeout,
		ResponseHeaderTimeout:  cfg.TryTimeout,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64, // as many reads of one vault run side by side
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		// A connection that died silently must not swallow the requests after it.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
	return &http.Client{
		Transport:     &guard{next: t, allowed: allowed, timeout: cfg.TryTimeout},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guard is an http.RoundTripper that refuses requests to other than the allowed
// origins and bounds one exchange in time and size: the answer is read before
// RoundTrip returns.
type guard struct {
	next    *http.Transport
	allowed map[string]bool // origins
	timeout time.Duration
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	seen, _ := r.Context().Value(traceKey{}).(*trace)
	resp, err := g.send(r)
	seen.record(resp, err)
	return resp, err
}

func (g *guard) send(r *http.Request) (*http.Response, error) {
	if to := origin(r.URL); !g.allowed[to] || (r.Host != "" && r.Host != r.URL.Host) {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, &egressError{to}
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), g.timeout, errTimedOut)
	defer cancel()
	resp, err := g.next.RoundTrip(r.WithContext(ctx))
	if err == nil {
		err = readAll(resp)
	}
	if err != nil {
		if r.Context().Err() == nil && errors.Is(context.Cause(ctx), errTimedOut) {
			err = errTimedOut
		}
		return nil, err
	}
	resp.Request = r
	return resp, nil
}

// CloseIdleConnections is found by http.Client.CloseIdleConnections.
func (g *guard) CloseIdleConnections() { g.next.CloseIdleConnections() }

// readAll replaces resp's body by what it holds.
func readAll(resp *http.Response) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, new(flate.CorruptInputError)) {
		return errNotGzip
	}
	if err != nil {
		return err
	}
	if len(b) > maxBody {
		return errTooLarge
	}
	// Decoding would replace what is not UTF-8 and so change the secret.
	if resp.StatusCode == http.StatusOK && !utf8.Valid(b) {
		return errNotText
	}
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return nil
}

// egressError is a request that was stopped before it left.
type egressError struct{ origin string }

func (e *egressError) Error() string {
	return fmt.Sprintf("azurekv: a request to %s was stopped: the integration does not list it", e.origin)
}

// NonRetriable tells the SDK not to try again.
func (*egressError) NonRetriable() {}

// answerError is an answer that cannot be used.
type answerError string

func (e answerError) Error() string { return string(e) }

// NonRetriable tells the SDK not to try again.
func (answerError) NonRetriable() {}

const (
	errTooLarge = answerError("azurekv: the answer is larger than 1 MiB")
	errNotText  = answerError("azurekv: the answer is not UTF-8")
	errNotGzip  = answerError("azurekv: the answer is not compressed as it says")
)

// errTimedOut is an exchange that took longer than TryTimeout.
var errTimedOut = errors.New("azurekv: no complete answer in time")

// trace is what the last exchange of a token acquisition came to. The SDK puts
// some of it into its errors' texts, answers included, and loses the rest.
type trace struct {
	mu   sync.Mutex
	last exchange
}

type exchange struct {
	made   bool
	host   string
	status int
	// code is Entra ID's error code, such as "AADSTS7000215", if it sent one.
	code      string
	requestID string
	retry     time.Duration
	err       error
}

type traceKey struct{}

func withTrace(ctx context.Context, t *trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

var aadsts = regexp.MustCompile(`AADSTS[0-9]{4,8}`)

// record takes resp's body, which readAll has put there. A nil trace records
// nothing.
func (t *trace) record(resp *http.Response, err error) {
	if t == nil {
		return
	}
	x := exchange{made: true, err: err}
	if err == nil {
		x.host, x.status = resp.Request.URL.Host, resp.StatusCode
		x.requestID = plain(resp.Header.Get("x-ms-request-id"))
		x.retry = retryAfter(resp.Header)
		if x.status >= http.StatusBadRequest {
			b, _ := io.ReadAll(resp.Body)
			resp.Body = io.NopCloser(bytes.NewReader(b))
			x.code = string(aadsts.Find(b))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = x
}

// answered reports whether the last exchange brought an answer that is not the
// sign of an outage: neither a failure of the server nor the challenge with which
// each client's first read begins.
func (t *trace) answered() bool {
	x := t.get()
	if errors.As(x.err, new(answerError)) {
		return true
	}
	return x.made && x.err == nil && x.status < http.StatusInternalServerError &&
		x.status != http.StatusRequestTimeout && x.status != http.StatusUnauthorized
}

func (t *trace) get() exchange {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}
