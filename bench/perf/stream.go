package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// connection sends the same call again and again over one HTTP/2 connection. It
// speaks just enough of the protocol for that, and so costs a fifth of what a
// gRPC client does: the load must not be what is measured.
type connection struct {
	conn   net.Conn
	in     *bufio.Reader
	read   *http2.Framer
	fields *hpack.Decoder

	mu    sync.Mutex // guards what writes
	out   *bufio.Writer
	write *http2.Framer
	next  uint32 // stream
	begun bool
	first []byte // header block of the first call, which fills the server's table
	again []byte // of the others, which only refers to it
	data  []byte // the message

	due      map[uint32]time.Time // of calls under way
	status   string               // of the header block being read
	consumed uint32               // bytes of answers not yet given back
	took     []time.Duration      // since calls were due, of those answered
	failed   map[string]int       // calls by gRPC code
	measured bool                 // what is answered now counts
}

const window = 1 << 30

func dial(ctx context.Context, addr string, config *tls.Config, message []byte) (*connection, error) {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &connection{conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: bufio.NewWriterSize(conn, 64<<10), next: 1, due: make(map[uint32]time.Time), failed: make(map[string]int)}
	c.read, c.write = http2.NewFramer(nil, c.in), http2.NewFramer(c.out, nil)
	c.read.SetReuseFrames()
	c.fields = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == "grpc-status" {
			c.status = f.Value
		}
	})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, to := range []*[]byte{&c.first, &c.again} {
		block.Reset()
		for _, f := range [][2]string{
			{":method", "POST"}, {":scheme", "https"}, {":path", "/secretbroker.v1.ResolverService/Resolve"}, {":authority", addr},
			{"content-type", "application/grpc"}, {"user-agent", "secretbroker-perf"}, {"te", "trailers"}, {"grpc-timeout", "10S"},
		} {
			if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				return nil, err
			}
		}
		*to = bytes.Clone(block.Bytes())
	}
	c.data = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...) //nolint:gosec // some hundred bytes
	return c, c.greet()
}

func (c *connection) greet() error {
	if _, err := c.out.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	if err := c.write.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24}); err != nil {
		return err
	}
	if err := c.write.WriteWindowUpdate(0, window); err != nil {
		return err
	}
	return c.out.Flush()
}

// send begins a call that is due now or was. Callers hold c.mu and flush.
func (c *connection) send(due time.Time) error {
	block := c.again
	if !c.begun {
		block, c.begun = c.first, true
	}
	c.due[c.next] = due
	if err := c.write.WriteHeaders(http2.HeadersFrameParam{StreamID: c.next, BlockFragment: block, EndHeaders: true}); err != nil {
		return err
	}
	err := c.write.WriteData(c.next, true, c.data)
	c.next += 2
	return err
}

// start begins n calls.
func (c *connection) start(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for range n {
		if err := c.send(now); err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// receive reads answers until the connection ends. ended is called for each, with
// c.mu held, and may send.
func (c *connection) receive(ended func(now time.Time) error) error {
	for {
		if c.in.Buffered() == 0 {
			if err := c.flush(); err != nil {
				return err
			}
		}
		frame, err := c.read.ReadFrame()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := c.handle(frame, ended); err != nil {
			return err
		}
	}
}

func (c *connection) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Flush()
}

func (c *connection) handle(frame http2.Frame, ended func(now time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := frame.(type) {
	case *http2.HeadersFrame:
		c.status = ""
		if _, err := c.fields.Write(f.HeaderBlockFragment()); err != nil {
			return err
		}
		if !f.StreamEnded() {
			return nil
		}
		now := time.Now()
		due, ok := c.due[f.StreamID]
		delete(c.due, f.StreamID)
		switch {
		case !ok || !c.measured:
		case c.status == "0":
			c.took = append(c.took, now.Sub(due))
		default:
			c.failed[c.status]++
		}
		return ended(now)
	case *http2.DataFrame:
		if c.consumed += f.Length; c.consumed > window/2 {
			err := c.write.WriteWindowUpdate(0, c.consumed)
			c.consumed = 0
			return err
		}
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return c.write.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.write.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		// After an early answer it has no meaning; before one, the call was refused.
		if _, waiting := c.due[f.StreamID]; waiting {
			delete(c.due, f.StreamID)
			c.failed[f.ErrCode.String()]++
			return ended(time.Now())
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server sent the connection away: %v %s", f.ErrCode, f.DebugData())
	}
	return nil
}
