package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestFaultyFiles: if a file is invalid, the broker does not start with it, or keeps the
// contents that it has, reports the problem once, and uses the next valid file.
func TestFaultyFiles(t *testing.T) {
	other := trusttest.NewCA(t, "another")
	tests := map[string]struct {
		spoil func(w *world)
		place func(f trusttest.Files) string // the file that the problem must name
	}{
		"half a certificate": {func(w *world) { w.spoil(w.files.Cert, half) }, cert},
		"half a key":         {func(w *world) { w.spoil(w.files.Key, half) }, cert},
		"key of another": {func(w *world) {
			trusttest.Put(w.t, w.files.Key, trusttest.KeyPEM(w.t, w.ca.Server()))
		}, cert},
		"certificate for another key": {func(w *world) { trusttest.Put(w.t, w.files.Cert, trusttest.CertPEM(w.ca.Server())) }, cert},
		"key in the certificate file": {func(w *world) { w.spoil(w.files.Cert, func([]byte) []byte { return read(w.t, w.files.Key) }) }, cert},
		"garbage as a key":            {func(w *world) { w.spoil(w.files.Key, garbage) }, cert},
		"garbage in the key":          {func(w *world) { w.spoil(w.files.Key, scrambled) }, cert},
		"an empty key":                {func(w *world) { w.spoil(w.files.Key, empty) }, cert},
		"encrypted key": {func(w *world) {
			trusttest.Put(w.t, w.files.Key, trusttest.PEM("ENCRYPTED PRIVATE KEY", []byte{1}))
		}, func(f trusttest.Files) string { return "the key is encrypted" }},
		"no key":                                 {func(w *world) { _ = os.Remove(w.files.Key) }, func(f trusttest.Files) string { return f.Key }},
		"no certificate":                         {func(w *world) { _ = os.Remove(w.files.Cert) }, cert},
		"a directory":                            {func(w *world) { _ = os.Remove(w.files.Cert); _ = os.Mkdir(w.files.Cert, 0o700) }, cert},
		"an expired certificate":                 {func(w *world) { w.putServer(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }) }, cert},
		"a certificate that is not valid yet":    {func(w *world) { w.putServer(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }) }, cert},
		"half the authorities":                   {func(w *world) { w.spoil(w.files.ClientCA, half) }, clientCA},
		"a damaged authority":                    {func(w *world) { w.spoil(w.files.ClientCA, scrambled) }, clientCA},
		"no authorities":                         {func(w *world) { w.spoil(w.files.ClientCA, empty) }, clientCA},
		"key as an authority":                    {func(w *world) { w.spoil(w.files.ClientCA, func([]byte) []byte { return read(w.t, w.files.Key) }) }, clientCA},
		"authorities missing":                    {func(w *world) { _ = os.Remove(w.files.ClientCA) }, clientCA},
		"too much":                               {func(w *world) { w.spoil(w.files.ClientCA, func([]byte) []byte { return make([]byte, maxPEM+1) }) }, clientCA},
		"half a CRL":                             {func(w *world) { w.spoil(w.files.CRL, half) }, crlFile},
		"half a PEM CRL":                         {func(w *world) { trusttest.Put(w.t, w.files.CRL, half(trusttest.PEM("X509 CRL", w.ca.CRL(nil)))) }, crlFile},
		"certificates as CRL":                    {func(w *world) { w.spoil(w.files.CRL, func([]byte) []byte { return read(w.t, w.files.Cert) }) }, crlFile},
		"garbage as CRL":                         {func(w *world) { w.spoil(w.files.CRL, garbage) }, crlFile},
		"CRL missing":                            {func(w *world) { _ = os.Remove(w.files.CRL) }, crlFile},
		"CRL of an unknown authority":            {func(w *world) { trusttest.Put(w.t, w.files.CRL, other.CRL(nil)) }, crlFile},
		"CRL of an authority with the same name": {func(w *world) { trusttest.Put(w.t, w.files.CRL, trusttest.NewCA(w.t, "clients").CRL(nil)) }, crlFile},
		"CRL with an invalid signature":          {func(w *world) { w.spoil(w.files.CRL, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }) }, crlFile},
		"CRL that is not valid yet":              {func(w *world) { w.putCRL(func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(time.Minute) }) }, crlFile},
		"CRL that only adds":                     {func(w *world) { w.putCRL(critical(deltaIndicator)) }, crlFile},
		"CRL of a part":                          {func(w *world) { w.putCRL(critical(distribution)) }, crlFile},
		"CRL of something unknown":               {func(w *world) { w.putCRL(critical([]int{1, 2, 3})) }, crlFile},
		"CRL of others' certificates": {func(w *world) {
			w.putCRL(func(l *x509.RevocationList) {
				l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: l.Number, RevocationTime: time.Now(), ExtraExtensions: extension([]int{2, 5, 29, 29})}}
			})
		}, crlFile},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, true)
			good := map[string][]byte{}
			for _, f := range []string{w.files.Cert, w.files.Key, w.files.ClientCA, w.files.CRL} {
				good[f] = read(t, f)
			}
			keys := [][]byte{good[w.files.Key]}
			worker, before := w.ca.Client("spiffe://example.org/a"), w.shown()
			tt.spoil(w)
			if data, err := os.ReadFile(w.files.Key); err == nil {
				keys = append(keys, data)
			}
			s, err := OpenFiles(w.config())
			if err == nil {
				t.Errorf("a broker starts with the file: %v", s.Problems())
			} else {
				noKeyIn(t, err.Error(), keys)
			}
			changed := w.Changed()
			for range 3 {
				w.Reload()
			}
			select {
			case <-changed:
				t.Error("the trust configuration changed")
			default:
			}
			if !w.shown().Equal(before) || w.admits(worker) != nil {
				t.Error("the earlier contents are no longer in effect")
			}
			problems := messages(w.Problems())
			if !strings.Contains(problems, tt.place(w.files)) || !strings.Contains(problems, "remains in use") {
				t.Errorf("problems: %s", problems)
			}
			if n := w.Stats().ReloadFailures; n != 3 {
				t.Errorf("%d failures are counted, want 3", n)
			}
			if n := strings.Count(w.log.String(), "level=ERROR"); n != 1 {
				t.Errorf("%d errors in the log, want 1:\n%s", n, w.log)
			}
			noKeyIn(t, w.log.String()+problems, keys)

			_ = os.Remove(w.files.Cert) // the case may have made it a directory
			for f, data := range good {
				trusttest.Put(t, f, data)
			}
			renewed := w.putServer(func(*x509.Certificate) {})
			w.Reload()
			if !w.shown().Equal(renewed.Leaf) {
				t.Error("the next valid files are not in effect")
			}
			if p := w.Problems(); len(p) != 0 || !strings.Contains(w.log.String(), "is resolved") {
				t.Errorf("problems %q, log\n%s", p, w.log)
			}
		})
	}
}

// TestKubernetesSwap: a mounted Secret changes when one symbolic link is replaced.
func TestKubernetesSwap(t *testing.T) {
	ca := trusttest.NewCA(t, "clients")
	dir := t.TempDir()
	for _, version := range []string{"..1", "..2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		ca.Write(filepath.Join(dir, version))
	}
	point := func(version string) {
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	point("..1")
	for _, name := range []string{"server.pem", "server-key.pem", "ca.pem"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := OpenFiles(FilesConfig{CertFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server-key.pem"), ClientCAFile: filepath.Join(dir, "ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	before := s.current.Load().own.Leaf
	point("..2")
	_ = os.RemoveAll(filepath.Join(dir, "..1"))
	s.Reload()
	if s.current.Load().own.Leaf.Equal(before) || len(s.Problems()) > 0 {
		t.Errorf("the old certificate is still in effect: %q", s.Problems())
	}
}

// TestEachOnItsOwn: an invalid certificate does not prevent the removal of an authority.
func TestEachOnItsOwn(t *testing.T) {
	w := newWorld(t, false)
	worker := w.ca.Client("spiffe://example.org/a")
	w.spoil(w.files.Cert, half)
	trusttest.Put(t, w.files.ClientCA, trusttest.PEM("CERTIFICATE", trusttest.NewCA(t, "next").Cert.Raw))
	w.Reload()
	if err := w.admits(worker); err == nil {
		t.Error("a client of the removed authority was accepted")
	}
}

func TestPoll(t *testing.T) {
	w := newWorld(t, false)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cfg := w.config()
		cfg.CRLFiles, cfg.Options = nil, Options{Poll: 5 * time.Second, Now: func() time.Time { return w.ca.Cert.NotBefore.Add(24 * time.Hour) }}
		s, err := OpenFiles(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		renewed := w.putServer(func(c *x509.Certificate) { // not valid by this clock
			c.NotBefore, c.NotAfter = w.ca.Cert.NotBefore, w.ca.Cert.NotAfter
		})
		begin := time.Now()
		<-s.Changed()
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if !s.current.Load().own.Leaf.Equal(renewed.Leaf) {
			t.Error("the trust configuration changed")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestNoResumption: the server issues no session tickets, because a ticket would be an
// identity that outlives the revocation of its certificate.
func TestNoResumption(t *testing.T) {
	w := newWorld(t, false)
	withTickets := w.TLSConfig()
	strict := withTickets.GetConfigForClient
	withTickets.SessionTicketsDisabled = false
	withTickets.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		cfg, err := strict(hello)
		cfg.SessionTicketsDisabled = false
		return cfg, err
	}
	for name, server := range map[string]*tls.Config{"ours": w.TLSConfig(), "with tickets": withTickets} {
		client := &tls.Config{Certificates: []tls.Certificate{*w.ca.Client("spiffe://example.org/a")}, ClientSessionCache: tls.NewLRUClientSessionCache(1), ServerName: "broker"}
		for i := range 2 {
			_, resumed, err := connect(t, server, client)
			if want := i == 1 && name == "with tickets"; resumed != want || err != nil {
				t.Errorf("%s, connection %d: resumed %v, want %v; %v", name, i, resumed, want, err)
			}
		}
	}
}

// messages returns the lines "REASON message" of problems.
func messages(ps []Problem) string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Reason + " " + p.Message
	}
	return strings.Join(lines, "\n")
}

var isReason = regexp.MustCompile(`^[A-Z_]+ `)

// TestExpiry: an expiry is reported as a problem before and after it happens, and no client
// connects to a server whose certificate has expired.
func TestExpiry(t *testing.T) {
	w := newWorld(t, true)
	worker := w.ca.Client("spiffe://example.org/a")
	at := func(d time.Duration) []Problem {
		w.ahead.Store(int64(d))
		w.Reload()
		return w.Problems()
	}
	for _, step := range []struct {
		ahead time.Duration
		want  []string // REASON message, parts of which the problems must contain
		in    bool
	}{
		{0, nil, true},
		{56 * time.Minute, []string{`CERTIFICATE_EXPIRES_SOON the broker's own certificate expires`, `CRL_EXPIRES_SOON the CRL of "CN=clients" must be replaced`}, true},
		{61 * time.Minute, []string{`CERTIFICATE_EXPIRED the broker's own certificate expired`, `CRL_EXPIRED the CRL of the client authority "CN=clients" should have been replaced`}, false},
		{22 * time.Hour, []string{`own certificate expired`, `CLIENT_CA_EXPIRES_SOON the client authority "CN=clients" expires`}, false},
		{25 * time.Hour, []string{`own certificate expired`, `CLIENT_CA_EXPIRED the client authority "CN=clients" expired`}, false},
	} {
		problems := messages(at(step.ahead))
		for _, want := range step.want {
			_, message, hasReason := strings.Cut(want, " ")
			if !hasReason || !isReason.MatchString(want) {
				message = want
			}
			if !strings.Contains(problems, want) || !strings.Contains(strings.ReplaceAll(w.log.String(), `\"`, `"`), message) {
				t.Errorf("after %v: no %q in the problems or in the log: %s", step.ahead, want, problems)
			}
		}
		if step.want == nil && problems != "" {
			t.Errorf("after %v: %s", step.ahead, problems)
		}
		if err := w.admits(worker); (err == nil) != step.in {
			t.Errorf("after %v: %v", step.ahead, err)
		}
	}
	st := w.Stats()
	if st.Server.IsZero() || st.ClientCA.IsZero() || st.CRL.IsZero() {
		t.Errorf("no expiry in %+v", st)
	}
}
