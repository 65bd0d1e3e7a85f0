package azurekv

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// drip sends a byte now and then until the client disconnects.
func drip(_ *fake, w http.ResponseWriter, r *http.Request) {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			_, _ = io.WriteString(w, " ")
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func earlyHints(_ *fake, w http.ResponseWriter, r *http.Request) {
	for n := 0; n < 1000 && r.Context().Err() == nil; n++ {
		w.WriteHeader(http.StatusEarlyHints)
	}
	<-r.Context().Done()
}

func endless(_ *fake, w http.ResponseWriter, r *http.Request) {
	chunk := bytes.Repeat([]byte(" "), 64<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// zipped returns n spaces, compressed.
func zipped(n int) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(bytes.Repeat([]byte(" "), n))
	_ = w.Close()
	return b.Bytes()
}

// serveConns accepts connections and serves each in a goroutine. All goroutines end
// with the test.
func serveConns(t testing.TB, l net.Listener, serve func(net.Conn)) string {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// silent returns the address of a server that accepts connections and sends nothing.
func silent(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	providertest.Must(t, err)
	return serveConns(t, l, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

func listenTLS(f *fake, protocols ...string) net.Listener {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{f.cert}, MinVersion: tls.VersionTLS12, NextProtos: protocols,
	})
	providertest.Must(f, err)
	return l
}

// flood returns the address of a server that answers a request over HTTP/1.1 with a
// status line, unless text contains one, and then sends text without end.
func flood(f *fake, text string) string {
	return serveConns(f, listenTLS(f), func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		if !strings.HasPrefix(text, "HTTP/") {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		}
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	})
}

// goAway returns the address of a server that answers every HTTP/2 request with
// GOAWAY, ENHANCE_YOUR_CALM and debug data of its own.
func goAway(f *fake) string {
	frame := func(kind byte, payload string) string {
		n := len(payload)
		return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, 0, 0, 0, 0, 0}) + payload
	}
	return serveConns(f, listenTLS(f, "h2"), func(c net.Conn) {
		preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		_, _ = io.WriteString(c, frame(4, "")+frame(7, "\x00\x00\x00\x00\x00\x00\x00\x0b"+canary))
		_, _ = io.Copy(io.Discard, c)
	})
}
