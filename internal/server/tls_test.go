package server

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
)

func TestTLSPolicy(t *testing.T) {
	ts := startServer(t)
	cert := *ts.ca.withURIs(string(granted))
	tests := map[string]struct {
		creds credentials.TransportCredentials
		ok    bool
	}{
		"TLS 1.3":   {credentials.NewTLS(&tls.Config{RootCAs: ts.ca.pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}), true},
		"TLS 1.2":   {credentials.NewTLS(&tls.Config{RootCAs: ts.ca.pool(), Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}), false},
		"plaintext": {insecure.NewCredentials(), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ask(t, ts.dialWith(t, tt.creds), &secretbrokerv1.ResolveRequest{})
			if (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("no ALPN", func(t *testing.T) {
		conn, err := tls.Dial("tcp", ts.addr, &tls.Config{RootCAs: ts.ca.pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
		if err != nil {
			return // refused in the handshake, as it should be
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client without ALPN was let in")
		}
	})
}

func TestNewRefusesWeakTLS(t *testing.T) {
	ca := newTestCA(t)
	good := func() *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*ca.server()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool()}
	}
	for name, weaken := range map[string]func(*tls.Config) *tls.Config{
		"none":                       func(*tls.Config) *tls.Config { return nil },
		"no client CA":               func(c *tls.Config) *tls.Config { c.ClientCAs = nil; return c },
		"client certificates asked":  func(c *tls.Config) *tls.Config { c.ClientAuth = tls.RequestClientCert; return c },
		"client certificates if any": func(c *tls.Config) *tls.Config { c.ClientAuth = tls.VerifyClientCertIfGiven; return c },
		"TLS 1.2":                    func(c *tls.Config) *tls.Config { c.MinVersion = tls.VersionTLS12; return c },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(Config{Resolver: &fakeResolver{}, TLS: weaken(good()), Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestLoadTLS(t *testing.T) {
	ca := newTestCA(t)
	cert, key, caFile := ca.files(ca.server())
	_, otherKey, _ := ca.files(ca.server())
	halfCA := filepath.Join(t.TempDir(), "ca.pem")
	if pem, err := os.ReadFile(caFile); err != nil || os.WriteFile(halfCA, append(pem, pem[:len(pem)/2]...), 0o600) != nil {
		t.Fatal(err)
	}
	earlyCert, earlyKey, _ := ca.files(ca.issue(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }))
	expiredCert, expiredKey, _ := ca.files(ca.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	for name, files := range map[string][3]string{
		"no certificate":           {"", key, caFile},
		"no key":                   {cert, "", caFile},
		"no client CA":             {cert, key, ""},
		"a key of another":         {cert, otherKey, caFile},
		"a client CA that is none": {cert, key, key},
		"half a client CA":         {cert, key, halfCA},
		"not yet valid":            {earlyCert, earlyKey, caFile},
		"expired":                  {expiredCert, expiredKey, caFile},
	} {
		t.Run(name, func(t *testing.T) {
			if cfg, err := LoadTLS(files[0], files[1], files[2]); err == nil || cfg != nil {
				t.Errorf("got %v, %v", cfg, err)
			} else if strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("the error holds key material: %v", err)
			}
		})
	}
}

func TestPrincipalOf(t *testing.T) {
	ca := newTestCA(t)
	tests := map[string]struct {
		cert *tls.Certificate
		want authz.Principal
	}{
		"a SPIFFE ID":                    {ca.withURIs("spiffe://example.org/connect/a"), "spiffe://example.org/connect/a"},
		"a SPIFFE ID beside another URI": {ca.withURIs("https://example.org", "spiffe://example.org/a"), ""},
		"another URI":                    {ca.withURIs("https://example.org"), ""},
		"a trust domain":                 {ca.withURIs("spiffe://example.org"), ""},
		"a SPIFFE ID with a query":       {ca.withURIs("spiffe://example.org/a?b"), ""},
		"a SPIFFE ID with a port":        {ca.withURIs("spiffe://example.org:1/a"), ""},
		"one DNS name":                   {ca.withDNS("Worker.Example.org"), "dns:worker.example.org"},
		"a wildcard":                     {ca.withDNS("*.example.org"), ""},
		"an authority": {ca.issue(func(c *x509.Certificate) {
			c.URIs, c.IsCA, c.BasicConstraintsValid = ca.withURIs("spiffe://example.org/a").Leaf.URIs, true, true
		}), ""},
		"one that may sign": {ca.issue(func(c *x509.Certificate) {
			c.DNSNames, c.KeyUsage = []string{"a.example.org"}, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
		}), ""},
		"a broken SPIFFE ID and a DNS name": {ca.issue(func(c *x509.Certificate) {
			c.URIs = ca.withURIs("spiffe://example.org").Leaf.URIs
			c.DNSNames = []string{"a.example.org"}
		}), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, problem := principalOf(tt.cert.Leaf)
			if got != tt.want || (got == "") == (problem == "") {
				t.Errorf("got %q, %q", got, problem)
			}
		})
	}
}
