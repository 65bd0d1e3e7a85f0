package app

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// Profiles, traces and dumps of goroutines are served nowhere, neither to callers
// nor on the admin endpoint, and net/http/pprof is not even linked in.
func TestThereAreNoProfiles(t *testing.T) {
	paths := []string{
		"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=2", "/debug/pprof/allocs", "/debug/pprof/profile?seconds=1",
		"/debug/pprof/trace", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/vars", "/debug/requests", "/debug/events",
	}
	for _, path := range paths[:8] {
		if _, pattern := http.DefaultServeMux.Handler(httptest.NewRequest(http.MethodGet, path, nil)); pattern != "" {
			t.Errorf("something in the program registers %s", pattern)
		}
	}
	b := newBroker(t, nil)
	if page := b.get(t, "/livez"); !strings.Contains(page, "200 OK") {
		t.Fatalf("the admin endpoint does not answer: %s", page)
	}
	cert, err := tls.LoadX509KeyPair(b.Worker.CertFile, b.Worker.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(b.CAFile)
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatal("no CA", err)
	}
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}},
	}
	defer transport.CloseIdleConnections()
	for _, path := range paths {
		if page := b.get(t, path); !strings.HasPrefix(page, "HTTP/1.0 404 ") {
			t.Errorf("the admin endpoint serves %s: %.60s", path, page)
		}
		res, err := (&http.Client{Transport: transport}).Get("https://" + b.addr + path)
		if err != nil {
			continue // the stream or the connection was refused
		}
		res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("the public listener serves %s: %s", path, res.Status)
		}
	}
}
