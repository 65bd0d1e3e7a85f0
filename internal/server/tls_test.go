package server

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestTLSPolicy(t *testing.T) {
	ts := startServer(t)
	cert := *ts.ca.Client(string(granted))
	tests := map[string]struct {
		creds credentials.TransportCredentials
		ok    bool
	}{
		"TLS 1.3":   {credentials.NewTLS(&tls.Config{RootCAs: ts.ca.Pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}), true},
		"TLS 1.2":   {credentials.NewTLS(&tls.Config{RootCAs: ts.ca.Pool(), Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}), false},
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
		conn, err := tls.Dial("tcp", ts.addr, &tls.Config{RootCAs: ts.ca.Pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
		if err != nil {
			return // the handshake refuses it
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client without ALPN was accepted")
		}
	})
}

// TestCheckConnection: neither a mistake in the configuration nor an environment variable of
// gRPC lets a weak connection pass.
func TestCheckConnection(t *testing.T) {
	ca := trusttest.NewCA(t, "test CA")
	leaf := ca.Client(string(granted)).Leaf
	good := func() tls.ConnectionState {
		return tls.ConnectionState{
			Version: tls.VersionTLS13, NegotiatedProtocol: "h2",
			PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf, ca.Cert}},
		}
	}
	if _, err := checkConnection(credentials.TLSInfo{State: good()}); err != nil {
		t.Error(err)
	}
	for name, weaken := range map[string]func(*tls.ConnectionState){
		"no certificate":   func(s *tls.ConnectionState) { s.PeerCertificates = nil },
		"nothing verified": func(s *tls.ConnectionState) { s.VerifiedChains = nil },
		"an empty chain":   func(s *tls.ConnectionState) { s.VerifiedChains = [][]*x509.Certificate{nil} },
		"TLS 1.2":          func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 },
		"no ALPN":          func(s *tls.ConnectionState) { s.NegotiatedProtocol = "" },
		"another protocol": func(s *tls.ConnectionState) { s.NegotiatedProtocol = "http/1.1" },
	} {
		state := good()
		weaken(&state)
		if _, err := checkConnection(credentials.TLSInfo{State: state}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := checkConnection(nil); err == nil {
		t.Error("no TLS: accepted")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("New accepts a server without a certificate")
	}
}

func TestPrincipalOf(t *testing.T) {
	ca := trusttest.NewCA(t, "test CA")
	tests := map[string]struct {
		cert *tls.Certificate
		want authz.Principal
	}{
		"a SPIFFE ID":                 {ca.Client("spiffe://example.org/connect/a"), "spiffe://example.org/connect/a"},
		"a SPIFFE ID and another URI": {ca.Client("https://example.org", "spiffe://example.org/a"), ""},
		"another URI":                 {ca.Client("https://example.org"), ""},
		"a trust domain":              {ca.Client("spiffe://example.org"), ""},
		"a SPIFFE ID with a query":    {ca.Client("spiffe://example.org/a?b"), ""},
		"a SPIFFE ID with a port":     {ca.Client("spiffe://example.org:1/a"), ""},
		"one DNS name":                {ca.DNS("Worker.Example.org"), "dns:worker.example.org"},
		"a wildcard":                  {ca.DNS("*.example.org"), ""},
		"an authority": {ca.Issue(func(c *x509.Certificate) {
			c.URIs, c.IsCA, c.BasicConstraintsValid = ca.Client("spiffe://example.org/a").Leaf.URIs, true, true
		}), ""},
		"one that may sign": {ca.Issue(func(c *x509.Certificate) {
			c.DNSNames, c.KeyUsage = []string{"a.example.org"}, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
		}), ""},
		"a broken SPIFFE ID and a DNS name": {ca.Issue(func(c *x509.Certificate) {
			c.URIs = ca.Client("spiffe://example.org").Leaf.URIs
			c.DNSNames = []string{"a.example.org"}
		}), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, problem := authz.PrincipalOf(tt.cert.Leaf, IdentityRules{})
			if got != tt.want || (got == "") == (problem == "") {
				t.Errorf("got %q, %q", got, problem)
			}
		})
	}
}

// TestIdentityRules: a pinned trust domain can remove an identity, and never adds one.
func TestIdentityRules(t *testing.T) {
	ca := trusttest.NewCA(t, "test CA")
	pinned := IdentityRules{TrustDomain: spiffeid.RequireTrustDomainFromString("example.org")}
	only := IdentityRules{TrustDomain: pinned.TrustDomain, SPIFFEOnly: true}
	for name, tt := range map[string]struct {
		cert  *tls.Certificate
		rules IdentityRules
		want  authz.Principal
	}{
		"in the domain":                {ca.Client("spiffe://example.org/a"), pinned, "spiffe://example.org/a"},
		"in another domain":            {ca.Client("spiffe://example.com/a"), pinned, ""},
		"in a subdomain":               {ca.Client("spiffe://a.example.org/a"), pinned, ""},
		"in a domain with that prefix": {ca.Client("spiffe://example.org.example.com/a"), pinned, ""},
		"in a domain that is a path":   {ca.Client("spiffe://example.com/example.org"), pinned, ""},
		"a DNS name and the pin":       {ca.DNS("a.example.org"), pinned, "dns:a.example.org"},
		"in the domain, SPIFFE only":   {ca.Client("spiffe://example.org/a"), only, "spiffe://example.org/a"},
		"a DNS name, SPIFFE only":      {ca.DNS("a.example.org"), only, ""},
		"in another domain, with DNS": {ca.Issue(func(c *x509.Certificate) {
			c.URIs, c.DNSNames = ca.Client("spiffe://example.com/a").Leaf.URIs, []string{"a.example.org"}
		}), pinned, ""},
	} {
		if got, problem := authz.PrincipalOf(tt.cert.Leaf, tt.rules); got != tt.want || (got == "") == (problem == "") {
			t.Errorf("%s: got %q, %q", name, got, problem)
		}
	}
}
