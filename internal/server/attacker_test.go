package server

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/budget"
)

const otherID = "spiffe://example.org/connect/attacker"

// attacker is an HTTP/2 client that sends raw frames.
type attacker struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	header bytes.Buffer
	path   string // of the calls; Resolve if empty
	hpack  *hpack.Encoder
	stream uint32
}

// attack connects as who, with an initial window for answers.
func (ts *testServer) attack(t *testing.T, who string, window uint32) *attacker {
	t.Helper()
	conn, err := tls.Dial("tcp", ts.addr, &tls.Config{RootCAs: ts.ca.Pool(), Certificates: []tls.Certificate{*ts.ca.Client(who)}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	a := &attacker{t: t, conn: conn, framer: http2.NewFramer(conn, conn)}
	a.hpack = hpack.NewEncoder(&a.header)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := a.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		t.Fatal(err)
	}
	return a
}

// begin sends the headers of a Resolve. An error is the connection's.
func (a *attacker) begin() (uint32, error) {
	if a.stream == 0 {
		a.stream = 1
	} else {
		a.stream += 2
	}
	a.header.Reset()
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":path", cmp.Or(a.path, secretbrokerv1.ResolverService_Resolve_FullMethodName)}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = a.hpack.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	return a.stream, a.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: a.stream, BlockFragment: a.header.Bytes(), EndHeaders: true})
}

// message is the beginning of a gRPC message: a prefix with the given length, and data.
func message(length int, data []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(length)), data...)
}

// call sends a complete Resolve.
func (a *attacker) call(req proto.Message) (uint32, error) {
	id, err := a.begin()
	if err != nil {
		return 0, err
	}
	data, err := proto.Marshal(req)
	if err != nil {
		a.t.Fatal(err)
	}
	return id, a.framer.WriteData(id, true, message(len(data), data))
}

// drain reads everything that the server sends until the connection ends.
func (a *attacker) drain() chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, a.conn)
	}()
	return ended
}

func memoryOf(total int64, p timeouts) (*budget.Budget, func(*Config)) {
	b := budget.New(total)
	return b, func(c *Config) { c.Memory, c.timeouts = b, p }
}

// watch returns the maximum charge until ctx ended.
func watchHealth(ctx context.Context, b *budget.Budget) (most int64) {
	for ctx.Err() == nil {
		most = max(most, b.Stats().Used)
		<-time.After(time.Millisecond)
	}
	return most
}

// settled waits until only open connections are charged.
func settled(t *testing.T, b *budget.Budget) {
	t.Helper()
	asynctest.Eventually(t, "everything is released", func() bool { return b.Stats().Used == 0 })
}

// cutFor returns the number of connections that were closed for reaching a bound.
func (ts *testServer) cutFor(t *testing.T, bound string) float64 {
	t.Helper()
	return ts.counter(t, "secretbroker_connections_cut_total", bound)
}
