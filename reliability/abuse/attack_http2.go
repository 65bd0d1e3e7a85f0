package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// http2Conn is a client's side of an HTTP/2 connection at the level of frames. Only one
// goroutine may write at a time, while it holds mu.
type http2Conn struct {
	tls *tls.Conn
	out *bufio.Writer
	fr  *http2.Framer

	mu     sync.Mutex
	block  bytes.Buffer
	header *hpack.Encoder
	next   uint32
	ended  chan uint32   // streams that the server ended
	closed chan struct{} // closed after the server closed the connection
}

// preface describes the beginning of a connection.
type preface struct {
	settings []http2.Setting
	// window is added to the connection's flow control window.
	window uint32
}

// connect makes a connection, within a few seconds.
func (a *attacker) connect(ctx context.Context, p preface) (*http2Conn, error) {
	config, err := a.tlsConfig(a.CAFile)
	if err != nil {
		return nil, err
	}
	config.ServerName = "localhost"
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	raw, err := dialFrom(ctx, "", a.Addr)
	if err != nil {
		a.counts.add("connects failed", 1)
		return nil, err
	}
	c := &http2Conn{tls: tls.Client(raw, config), next: 1, ended: make(chan uint32, 4096), closed: make(chan struct{})}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		a.counts.add("handshakes failed", 1)
		_ = raw.Close() // the handshake failed
		return nil, err
	}
	a.counts.add("connections", 1)
	c.out = bufio.NewWriterSize(c.tls, 64<<10)
	c.fr = http2.NewFramer(c.out, bufio.NewReaderSize(c.tls, 16<<10))
	c.fr.AllowIllegalWrites = true
	c.header = hpack.NewEncoder(&c.block)
	_, _ = c.out.WriteString(http2.ClientPreface) // Flush returns the error
	_ = c.fr.WriteSettings(p.settings...)
	if p.window > 0 {
		_ = c.fr.WriteWindowUpdate(0, p.window)
	}
	return c, c.flush()
}

// flush sends the written frames, within a second.
func (c *http2Conn) flush() error {
	_ = c.tls.SetWriteDeadline(time.Now().Add(time.Second))
	return c.out.Flush()
}

// headers returns the encoded headers of a call. It requires c.mu.
func (c *http2Conn) headers(method string) []byte {
	c.block.Reset()
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":path", method}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = c.header.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to memory
	}
	return c.block.Bytes()
}

// call writes the frames of a call and returns its stream; if end is false, it leaves out the
// end of the request.
func (c *http2Conn) call(body []byte, end bool) uint32 {
	stream := c.next
	c.next += 2
	_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.headers(secretbrokerv1.ResolverService_Resolve_FullMethodName), EndHeaders: true})
	const most = 16 << 10 // every peer accepts frames of this size
	for len(body) > most {
		_ = c.fr.WriteData(stream, false, body[:most])
		body = body[most:]
	}
	_ = c.fr.WriteData(stream, end, body)
	return stream
}

// read reads and acknowledges the server's frames until the connection ends. It sends the
// streams that end to c.ended.
func (c *http2Conn) read() {
	defer close(c.closed)
	for {
		f, err := c.fr.ReadFrame()
		if err != nil {
			if _, ok := err.(http2.StreamError); ok { //nolint:errorlint // the Framer does not wrap it
				continue
			}
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.answer(func() { _ = c.fr.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				c.answer(func() { _ = c.fr.WritePing(true, f.Data) })
			}
		case *http2.RSTStreamFrame:
			c.tell(f.StreamID)
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				c.tell(f.StreamID)
			}
		}
	}
}

func (c *http2Conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

func (c *http2Conn) tell(stream uint32) {
	select {
	case c.ended <- stream:
	default: // c.ended has no reader
	}
}

func (c *http2Conn) answer(write func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	write()
	_ = c.flush() // read notices a failure
}

// message is the beginning of a gRPC message: a prefix with the given length, and data.
func message(length int, sent []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(length)), sent...)
}

func request(req *secretbrokerv1.ResolveRequest) []byte {
	data, err := proto.Marshal(req)
	if err != nil {
		panic(err) // fails only for text that is not UTF-8
	}
	return message(len(data), data)
}

// hold keeps so many calls open on the connection, and opens others for those that the server
// ends, up to perSecond, until the connection or ctx ends.
func (a *attacker) hold(ctx context.Context, c *http2Conn, calls, perSecond int, body []byte, end bool) {
	defer c.tls.Close()
	go c.read() // until the connection ends
	const perTick = 50
	tick := time.NewTicker(time.Second / perTick)
	defer tick.Stop()
	for free, most := calls, calls; ; most = max(1, perSecond/perTick) {
		open := min(free, most)
		c.mu.Lock()
		for range open {
			c.call(body, end)
		}
		err := c.flush()
		c.mu.Unlock()
		free -= open
		a.counts.add("calls opened", float64(open))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range len(c.ended) {
			<-c.ended
			free++
		}
		if err != nil || c.isClosed() {
			return
		}
	}
}
