package egress

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/netfault"
)

// serveProxy starts a proxy and returns its "host:port".
func serveProxy(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// closedPort returns an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// TestProxyFaults: a fault of the proxy is described as such, with the proxy's address and
// the variable that names it, and without the password in its URL.
func TestProxyFaults(t *testing.T) {
	s := newSite(t, func(http.ResponseWriter, *http.Request) {}, nil, "a.test")
	closes := func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	const denied = " does not allow connections to a.test:443; allow them in the proxy, or add the host to NO_PROXY if the broker can reach it without a proxy (HTTP 403)"
	for _, tt := range []struct {
		name      string
		url       string // PROXY is replaced by the proxy's address
		proxy     http.Handler
		want      string // the end of the text
		transient bool
	}{
		{"dead", "http://ops:hunter2@PROXY", nil, " refuses the connection", true},
		{"dead, the scheme left out", "PROXY", nil, " refuses the connection", true},
		{"dead SOCKS", "socks5://PROXY", nil, " refuses the connection", true},
		{"502", "http://PROXY", &netfault.HTTPProxy{Status: 502}, " cannot connect to a.test:443; check the network path from the proxy to it (HTTP 502)", true},
		{"503", "http://PROXY", &netfault.HTTPProxy{Status: 503}, " cannot connect to a.test:443; check the network path from the proxy to it (HTTP 503)", true},
		{"407", "http://PROXY", &netfault.HTTPProxy{Status: 407}, " requires a login; put the user and password into the URL in HTTPS_PROXY (HTTP 407)", false},
		{"407 with a password", "http://ops:hunter2@PROXY", &netfault.HTTPProxy{Status: 407}, " does not accept the user and password in HTTPS_PROXY (HTTP 407)", false},
		{"403", "http://PROXY", &netfault.HTTPProxy{Status: 403}, denied, false},
		{"405", "http://PROXY", &netfault.HTTPProxy{Status: 405}, " did not open a connection to a.test:443; check that it is an HTTP proxy (HTTP 405)", false},
		{"a web server", "http://PROXY", &netfault.HTTPProxy{Status: 302}, " did not open a connection to a.test:443; check that it is an HTTP proxy (HTTP 302)", false},
		{"hangs", "http://ops:hunter2@PROXY", &netfault.HTTPProxy{Silent: true}, " did not answer in time", false},
		{"closes", "http://PROXY", http.HandlerFunc(closes), " closed the connection", true},
		{"no TLS", "https://PROXY", &netfault.HTTPProxy{}, " does not complete the TLS handshake; check what listens there", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := closedPort(t)
			if tt.proxy != nil {
				addr = serveProxy(t, tt.proxy)
			}
			t.Setenv("HTTPS_PROXY", strings.Replace(tt.url, "PROXY", addr, 1))
			t.Setenv("NO_PROXY", "")
			cfg := Config{Origins: []string{"https://a.test"}, Roots: s.roots, Timeout: 300 * time.Millisecond}
			err := get(t.Context(), s.client(cfg), "https://a.test/")
			o := OutageOf(err, Advice{})
			want := "cannot be reached: the proxy " + addr + " (of the environment variable HTTPS_PROXY)" + tt.want
			if o.Text != want || o.Transient != tt.transient || o.MissingHost != "" {
				t.Errorf("transient %t, missing host %q, text\n %s, want\n %s\nerror %v", o.Transient, o.MissingHost, o.Text, want, err)
			}
			if err == nil || o.Cause == nil || strings.Contains(err.Error()+o.Cause.Error(), "hunter2") {
				t.Errorf("%v, cause %v", err, o.Cause)
			}
		})
	}
}

// TestProxyURLInvalid: no request is sent without the proxy because the proxy's URL is
// invalid. The error does not contain the password.
func TestProxyURLInvalid(t *testing.T) {
	t.Setenv("NO_PROXY", "b.test")
	for _, invalid := range []string{"http://ops:hunter2%zz@127.0.0.1:3128", "http://ops:hunter2@proxy:3128x", "ops: hunter2@proxy"} {
		t.Setenv("HTTPS_PROXY", invalid)
		c := NewClient(Config{Origins: []string{"https://a.test"}, Timeout: time.Second})
		err := get(t.Context(), c, "https://a.test/")
		o := OutageOf(err, Advice{})
		const want = "is not contacted: the URL of the proxy in the environment variable HTTPS_PROXY is invalid; correct it, and write special characters in the user and password as %XX"
		if o.Text != want || o.Cause == nil || strings.Contains(err.Error()+o.Cause.Error(), "hunter2") {
			t.Errorf("%s: error %v, %+v", invalid, err, o)
		}
		r := httptest.NewRequest(http.MethodGet, "https://b.test/", nil)
		if proxy, err := environmentProxy()(r); proxy != nil || err != nil {
			t.Errorf("a host in NO_PROXY: %v, %v", proxy, err)
		}
	}
}

// TestProxyName: a name of the proxy that does not exist is not taken for the store's.
func TestProxyName(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "")
	t.Setenv("https_proxy", "http://proxy.invalid:3128")
	missing := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no DNS") }}
	c := NewClient(Config{Origins: []string{"https://a.test"}, Resolver: missing, Timeout: time.Second})
	o := OutageOf(get(t.Context(), c, "https://a.test/"), Advice{})
	if !strings.HasPrefix(o.Text, "cannot be reached: the proxy proxy.invalid:3128 (of the environment variable https_proxy) ") || o.MissingHost != "" {
		t.Errorf("%+v", o)
	}
}

// TestStoreFaultsThroughAProxy: a fault of the store is not blamed on the proxy, which is
// named as a part of the way.
func TestStoreFaultsThroughAProxy(t *testing.T) {
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	s := newSite(t, hangs, nil, "a.test")
	addr := serveProxy(t, &netfault.HTTPProxy{Dial: map[string]string{"a.test:443": s.server.Listener.Addr().String(), "b.test:443": closedPort(t)}})
	t.Setenv("HTTPS_PROXY", "http://"+addr)
	for _, tt := range []struct {
		name  string
		roots bool
		want  string
	}{
		{"hangs", true, "did not answer in time"},
		{"not trusted", false, "presents a certificate that cannot be verified; set x.ca_file if a private CA or an inspecting proxy issued it"},
	} {
		cfg := Config{Origins: []string{"https://a.test"}, Timeout: 10 * time.Second} // loading the system's roots can take long
		if tt.roots {
			cfg.Roots, cfg.Timeout = s.roots, 300*time.Millisecond
		}
		o := OutageOf(get(t.Context(), s.client(cfg), "https://a.test/"), Advice{CAFile: "x.ca_file"})
		if want := tt.want + "; the connection goes through the proxy " + addr + " (of the environment variable HTTPS_PROXY)"; o.Text != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, o.Text, want)
		}
	}
}

// TestProxyWithoutConnect: a proxy for plain HTTP answers itself when it requires a login.
func TestProxyWithoutConnect(t *testing.T) {
	p := &netfault.HTTPProxy{Status: http.StatusProxyAuthRequired}
	addr := serveProxy(t, p)
	t.Setenv("HTTP_PROXY", "http://"+addr)
	c := NewClient(Config{Origins: []string{"http://a.test"}})
	t.Cleanup(c.CloseIdleConnections)
	o := OutageOf(get(t.Context(), c, "http://a.test/"), Advice{})
	if want := "cannot be reached: the proxy " + addr + " (of the environment variable HTTP_PROXY) requires a login; put the user and password into the URL in HTTP_PROXY (HTTP 407)"; o.Text != want {
		t.Errorf("\n got %s\nwant %s", o.Text, want)
	}
	p.Status = http.StatusBadGateway // the origin's or the proxy's: it is not known
	if err := get(t.Context(), c, "http://a.test/"); err == nil || err.Error() != "status 502" {
		t.Error(err)
	}
}
