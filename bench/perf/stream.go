package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// calls are the calls of the load: to one path, with the messages in turn.
type calls struct {
	Path string `json:"path"`
	// Fields are additional header fields.
	Fields [][2]string `json:"fields"`
	// Messages are protobufs. Without messages, the calls are GET requests and not gRPC.
	Messages [][]byte `json:"messages,omitempty"`
	// Plain disables TLS.
	Plain bool `json:"plain,omitempty"`
}

// frame adds gRPC's prefix to each message.
func (c *calls) frame() {
	for i, m := range c.Messages {
		c.Messages[i] = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...) //nolint:gosec // some hundred bytes
	}
}

// connection sends the calls repeatedly over one HTTP/2 connection. It implements only the
// necessary parts of the protocol, and so needs a fifth of the CPU time of a gRPC client: the
// load should not influence the measurement.
type connection struct {
	conn   net.Conn
	in     *bufio.Reader
	read   *http2.Framer
	fields *hpack.Decoder

	mu    sync.Mutex // guards writes and the fields below
	out   *bufio.Writer
	write *http2.Framer
	next  uint32 // id of the next stream
	begun bool
	first []byte   // header block of the first call, which fills the server's table
	again []byte   // header block of the others, which refers to the table
	data  [][]byte // the framed messages, if any
	turn  int      // index of the next message
	good  string   // the status of a successful answer

	underWay map[uint32]call   // by stream
	limit    int               // the server's limit of streams
	waiting  []call            // calls that wait because of the limit
	statuses map[uint32]string // statuses of incomplete answers that failed
	status   string            // of the header block being read
	answered int               // number of answers so far
	consumed uint32            // bytes of answers not yet returned to the window
	bytes    int               // bytes of answers during the measurement
	took     []time.Duration   // latencies of answered calls since they were due
	failed   map[string]int    // calls by gRPC code
	measured bool              // the measurement is running
}

// call is a call from its due time until its answer.
type call struct {
	due time.Time
	// again reports that the server has refused the call's stream once without handling it.
	again bool
}

const (
	window = 1 << 30
	// greeting limits the wait for the server's first settings.
	greeting = 10 * time.Second
)

// dial connects. The messages of what are framed and shared by all connections.
func dial(ctx context.Context, addr string, config *tls.Config, what calls) (*connection, error) {
	conn, err := connect(ctx, addr, config, what.Plain)
	if err != nil {
		return nil, err
	}
	c := &connection{
		conn: conn, in: bufio.NewReaderSize(conn, 64<<10), out: bufio.NewWriterSize(conn, 64<<10), next: 1, good: "200",
		data: what.Messages, underWay: make(map[uint32]call), limit: math.MaxInt, statuses: make(map[uint32]string), failed: make(map[string]int),
	}
	c.read, c.write = http2.NewFramer(nil, c.in), http2.NewFramer(c.out, nil)
	c.read.SetReuseFrames()
	method, scheme, statusField := "GET", "https", ":status"
	if what.Plain {
		scheme = "http"
	}
	fields := [][2]string{{":scheme", scheme}, {":path", what.Path}, {":authority", addr}, {"user-agent", "secretbroker-perf"}}
	if len(what.Messages) > 0 {
		method, statusField, c.good = "POST", "grpc-status", "0"
		fields = append(fields, [][2]string{{"content-type", "application/grpc"}, {"te", "trailers"}, {"grpc-timeout", "10S"}}...)
	}
	fields = slices.Concat([][2]string{{":method", method}}, fields, what.Fields)
	c.fields = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == statusField {
			c.status = f.Value
		}
	})
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, to := range []*[]byte{&c.first, &c.again} {
		block.Reset()
		for _, f := range fields {
			if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				return nil, err
			}
		}
		*to = bytes.Clone(block.Bytes())
	}
	return c, c.greet()
}

func connect(ctx context.Context, addr string, config *tls.Config, plain bool) (net.Conn, error) {
	if plain {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
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
	if err := c.out.Flush(); err != nil {
		return err
	}
	// Before the server's settings arrive, its limit of streams is unknown.
	if err := c.conn.SetReadDeadline(time.Now().Add(greeting)); err != nil {
		return err
	}
	for settings := false; !settings; {
		frame, err := c.read.ReadFrame()
		if err != nil {
			return fmt.Errorf("wait for the server's settings: %w", err)
		}
		_, settings = frame.(*http2.SettingsFrame)
		if err := c.handle(frame, func(time.Time) error { return nil }); err != nil {
			return err
		}
	}
	return errors.Join(c.flush(), c.conn.SetReadDeadline(time.Time{}))
}

// send starts a call that is due, or queues it while the server allows no more streams, like a
// gRPC client: the wait counts as time of the call. Callers hold c.mu and flush.
func (c *connection) send(due time.Time) error {
	c.waiting = append(c.waiting, call{due: due})
	return c.sendWaiting()
}

// sendWaiting starts queued calls up to the limit. Callers hold c.mu and flush.
func (c *connection) sendWaiting() error {
	for len(c.waiting) > 0 && len(c.underWay) < c.limit {
		first := c.waiting[0]
		c.waiting = c.waiting[1:]
		if err := c.open(first); err != nil {
			return err
		}
	}
	return nil
}

// open starts a call on a new stream. Callers hold c.mu and flush.
func (c *connection) open(begun call) error {
	block := c.again
	if !c.begun {
		block, c.begun = c.first, true
	}
	c.underWay[c.next] = begun
	id := c.next
	c.next += 2
	if err := c.write.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: len(c.data) == 0}); err != nil || len(c.data) == 0 {
		return err
	}
	c.turn++
	return c.write.WriteData(id, true, c.data[c.turn%len(c.data)])
}

// start starts n calls.
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

// receive reads answers until the connection ends. It calls ended for each, with c.mu held;
// ended may send.
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
		if c.status != c.good && (c.status != "" || f.StreamEnded()) {
			c.statuses[f.StreamID] = cmp.Or(c.status, "none")
		}
		if f.StreamEnded() {
			return c.end(f.StreamID, ended)
		}
	case *http2.DataFrame:
		if c.measured {
			c.bytes += int(f.Length)
		}
		if c.consumed += f.Length; c.consumed > window/2 {
			if err := c.write.WriteWindowUpdate(0, c.consumed); err != nil {
				return err
			}
			c.consumed = 0
		}
		if f.StreamEnded() {
			return c.end(f.StreamID, ended)
		}
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
			c.limit = max(1, int(n))
		}
		return errors.Join(c.write.WriteSettingsAck(), c.sendWaiting())
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.write.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		// After an early answer, the reset has no meaning.
		if refused, waiting := c.underWay[f.StreamID]; waiting {
			delete(c.underWay, f.StreamID)
			return c.reset(refused, f.ErrCode, ended)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server sent GOAWAY: %v %s", f.ErrCode, f.DebugData())
	}
	return nil
}

// reset handles a call that the server has reset. If the server refused the stream without
// handling the call, the call is sent again once, as by a gRPC client.
func (c *connection) reset(refused call, code http2.ErrCode, ended func(now time.Time) error) error {
	if code == http2.ErrCodeRefusedStream && !refused.again {
		refused.again = true
		c.waiting = slices.Insert(c.waiting, 0, refused)
		return c.sendWaiting()
	}
	c.answered++
	if c.measured {
		c.failed[code.String()]++
	}
	return errors.Join(c.sendWaiting(), ended(time.Now()))
}

// end handles a complete answer.
func (c *connection) end(id uint32, ended func(now time.Time) error) error {
	now := time.Now()
	status, bad := c.statuses[id]
	delete(c.statuses, id)
	answered, ok := c.underWay[id]
	delete(c.underWay, id)
	c.answered++
	switch {
	case !ok || !c.measured:
	case bad:
		c.failed[status]++
	default:
		c.took = append(c.took, now.Sub(answered.due))
	}
	return errors.Join(c.sendWaiting(), ended(now))
}
