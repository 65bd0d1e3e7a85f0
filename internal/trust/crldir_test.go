package trust

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestCRLDirectory: files with CRLs are added, replaced and removed while the Store is in
// use, and no removal brings a revoked certificate back.
func TestCRLDirectory(t *testing.T) {
	w := newWorld(t, false)
	dir := t.TempDir()
	put := func(name string, data []byte) { trusttest.Put(t, filepath.Join(dir, name), data) }
	remove := func(name string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	other := trusttest.NewCA(t, "others")
	good, bad, foreign := w.ca.Client("spiffe://example.org/a"), w.ca.Client("spiffe://example.org/b"), other.Client("spiffe://example.org/c")
	at := func(age time.Duration) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ThisUpdate = time.Now().Add(-age) }
	}
	expect := func(what string, says string, g, b, f bool) {
		t.Helper()
		w.Reload()
		if got := [3]bool{w.admits(good) == nil, w.admits(bad) == nil, w.admits(foreign) == nil}; got != [3]bool{g, b, f} {
			t.Errorf("%s: admits %v", what, got)
		}
		if text := messages(w.Problems()); (text == "") != (says == "") || !strings.Contains(text, says) {
			t.Errorf("%s: problems %q, want %q", what, text, says)
		}
	}
	w.putAuthorities(w.ca, other)
	expect("without CRLs", "", true, true, true)

	// Checking begins without a restart, but not with a gap or a fault.
	put("a.crl", w.ca.CRL(at(time.Hour)))
	if err := w.SetCRLs(nil, dir); err == nil || !strings.Contains(err.Error(), "others") {
		t.Errorf("a missing CRL: %v", err)
	}
	put("b.crl", []byte("no CRL"))
	if err := w.SetCRLs(nil, dir); err == nil || !strings.Contains(err.Error(), "b.crl") {
		t.Errorf("an invalid CRL: %v", err)
	}
	if err := w.SetCRLs(nil, filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing directory was accepted")
	}
	expect("refused", "", true, true, true)
	put("b.crl", other.CRL(nil))
	put(".hidden", []byte("ignored"))
	if err := w.SetCRLs(nil, dir); err != nil {
		t.Fatal(err)
	}
	expect("two files", "", true, true, true)

	put("new.crl", w.ca.CRL(at(time.Minute), bad.Leaf))
	expect("a file is added", "", true, false, true)
	remove("new.crl")
	expect("the newer CRL is removed", "new.crl was removed", true, false, true)
	put("a.crl", w.ca.CRL(at(30*time.Second)))
	expect("a newer CRL without it", "", true, true, true)
	put("a.crl", w.ca.CRL(at(10*time.Second), bad.Leaf))
	put("half.crl", half(trusttest.PEM("X509 CRL", w.ca.CRL(nil))))
	expect("an invalid file beside it", "half.crl", true, false, true)
	remove("half.crl")
	expect("it is gone", "", true, false, true)
	remove("b.crl")
	expect("the only CRL of an authority is removed", "b.crl was removed", true, false, true)
	w.putAuthorities(w.ca)
	expect("with its authority", "", true, false, false)
	if err := w.SetCRLs(nil, ""); err != nil {
		t.Fatal(err)
	}
	expect("revocation is not checked any more", "", true, true, false)
}
