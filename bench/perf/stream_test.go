package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// crowded counts its concurrent calls, and blocks each until the given number has arrived.
type crowded struct {
	secretbrokerv1.UnimplementedResolverServiceServer
	now, most atomic.Int64
	full      chan struct{}
	limit     int64
}

func (c *crowded) Resolve(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	if c.most.Store(max(n, c.most.Load())); n == c.limit && c.most.Load() == n {
		select {
		case <-c.full:
		default:
			close(c.full)
		}
	}
	<-c.full
	return answer(1, 16), nil
}

func dialPlain(t *testing.T, addr string) *connection {
	t.Helper()
	what, err := resolveCalls(&secretbrokerv1.ResolveRequest{IntegrationId: "i", Configs: map[string]string{"c": "r"}})
	if err != nil {
		t.Fatal(err)
	}
	what.Plain = true
	what.frame()
	c, err := dial(t.Context(), addr, nil, what)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLoadQueuesForStreams: the load observes the server's limit of streams, and queues calls.
func TestLoadQueuesForStreams(t *testing.T) {
	const limit, offered = 3, 200
	service := &crowded{full: make(chan struct{}), limit: limit}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(limit))
	secretbrokerv1.RegisterResolverServiceServer(server, service)
	l := listen(t)
	go func() { _ = server.Serve(l) }() // until Stop
	defer server.Stop()
	c := dialPlain(t, l.Addr().String())
	if c.limit != limit {
		t.Fatalf("the limit is %d before the first call, want %d", c.limit, limit)
	}
	c.measured = true
	done := make(chan error, 1)
	go func() {
		done <- c.receive(func(time.Time) error {
			if c.answered == offered {
				return io.EOF
			}
			return nil
		})
	}()
	if err := c.start(offered); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_ = c.conn.Close() // the connection is no longer needed
	if len(c.failed) > 0 || len(c.took) != offered || service.most.Load() != limit {
		t.Errorf("%d of %d calls answered, failed %v, at most %d at a time", len(c.took), offered, c.failed, service.most.Load())
	}
}

// refusing is an HTTP/2 server that refuses each stream so many times before it answers.
func refusing(conn net.Conn, times int) error {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}); err != nil {
		return err
	}
	var block bytes.Buffer
	if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "grpc-status", Value: "0", Sensitive: true}); err != nil {
		return err
	}
	for refused := 0; ; {
		frame, err := framer.ReadFrame()
		if err != nil {
			return nil // the client has disconnected
		}
		if _, ok := frame.(*http2.DataFrame); !ok {
			continue
		}
		if refused < times {
			refused++
			err = framer.WriteRSTStream(frame.Header().StreamID, http2.ErrCodeRefusedStream)
		} else {
			refused = 0
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.Header().StreamID, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		}
		if err != nil {
			return err
		}
	}
}

// TestLoadSendsRefusedCallsAgain: a call whose stream was refused is sent again once.
func TestLoadSendsRefusedCallsAgain(t *testing.T) {
	for _, test := range []struct {
		name             string
		refused          int
		answered, failed int
	}{{"once", 1, 4, 0}, {"for ever", 1 << 30, 0, 4}} {
		t.Run(test.name, func(t *testing.T) {
			l := listen(t)
			served := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err == nil {
					err = refusing(conn, test.refused)
				}
				served <- err
			}()
			c := dialPlain(t, l.Addr().String())
			c.measured = true
			done := make(chan error, 1)
			go func() {
				done <- c.receive(func(time.Time) error {
					if c.answered == 4 {
						return io.EOF
					}
					return nil
				})
			}()
			if err := c.start(4); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			_ = c.conn.Close() // ends the server
			if err := <-served; err != nil {
				t.Error(err)
			}
			if n := c.failed[http2.ErrCodeRefusedStream.String()]; len(c.took) != test.answered || n != test.failed {
				t.Errorf("%d answered, %d failed, want %d and %d", len(c.took), n, test.answered, test.failed)
			}
		})
	}
}
