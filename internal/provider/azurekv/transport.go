package azurekv

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// maxBody limits the size of a response, in bytes, after decompression. The largest
// secret has 25 KB (Key Vault service limits).
const maxBody = 256 << 10

// The default endpoints for managed identities, used unless the environment names
// another: the instance metadata service of a virtual machine, and the agent of Azure
// Arc. Both are local to the machine and use plain HTTP.
const (
	imdsOrigin = "http://169.254.169.254"
	arcOrigin  = "http://127.0.0.1:40342"
)

// discoveryOrigin is the endpoint that the SDK asks whether an authority that it does
// not know is genuine.
const discoveryOrigin = "https://login.microsoftonline.com"

// authorityAliases are the hosts of each cloud's login authority. The discovery
// document of an authority may name another of its hosts as the token endpoint.
// Source: instance discovery metadata of Microsoft Entra ID.
var authorityAliases = [][]string{
	{"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
	{"login.chinacloudapi.cn", "login.partner.microsoftonline.cn"},
	{"login.microsoftonline.us", "login.usgovcloudapi.net"},
}

// newVaultClient returns the client for the vaults. It sends only to https on their
// hosts, so that no access token can reach another host.
func newVaultClient(cfg provider.Config, in *integration.Integration, roots *x509.CertPool, hosts map[string]string) *http.Client {
	allowed := make(map[string]bool, len(hosts))
	for _, host := range hosts {
		allowed["https://"+strings.ToLower(host)] = true
	}
	return newClient(cfg, in, roots, maxBody, allowed, nil)
}

// newLoginClient returns the client for credentials. It sends to:
//
//   - https on the host of the login authority, and, if that is one of
//     Microsoft's, on the other names of the same authority;
//   - login.microsoftonline.com, if the authority is not one of Microsoft's and
//     instance discovery is on;
//   - for managed_identity and default only, the endpoint that the environment
//     names (App Service, Azure ML, Arc), or else the machine's own metadata
//     service or Arc agent. managed_identity sends to nothing else.
//
// It does not send to a regional authority (AZURE_REGIONAL_AUTHORITY_NAME).
func newLoginClient(cfg provider.Config, in *integration.Integration, id identity, roots *x509.CertPool) *http.Client {
	a := settingsOf(in)
	allowed, local := make(map[string]bool), make(map[string]bool)
	if id.credential.Type != ManagedIdentity {
		for _, o := range authorityOrigins(a) {
			allowed[o] = true
		}
	}
	switch id.credential.Type {
	case ManagedIdentity, DefaultCredential:
		for _, o := range identityOrigins() {
			allowed[o], local[o] = true, true
		}
	}
	return newClient(cfg, in, roots, maxBody, allowed, local)
}

func authorityOrigins(a *Settings) []string {
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

// identityOrigins follows the order in which the SDK looks for a managed identity:
// App Service, then Azure ML or Cloud Shell, then Arc, then the metadata service. The
// SDK also detects Arc by its agent's file, with or without the variable.
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

// newClient returns a client that sends only to the allowed and the local origins,
// and to the local ones never through a proxy. It records each exchange in the trace
// of the request's context.
func newClient(cfg provider.Config, in *integration.Integration, roots *x509.CertPool, bodyLimit int64, allowed, local map[string]bool) *http.Client {
	out := cfg.Egress(in)
	out.Dial, out.PrivateEndpoint, out.Roots, out.MaxBody = settingsOf(in).Dial, settingsOf(in).PrivateEndpoint, roots, bodyLimit
	out.Renegotiate = true // as in the SDK's own transport, for Azure's older front ends
	for o := range allowed {
		if local[o] {
			out.Local = append(out.Local, o)
		} else {
			out.Origins = append(out.Origins, o)
		}
	}
	c := egress.NewClient(out)
	c.Transport = &recorder{c.Transport.(*egress.Transport)} //nolint:forcetypeassert // NewClient promises it
	return c
}

// recorder records the result of each request in the trace of the request's context.
type recorder struct{ next *egress.Transport }

func (g *recorder) RoundTrip(r *http.Request) (*http.Response, error) {
	seen, _ := r.Context().Value(traceKey{}).(*trace)
	resp, err := g.next.RoundTrip(r)
	seen.record(resp, err)
	return resp, err
}

// CloseIdleConnections is called by http.Client.CloseIdleConnections.
func (g *recorder) CloseIdleConnections() { g.next.CloseIdleConnections() }

func origin(u *url.URL) string { return egress.Origin(u) }

// errTimedOut is the error for an exchange that took longer than TryTimeout.
var errTimedOut = egress.ErrTimedOut

// trace holds the result of the last exchange of a token acquisition. The SDK puts
// part of it into its errors' texts, responses included, and drops the rest.
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

// record stores the result of an exchange. It reads resp's body, which is already in
// memory, and replaces it by a copy. A nil trace records nothing.
func (t *trace) record(resp *http.Response, err error) {
	if t == nil {
		return
	}
	x := exchange{made: true, err: err}
	if err == nil {
		x.host, x.status = resp.Request.URL.Host, resp.StatusCode
		x.requestID = storeerror.Plain(resp.Header.Get("x-ms-request-id"))
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

// answered reports whether the last exchange got a response that shows that the
// service works. A failure of the server does not, and neither does the challenge
// that each client's first read gets.
func (t *trace) answered() bool {
	x := t.get()
	if errors.As(x.err, new(egress.AnswerError)) {
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
