package trust

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a Store with files, and with a clock that the test can advance.
type world struct {
	*Store
	t     *testing.T
	ca    *trusttest.CA
	files trusttest.Files
	log   *asynctest.Buffer
	ahead atomic.Int64
}

func (w *world) options() Options {
	return Options{Logger: slog.New(slog.NewTextHandler(w.log, nil)), Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }}
}

func newWorld(t *testing.T, crls bool) *world {
	t.Helper()
	w := &world{t: t, ca: trusttest.NewCA(t, "clients"), log: &asynctest.Buffer{}}
	w.files = w.ca.Write(t.TempDir())
	cfg := w.config()
	if !crls {
		cfg.CRLFiles = nil
	}
	var err error
	if w.Store, err = OpenFiles(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) config() FilesConfig {
	return FilesConfig{CertFile: w.files.Cert, KeyFile: w.files.Key, ClientCAFile: w.files.ClientCA, CRLFiles: []string{w.files.CRL}, Options: w.options()}
}

// connect makes a TLS connection. It returns an error if the server refused the client, and
// the certificate that the server presented.
func connect(t *testing.T, server, client *tls.Config) (shown *x509.Certificate, resumed bool, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		err = conn.Handshake()
		if err == nil {
			_, _ = conn.Write([]byte("x")) // sends any session tickets before it
		}
		served <- err
	}()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	client.InsecureSkipVerify = true // the test is about the server's checks
	conn := tls.Client(here, client)
	if conn.Handshake() == nil {
		_, _ = conn.Read(make([]byte, 1))
	}
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		shown = certs[0]
	}
	return shown, conn.ConnectionState().DidResume, <-served
}

// admits returns the error with which the handshake and Peer refuse a client, nil if they
// accept it. Both must agree.
func (w *world) admits(cert *tls.Certificate) error {
	w.t.Helper()
	_, _, handshake := connect(w.t, w.TLSConfig(), &tls.Config{Certificates: []tls.Certificate{*cert}})
	var certs []*x509.Certificate
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			w.t.Fatal(err)
		}
		certs = append(certs, c)
	}
	if again := w.Peer(certs).Check(); (again == nil) != (handshake == nil) {
		w.t.Errorf("the handshake returned %v, Check %v", handshake, again)
	}
	return handshake
}

func (w *world) shown() *x509.Certificate {
	w.t.Helper()
	cert, _, err := connect(w.t, w.TLSConfig(), &tls.Config{Certificates: []tls.Certificate{*w.ca.Client("spiffe://example.org/a")}})
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

func cert(f trusttest.Files) string     { return f.Cert }
func clientCA(f trusttest.Files) string { return f.ClientCA }
func crlFile(f trusttest.Files) string  { return f.CRL }

func half(b []byte) []byte    { return b[:len(b)/2] }
func empty([]byte) []byte     { return nil }
func garbage(b []byte) []byte { return append([]byte("hunter2 "), b[20:60]...) }

// scrambled returns well-formed PEM with other bytes.
func scrambled(b []byte) []byte {
	lines := strings.Split(string(b), "\n")
	lines[1] = "AAAA" + lines[1][4:]
	return []byte(strings.Join(lines, "\n"))
}

// noKeyIn fails the test if text contains 12 consecutive bytes of a key, raw, in hexadecimal
// or as in the file.
func noKeyIn(t *testing.T, text string, files [][]byte) {
	t.Helper()
	for _, data := range files {
		body := strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", "")
		body = strings.TrimSuffix(strings.TrimPrefix(body, "-----BEGIN PRIVATE KEY-----"), "-----END PRIVATE KEY-----")
		der, _ := base64.StdEncoding.DecodeString(body)
		for i := 0; i+12 <= len(body); i++ {
			if strings.Contains(text, body[i:i+12]) {
				t.Fatalf("contains a part of a key file: %s", text)
			}
		}
		for i := 0; i+12 <= len(der); i++ {
			if part := der[i : i+12]; strings.Contains(text, string(part)) || strings.Contains(strings.ToLower(text), hex.EncodeToString(part)) {
				t.Fatalf("contains a part of a key: %s", text)
			}
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (w *world) spoil(name string, how func([]byte) []byte) {
	w.t.Helper()
	trusttest.Put(w.t, name, how(read(w.t, name)))
}

func (w *world) putServer(change func(*x509.Certificate)) *tls.Certificate {
	w.t.Helper()
	server := w.ca.Issue(change)
	trusttest.Put(w.t, w.files.Cert, trusttest.CertPEM(server))
	trusttest.Put(w.t, w.files.Key, trusttest.KeyPEM(w.t, server))
	return server
}
