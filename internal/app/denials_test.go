//go:build unix

package app

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// TestDenyFile: an entry in the deny file refuses a caller on its open connection within a
// second, an invalid file changes nothing, and the caller is served when the entry is gone.
func TestDenyFile(t *testing.T) {
	var file string
	b := newBroker(t, func(env *devmode.Environment) error {
		file = filepath.Join(env.Dir, "denials.yaml")
		return errors.Join(replace(file, "denials: []\n"), edit(env.ConfigFile, devTLS, devTLS+"\ndenials: {file: denials.yaml}"))
	})
	worker := b.as(t, b.Worker)
	if err := read1(t, worker); err != nil {
		t.Fatal(err)
	}
	until := func(what string, denied bool) {
		t.Helper()
		begin := time.Now()
		asynctest.Eventually(t, what, func() bool { return errors.Is(read1(t, worker), client.ReasonCertificateDenied) == denied })
		if took := time.Since(begin); denied && took > time.Second {
			t.Errorf("%s after %v", what, took)
		}
	}
	put := func(text string) {
		t.Helper()
		if err := replace(file, text); err != nil {
			t.Fatal(err)
		}
	}
	entry := fmt.Sprintf("denials: [{principal: %q, reason: stolen}]\n", b.Worker.ID)
	put(entry)
	until("denied", true)
	put("denials: [{principal: ")
	asynctest.Eventually(t, "the fault is reported", func() bool { return strings.Contains(b.get(t, "/readyz"), "DENIALS_UNREADABLE") })
	if err := read1(t, worker); !errors.Is(err, client.ReasonCertificateDenied) {
		t.Errorf("with an invalid file: %v", err)
	}
	if text := b.get(t, "/metrics"); !strings.Contains(text, `secretbroker_denials{source="file"} 1`) {
		t.Error("the metric does not count the entry")
	}
	put("denials: []\n")
	until("served again", false)
	if strings.Contains(b.get(t, "/readyz"), "DENIALS_UNREADABLE") {
		t.Error("the problem stays")
	}
	if !strings.Contains(b.log.String(), "its client is denied") {
		t.Error("the log does not mention the closed connection")
	}
}

// TestCRLsWithoutRestart: SIGHUP puts a directory of CRLs into effect, and files in it take
// effect without a signal. A faulty setting changes nothing.
func TestCRLsWithoutRestart(t *testing.T) {
	ca := trusttest.NewCA(t, "clients")
	files, dir := ca.Write(t.TempDir()), t.TempDir()
	before := fmt.Sprintf("tls: {cert_file: %s, key_file: %s, client_ca_file: %s}", files.Cert, files.Key, files.ClientCA)
	b := newBroker(t, func(env *devmode.Environment) error { return edit(env.ConfigFile, devTLS, before) })
	leaked := ca.Client(b.Worker.ID)
	worker := b.worker(t, ca, leaked)
	if err := read1(t, worker); err != nil {
		t.Fatal(err)
	}
	hup := func() { b.hangups <- syscall.SIGHUP }
	if err := edit(b.ConfigFile, before, strings.TrimSuffix(before, "}")+", crl_dir: "+dir+"}"); err != nil {
		t.Fatal(err)
	}
	hup()
	asynctest.Eventually(t, "a directory without a CRL is refused", func() bool {
		return strings.Contains(b.get(t, "/readyz"), "there is no CRL of the client authority")
	})
	if err := read1(t, worker); err != nil {
		t.Errorf("after a faulty setting: %v", err)
	}
	trusttest.Put(t, filepath.Join(dir, "clients.crl"), ca.CRL(nil))
	hup()
	asynctest.Eventually(t, "the directory is in effect", func() bool { return !strings.Contains(b.get(t, "/readyz"), `"configuration"`) })
	if err := read1(t, worker); err != nil {
		t.Errorf("with a CRL that does not list it: %v", err)
	}
	trusttest.Put(t, filepath.Join(dir, "later.crl"), ca.CRL(nil, leaked.Leaf))
	asynctest.Eventually(t, "the certificate is revoked", func() bool { return read1(t, worker) != nil })
}

// TestDenialsOfReplicas: a denial that an owner creates at one replica is in effect at the
// others within a second, on open connections, survives restarts, and ends everywhere.
func TestDenialsOfReplicas(t *testing.T) {
	c := newCluster(t, 2)
	dial := func(who devmode.Identity, r *member) *client.Client {
		t.Helper()
		cl, err := client.New(client.Config{Addrs: []string{r.addr}, CAFile: c.CAFile, CertFile: who.CertFile, KeyFile: who.KeyFile})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cl.Close() })
		return cl
	}
	who := func(cl *client.Client) error {
		_, err := cl.WhoAmI(t.Context(), client.WhoAmIRequest{})
		return err
	}
	var workers []*client.Client
	for _, r := range c.replicas {
		w := dial(c.Worker, r)
		if err := who(w); err != nil {
			t.Fatal(err)
		}
		workers = append(workers, w)
	}
	owner := dial(c.Owner, c.replicas[0])
	subject := client.DenialSubject{Principal: c.Worker.ID}
	begin := time.Now()
	if _, err := owner.CreateDenial(t.Context(), client.CreateDenialRequest{Denial: client.Denial{Subject: subject, Reason: "test"}}); err != nil {
		t.Fatal(err)
	}
	for i, w := range workers {
		asynctest.Eventually(t, fmt.Sprintf("replica %d denies the caller", i), func() bool { return errors.Is(who(w), client.ReasonCertificateDenied) })
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("all replicas denied the caller after %v", took)
	}
	c.stop(c.replicas[1], syscall.SIGTERM)
	c.start(c.replicas[1])
	if err := who(workers[1]); !errors.Is(err, client.ReasonCertificateDenied) {
		t.Errorf("after a restart: %v", err)
	}
	if _, err := dial(c.Owner, c.replicas[1]).DeleteDenial(t.Context(), client.DeleteDenialRequest{Subject: subject}); err != nil {
		t.Fatal(err)
	}
	for i, w := range workers {
		asynctest.Eventually(t, fmt.Sprintf("replica %d serves the caller again", i), func() bool { return who(w) == nil })
	}
}
