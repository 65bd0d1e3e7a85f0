package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// target is a broker process, an embedded Key Vault in this one, and
// connections to the broker.
type target struct {
	dir     string
	env     *devmode.Environment
	process *exec.Cmd
	addr    string
	req     *secretbrokerv1.ResolveRequest
	// clients has the connections of each principal.
	clients [][]secretbrokerv1.ResolverServiceClient
	closers []io.Closer
}

func startTarget(ctx context.Context, o options) (_ *target, err error) {
	t := &target{}
	defer func() {
		if err != nil {
			err = t.stop(err)
		}
	}()
	if t.dir, err = os.MkdirTemp("", "secretbroker-overload-"); err != nil {
		return nil, err
	}
	if o.broker == "" {
		o.broker = filepath.Join(t.dir, "broker")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.broker, "github.com/secretbroker/secretbroker/cmd/broker") //nolint:gosec // to a directory of ours
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("build the broker: %w", err)
		}
	}
	t.env, err = devmode.Start(ctx, devmode.Options{
		Dir: filepath.Join(t.dir, "dev"), Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", VaultListen: "127.0.0.1:0",
	})
	if err != nil {
		return nil, err
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	if err := t.configure(ca, o.limits); err != nil {
		return nil, err
	}
	if err := t.launch(o); err != nil {
		return nil, err
	}
	t.req = &secretbrokerv1.ResolveRequest{IntegrationId: t.env.IntegrationID, Configs: make(map[string]string)}
	for i := range o.refs {
		t.req.Configs[fmt.Sprintf("config.%d", i)] = devmode.VaultURL + "::sqlserver-db-secret::password"
	}
	return t, t.connect(ca, o)
}

// configure writes a broker.yaml that trusts ca's clients.
func (t *target) configure(ca *authority, limits string) error {
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	if err := os.WriteFile(filepath.Join(t.env.Dir, "clients-ca.pem"), block, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.env.Dir, "overload.yaml"), fmt.Appendf(nil, `
listen: 127.0.0.1:0
admin_listen: 127.0.0.1:0
tls: {cert_file: server.pem, key_file: server-key.pem, client_ca_file: clients-ca.pem}
integrations: integrations/
audit: {file: audit.jsonl}
limits: {%s}
shutdown: {drain_delay: 0s}
`, limits), 0o600)
}

// launch starts the broker and waits until it is ready.
func (t *target) launch(o options) error {
	command := []string{o.broker, "serve", "--config", filepath.Join(t.env.Dir, "overload.yaml"), "--log-format", "json"}
	if o.pin != "" {
		command = append([]string{"taskset", "-c", o.pin}, command...)
	}
	t.process = exec.Command(command[0], command[1:]...) //nolint:gosec,noctx // our own broker, stopped by stop
	stderr, err := t.process.StderrPipe()
	if err != nil {
		return err
	}
	if err := t.process.Start(); err != nil {
		t.process = nil
		return err
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var line struct{ Msg, Listen string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
			t.addr = line.Listen
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // until the broker ends
			return nil
		}
		fmt.Fprintln(os.Stderr, "broker:", lines.Text())
	}
	return errors.New("the broker did not become ready")
}

// connect makes the callers' connections.
func (t *target) connect(ca *authority, o options) error {
	roots := x509.NewCertPool()
	data, err := os.ReadFile(t.env.CAFile)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(data)
	for i := range o.principals {
		cert, err := ca.issue(fmt.Sprintf("/connect/overload-%d", i))
		if err != nil {
			return err
		}
		var clients []secretbrokerv1.ResolverServiceClient
		for range o.connections {
			conn, err := grpc.NewClient("passthrough:///"+t.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
				RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
			})))
			if err != nil {
				return err
			}
			t.closers = append(t.closers, conn)
			clients = append(clients, secretbrokerv1.NewResolverServiceClient(conn))
		}
		t.clients = append(t.clients, clients)
	}
	return nil
}

// warm makes every connection and fills the broker's cache.
func (t *target) warm(ctx context.Context) error {
	for _, clients := range t.clients {
		for _, c := range clients {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			_, err := c.Resolve(ctx, t.req)
			cancel()
			if err != nil && status.Code(err) != codes.ResourceExhausted { // the limits may be low
				return fmt.Errorf("a first call: %w", err)
			}
		}
	}
	return nil
}

// cpu returns the CPU time that the broker has used.
func (t *target) cpu() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.process.Process.Pid))
	if err != nil {
		return 0 // not Linux
	}
	// The fields after the name in parentheses; 14 and 15 are utime and stime, in
	// hundredths of a second.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])   // zero, should it be
	system, _ := strconv.Atoi(fields[12]) // something else
	return time.Duration(user+system) * 10 * time.Millisecond
}

// stop takes everything down and returns err joined with what went wrong.
func (t *target) stop(err error) error {
	for _, c := range t.closers {
		_ = c.Close() // they are no longer needed
	}
	if t.process != nil {
		_ = t.process.Process.Signal(syscall.SIGTERM) // Wait tells if it has gone
		if e := t.process.Wait(); e != nil {
			err = errors.Join(err, fmt.Errorf("the broker did not end well: %w", e))
		}
	}
	if t.env != nil {
		err = errors.Join(err, t.env.Close())
	}
	if t.dir != "" {
		err = errors.Join(err, os.RemoveAll(t.dir))
	}
	return err
}

// authority issues the callers' certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last int64
}

func newAuthority() (*authority, error) {
	a := &authority{last: 1}
	cert, err := a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	if err != nil {
		return nil, err
	}
	a.key, _ = cert.PrivateKey.(*ecdsa.PrivateKey) // as made below
	a.cert = cert.Leaf
	return a, nil
}

func (a *authority) issue(path string) (tls.Certificate, error) {
	return a.sign(&x509.Certificate{
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: path}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// sign makes a certificate of template, signed by itself if a has none yet.
func (a *authority) sign(template *x509.Certificate) (tls.Certificate, error) {
	a.last++
	template.SerialNumber = big.NewInt(a.last)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
