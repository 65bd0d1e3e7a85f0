package trust

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func extension(id asn1.ObjectIdentifier) []pkix.Extension {
	return []pkix.Extension{{Id: id, Critical: true, Value: []byte{5, 0}}}
}

func critical(id asn1.ObjectIdentifier) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) { l.ExtraExtensions = extension(id) }
}

func (w *world) putCRL(change func(*x509.RevocationList), revoked ...*x509.Certificate) {
	w.t.Helper()
	trusttest.Put(w.t, w.files.CRL, w.ca.CRL(change, revoked...))
}

func (w *world) putAuthorities(cas ...*trusttest.CA) {
	w.t.Helper()
	var ders [][]byte
	for _, ca := range cas {
		ders = append(ders, ca.Cert.Raw)
	}
	trusttest.Put(w.t, w.files.ClientCA, trusttest.PEM("CERTIFICATE", ders...))
}

func (w *world) putCRLs(crls ...[]byte) {
	w.t.Helper()
	trusttest.Put(w.t, w.files.CRL, trusttest.PEM("X509 CRL", crls...))
}

// TestRevocation: whether a client is accepted depends on current CRLs of all authorities in
// its chain, and on nothing else.
func TestRevocation(t *testing.T) {
	old := func(l *x509.RevocationList) { l.NextUpdate = time.Now().Add(-time.Second) }
	tests := map[string]struct {
		set  func(w *world, cert *tls.Certificate)
		sub  bool   // an intermediate authority issued the client's certificate
		want string // part of the error; empty if the client is accepted
		says string // part of the problems
	}{
		"not listed":         {set: func(w *world, _ *tls.Certificate) { w.putCRL(nil, w.ca.Client("spiffe://example.org/b").Leaf) }},
		"not listed, in PEM": {set: func(w *world, _ *tls.Certificate) { w.putCRLs(w.ca.CRL(nil)) }},
		"revoked":            {set: func(w *world, c *tls.Certificate) { w.putCRL(nil, c.Leaf) }, want: "has been revoked"},
		"revoked in the first of two lists, replaced": {set: func(w *world, c *tls.Certificate) {
			w.putCRLs(w.ca.CRL(func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(-time.Hour) }, c.Leaf), w.ca.CRL(nil))
		}},
		"revoked in the later of two lists": {set: func(w *world, c *tls.Certificate) {
			w.putCRLs(w.ca.CRL(nil, c.Leaf), w.ca.CRL(func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(-time.Hour) }))
		}, want: "has been revoked"},
		"the same serial number of another authority": {set: func(w *world, c *tls.Certificate) {
			other := trusttest.NewCA(w.t, "another")
			w.putAuthorities(w.ca, other)
			w.Reload()
			w.putCRLs(w.ca.CRL(nil), other.CRL(nil, c.Leaf))
		}},
		"no CRL of its authority": {set: func(w *world, _ *tls.Certificate) {
			other := trusttest.NewCA(w.t, "another")
			w.putAuthorities(w.ca, other)
			w.Reload()
			w.putCRLs(other.CRL(nil))
		}, want: "there is no CRL", says: `no CRL of the client authority "CN=clients"`},
		"no CRL of its authority, but of one with the same name": {set: func(w *world, _ *tls.Certificate) {
			namesake := trusttest.NewCA(w.t, "clients")
			w.putAuthorities(w.ca, namesake)
			w.Reload()
			w.putCRLs(namesake.CRL(nil))
		}, want: "there is no CRL", says: `no CRL of the client authority "CN=clients"`},
		// An outdated list does not replace a current one.
		"a list too old":                   {set: func(w *world, _ *tls.Certificate) { w.putCRL(old) }, says: "should have been replaced"},
		"no CRL of the authority's issuer": {sub: true, set: func(w *world, c *tls.Certificate) {}, want: "there is no CRL"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, true)
			issuer := w.ca
			if tt.sub {
				issuer = w.ca.Sub("intermediate")
			}
			worker := issuer.Client("spiffe://example.org/a")
			tt.set(w, worker)
			w.Reload()
			err := w.admits(worker)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if p := messages(w.Problems()); tt.says == "" && p != "" || !strings.Contains(p, tt.says) {
				t.Errorf("problems %q, want %q", p, tt.says)
			}
		})
	}
}

// TestRevokedIntermediate: clients of an authority that its issuer has revoked are refused,
// even if another chain makes them trusted.
func TestRevokedIntermediate(t *testing.T) {
	w := newWorld(t, true)
	sub := w.ca.Sub("intermediate")
	worker := sub.Client("spiffe://example.org/a")
	w.putAuthorities(w.ca, sub)
	w.Reload()
	w.putCRLs(w.ca.CRL(nil), sub.CRL(nil))
	w.Reload()
	if err := w.admits(worker); err != nil {
		t.Fatal(err)
	}
	w.putCRLs(w.ca.CRL(nil, sub.Cert), sub.CRL(nil))
	w.Reload()
	if err := w.admits(worker); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("got %v", err)
	}
}

// TestOldListAtStart: a broker starts with an outdated CRL, refuses that authority's clients,
// and accepts them when a new CRL arrives. CheckFiles reports the outdated CRL.
func TestOldListAtStart(t *testing.T) {
	w := newWorld(t, true)
	worker := w.ca.Client("spiffe://example.org/a")
	gone := w.ca.Client("spiffe://example.org/b")
	w.putCRL(func(l *x509.RevocationList) { l.NextUpdate = time.Now().Add(-time.Second) }, gone.Leaf)
	if got := CheckFiles(w.config()); len(got) != 1 || got[0].Setting != "crl_files" || !strings.Contains(got[0].Text, "should have been replaced") {
		t.Errorf("CheckFiles: %v", got)
	}
	var err error
	if w.Store, err = OpenFiles(w.config()); err != nil {
		t.Fatal(err)
	}
	if err := w.admits(worker); err == nil {
		t.Error("the client was accepted")
	}
	if err := w.admits(gone); err == nil || !strings.Contains(err.Error(), "revoked by") {
		t.Errorf("a client on the old list got %v", err)
	}
	if len(w.Problems()) != 1 {
		t.Errorf("problems: %q", w.Problems())
	}
	w.putCRL(nil)
	w.Reload()
	if err := w.admits(worker); err != nil || len(w.Problems()) != 0 {
		t.Errorf("%v, %q", err, w.Problems())
	}
	if got := CheckFiles(w.config()); len(got) > 0 {
		t.Error(got)
	}
}

// TestPeer: the result of Check is valid until the trust configuration changes or the first
// of the certificates and CRLs that it depends on expires.
func TestPeer(t *testing.T) {
	w := newWorld(t, true)
	worker := w.ca.Issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(30 * time.Minute) })
	p := w.Peer([]*x509.Certificate{worker.Leaf})
	if err := p.Check(); err != nil || !p.until.Equal(worker.Leaf.NotAfter) {
		t.Errorf("%v, until %v", err, p.until)
	}
	w.ahead.Store(int64(31 * time.Minute))
	if err := p.Check(); err == nil {
		t.Error("Check accepts an expired certificate")
	}
	w.ahead.Store(0)
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	w.putCRL(nil, worker.Leaf)
	w.Reload()
	if err := p.Check(); err == nil {
		t.Error("Check accepts a revoked certificate")
	}
	if err := w.Peer(nil).Check(); err == nil {
		t.Error("Check accepts an empty chain")
	}
	// The CRL expires first.
	long := w.ca.Issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(20 * time.Hour) })
	p = w.Peer([]*x509.Certificate{long.Leaf})
	if err := p.Check(); err != nil || time.Until(p.until) > 2*time.Hour {
		t.Errorf("%v, until %v", err, p.until)
	}
}

func BenchmarkPeerVerify(b *testing.B) {
	ca := trusttest.NewCA(b, "clients")
	f := ca.Write(b.TempDir())
	s, err := OpenFiles(FilesConfig{CertFile: f.Cert, KeyFile: f.Key, ClientCAFile: f.ClientCA, CRLFiles: []string{f.CRL}})
	if err != nil {
		b.Fatal(err)
	}
	certs := []*x509.Certificate{ca.Client("spiffe://example.org/a").Leaf}
	b.Run("anew", func(b *testing.B) {
		for b.Loop() {
			if err := s.Peer(certs).Check(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		p := s.Peer(certs)
		for b.Loop() {
			if err := p.Check(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
