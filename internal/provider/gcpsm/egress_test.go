package gcpsm

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The origins that each client sends to. A token can reach no others.
func TestOrigins(t *testing.T) {
	t.Setenv(metadataVariable, "")
	origins := func(c *http.Client) []string { return c.Transport.(*egress.Transport).Origins() }
	const oauth, sts, iam, metadata = "https://oauth2.googleapis.com", "https://sts.googleapis.com", "https://iamcredentials.googleapis.com", "http://169.254.169.254"
	for name, tt := range map[string]struct {
		credential  CredentialType
		impersonate string
		stores      []string
		api, login  []string
	}{
		"key":                   {ServiceAccountKey, "", []string{project}, []string{"https://" + apiHost}, []string{oauth}},
		"key, impersonating":    {ServiceAccountKey, reader, []string{project}, []string{"https://" + apiHost}, []string{iam, oauth}},
		"federation":            {WorkloadIdentityFederation, "", []string{regional}, []string{"https://" + regionalHost}, []string{iam, sts}},
		"machine":               {MetadataServer, "", []string{project, regional}, []string{"https://" + regionalHost, "https://" + apiHost}, []string{metadata}},
		"machine, impersonates": {MetadataServer, reader, []string{project}, []string{"https://" + apiHost}, []string{metadata, iam}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			settingsOf(in).Stores, settingsOf(in).ImpersonateServiceAccount = tt.stores, tt.impersonate
			settingsOf(in).Credential = Credential{Type: tt.credential, KeyFile: f.keyFile(base), ConfigFile: f.federation(nil)}
			s := f.open(f.Config(), in)
			if diff := cmp.Diff(tt.api, origins(s.api)); diff != "" {
				t.Errorf("Secret Manager (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.login, origins(s.login)); diff != "" {
				t.Errorf("tokens (-want +got):\n%s", diff)
			}
		})
	}
}

// Google's names must not resolve to private addresses, unless the integration
// permits it, and never to addresses of the machine itself or of its link.
func TestPrivateAddresses(t *testing.T) {
	for _, tt := range []struct {
		address string
		private bool
		allowed bool
	}{
		{"20.50.1.1", false, true}, {"10.0.0.4", false, false}, {"10.0.0.4", true, true},
		{"127.0.0.1", true, false}, {"169.254.169.254", true, false},
	} {
		f := newFake(t)
		in := f.integration()
		settingsOf(in).Dial, settingsOf(in).PrivateEndpoint = nil, tt.private
		var reached []string
		cfg := f.Config()
		cfg.Resolver = &net.Resolver{PreferGo: true, Dial: answering(netip.MustParseAddr(tt.address))}
		cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
		cfg.Connecting = func(address string) error {
			reached = append(reached, address)
			return errors.New("stopped by the test")
		}
		e := f.Fails(t.Context(), f.open(cfg, in), project+"/secrets/db", secret.ReasonStoreUnavailable)
		if (len(reached) > 0) != tt.allowed {
			t.Errorf("%s, private %v: connected to %v", tt.address, tt.private, reached)
		}
		if strings.Contains(e.Message, "gcp.private_endpoint") == tt.allowed {
			t.Errorf("%s, private %v: message %q", tt.address, tt.private, e.Message)
		}
	}
}

// answering returns a dial func for a DNS server that answers every question about
// IPv4 with addr, and all others with no record.
func answering(addr netip.Addr) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { // ends when the resolver closes the connection
			defer server.Close()
			for {
				var length uint16
				if binary.Read(server, binary.BigEndian, &length) != nil {
					return
				}
				q := make([]byte, length)
				if _, err := io.ReadFull(server, q); err != nil {
					return
				}
				end := 12 + bytes.IndexByte(q[12:], 0) + 5 // of the name, the type and the class
				a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
				if binary.BigEndian.Uint16(q[end-4:]) == 1 {
					a[7] = 1
					a = append(append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), addr.AsSlice()...)
				}
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...)); err != nil {
					return
				}
			}
		}()
		return client, nil
	}
}

func TestForeignCertificate(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	settingsOf(in).CAFile = ""
	s := f.open(f.Config(), in)
	e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreUnavailable)
	if !strings.Contains(e.Message, "gcp.ca_file") {
		t.Errorf("message %q", e.Message)
	}
	if n := f.requests(OAuthHost); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// A proxy sees the host names but no content, because everything is TLS. The metadata
// server is never contacted through the proxy.
func TestProxy(t *testing.T) {
	f := newFake(t)
	f.metadata(t)
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: MetadataServer}
	settingsOf(in).Dial = nil
	var asked []string
	cfg := f.Config()
	cfg.Proxy = func(r *http.Request) (*url.URL, error) {
		asked = append(asked, r.URL.Host)
		return &url.URL{Scheme: "http", Host: providertest.ClosedPort(t)}, nil
	}
	s := f.open(cfg, in)
	f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreUnavailable)
	if diff := cmp.Diff([]string{IAMCredentialsHost}, asked); diff != "" {
		t.Errorf("hosts through the proxy (-want +got):\n%s", diff)
	}
}

func TestLeastTLS(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for _, c := range []*http.Client{s.api, s.login} {
		if v := c.Transport.(*egress.Transport).Base().TLSClientConfig.MinVersion; v < tls.VersionTLS12 {
			t.Errorf("TLS %x is taken", v)
		}
	}
}

// No fmt verb prints a token.
func TestTokenDoesNotPrint(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	f.Gives(s, project+"/secrets/db", canary)
	held, err := s.tokens.Get(t.Context())
	providertest.Must(t, err)
	for _, text := range []string{printed(s.tokens.id), printed(held.Value)} {
		if strings.Contains(text, "ya29.") {
			t.Error("the access token prints")
		}
	}
}
