package audit

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/syslog"
)

// frame matches a message of RFC 5424 as this package writes it.
var frame = regexp.MustCompile(`^<110>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ secretbroker \d+ (?:segment|audit|access) - (\{.*"chain":"[0-9a-f]{64}"\})$`)

// records checks messages and returns the records in them.
func records(t *testing.T, messages []string) string {
	t.Helper()
	var all strings.Builder
	for _, m := range messages {
		match := frame.FindStringSubmatch(m)
		if match == nil {
			t.Fatalf("message %q", m)
		}
		all.WriteString(match[1] + "\n")
	}
	return all.String()
}

// readFrames reads n messages, each with its length before it.
func readFrames(t *testing.T, conn io.Reader, n int) (messages []string) {
	t.Helper()
	r := bufio.NewReader(conn)
	for range n {
		length, err := r.ReadString(' ')
		if err != nil {
			t.Fatal(err)
		}
		size, err := strconv.Atoi(strings.TrimSuffix(length, " "))
		if err != nil {
			t.Fatal(err)
		}
		m := make([]byte, size)
		if _, err := io.ReadFull(r, m); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, string(m))
	}
	return messages
}

func listen(t *testing.T, config *tls.Config) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func serverCertificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// TestCopyOverStreams: over TCP and TLS, the copy has exactly the lines of the file.
func TestCopyOverStreams(t *testing.T) {
	config, pool := serverCertificate(t)
	for _, scheme := range []string{"tcp", "tls"} {
		for _, required := range []bool{false, true} {
			t.Run(scheme+" "+strconv.FormatBool(required), func(t *testing.T) {
				var ln net.Listener
				if scheme == "tls" {
					ln = listen(t, config)
				} else {
					ln = listen(t, nil)
				}
				to, err := syslog.Parse(scheme + "://" + ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				if to.TLS != nil {
					to.TLS.RootCAs = pool
				}
				messages := make(chan []string, 1)
				go func() {
					conn, err := ln.Accept()
					if err != nil {
						t.Error(err)
						messages <- nil
						return
					}
					defer conn.Close()
					messages <- readFrames(t, conn, 4)
				}()
				path := filepath.Join(t.TempDir(), "audit.jsonl")
				l := open(t, Config{Path: path, Copies: []syslog.Copy{{Collector: to, Required: required}}})
				writeIDs(t, l, "a", "b", "c")
				got := <-messages
				closeLog(t, l)
				file, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if records(t, got) != string(file) {
					t.Errorf("got %q", got)
				}
				if s := l.Stats().Copies[0]; s.Sent != 4 || s.Dropped != 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// TestCopyOverDatagrams: each datagram has one record, over a local socket and UDP.
func TestCopyOverDatagrams(t *testing.T) {
	t.Chdir(t.TempDir()) // a socket's path is limited to about 100 bytes
	for _, network := range []string{"unixgram", "udp"} {
		t.Run(network, func(t *testing.T) {
			address := "log"
			if network == "udp" {
				address = "127.0.0.1:0"
			}
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				t.Skip(err)
			}
			defer conn.Close()
			l := open(t, Config{Path: filepath.Join(t.TempDir(), "f"), Copies: []syslog.Copy{{Collector: syslog.Collector{Network: network, Address: conn.LocalAddr().String()}}}})
			writeIDs(t, l, "a", "b")
			var messages []string
			buf := make([]byte, 64<<10)
			for range 3 {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					t.Fatal(err)
				}
				messages = append(messages, string(buf[:n]))
			}
			// A record that fits into no datagram is dropped and does not delay others.
			if err := l.Write(t.Context(), []Event{{Connector: strings.Repeat("x", 300_000)}}); err != nil {
				t.Error(err)
			}
			writeIDs(t, l, "c")
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, string(buf[:n]))
			closeLog(t, l)
			if text := records(t, messages); strings.Count(text, "request_id") != 3 {
				t.Errorf("got %s", text)
			}
			if s := l.Stats().Copies[0]; s.Sent != 4 || s.Dropped != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRequiredCopy: Writes fail while the collector of a required copy is down, and succeed
// again when it is back.
func TestRequiredCopy(t *testing.T) {
	ln := listen(t, nil)
	address := ln.Addr().String()
	path := filepath.Join(t.TempDir(), "f")
	l := open(t, Config{Path: path, Copies: []syslog.Copy{{Collector: syslog.Collector{Network: "tcp", Address: address}, Required: true}}})
	writeIDs(t, l, "a")
	first := accept(t, ln)
	readFrames(t, first, 2)
	ln.Close()
	first.Close()
	// The first records may be lost before the end of the connection is noticed.
	var err error
	for range 1000 {
		if err = l.Write(t.Context(), []Event{{RequestID: "b", Outcome: Served}}); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "tcp://"+address) {
		t.Fatalf("without a collector: %v", err)
	}
	if p := l.Problem(); !strings.Contains(p, address) {
		t.Errorf("problem %q", p)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err) // another process has taken the port
	}
	defer again.Close()
	writeIDs(t, l, "c")
	conn := accept(t, again)
	if got := readFrames(t, conn, 1); !strings.Contains(got[0], `"c"`) {
		t.Errorf("got %q", got)
	}
	if p := l.Problem(); p != "" {
		t.Error(p)
	}
	closeLog(t, l)
	if r := verify(t, path); r.Break != "" {
		t.Error(r.Break)
	}
}

// TestCopyReconnects: a collector that restarts loses at most the records in transit.
func TestCopyReconnects(t *testing.T) {
	ln := listen(t, nil)
	l := open(t, Config{Path: filepath.Join(t.TempDir(), "f"), Copies: []syslog.Copy{{Collector: syslog.Collector{Network: "tcp", Address: ln.Addr().String()}}}})
	writeIDs(t, l, "a")
	first := accept(t, ln)
	readFrames(t, first, 2)
	first.Close()
	second := make(chan net.Conn, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			t.Error(err)
		}
		second <- conn
	}()
	var conn net.Conn
	for conn == nil {
		writeIDs(t, l, "b")
		select {
		case conn = <-second:
		case <-time.After(10 * time.Millisecond):
		}
	}
	if conn == nil {
		t.Fatal("no connection")
	}
	defer conn.Close()
	if got := readFrames(t, conn, 1); !strings.Contains(got[0], `"b"`) {
		t.Errorf("got %q", got)
	}
	closeLog(t, l)
}
