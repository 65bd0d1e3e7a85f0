package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/cpulimit"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// TestWatchMemory: the open streams of one principal cannot take the memory that other
// principals' streams and its own calls need, and return theirs when they end.
func TestWatchMemory(t *testing.T) {
	memory := budget.New(8 << 20)
	ts := startWatched(t, watch.Config{}, func(c *Config) { c.Memory = memory })
	conn, other := ts.dial(t, ts.ca.Client(string(granted))), ts.dial(t, ts.ca.Client(otherID))
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	opened := 0
	for ; err == nil && opened < 1000; opened++ {
		var s watchStream
		if s, err = secretbrokerv1.NewWatchServiceClient(conn).Watch(ctx, items(20)); err == nil {
			_, err = s.Recv()
		}
	}
	expectOverloaded(t, err)
	if !strings.Contains(status.Convert(err).Message(), "memory") {
		t.Error(err)
	}
	if used, most := memory.Stats().Used, memory.Stats().Total/watchShare; opened < 8 || used > most {
		t.Errorf("%d streams use %d bytes, the maximum is %d", opened, used, most)
	}
	if n := ts.overLabel(t, "watch_memory"); n != 1 {
		t.Errorf("%v refusals were counted", n)
	}
	if _, err := openWatch(t, other, items(20)).Recv(); err != nil {
		t.Errorf("another principal: %v", err)
	}
	cancel()
	eventually(t, "the memory is released", func() bool { return memory.Stats().Used < 256<<10 }) // the other principal's stream
	if _, err := openWatch(t, conn, items(20)).Recv(); err != nil {
		t.Errorf("after the streams have ended: %v", err)
	}
}

// eventually waits for a condition, for at most half a minute.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within half a minute: %s", what)
		}
	}
}

// countingWatcher refuses all calls, when release is closed, and counts those that have a turn.
type countingWatcher struct {
	Watcher       // nil: only Watch is called
	running, most atomic.Int64
	release       chan struct{}
}

func (w *countingWatcher) Watch(ctx context.Context, who resolve.Caller, _ resolve.WatchRequest) (*resolve.Watching, error) {
	if who.Turn != nil {
		if err := who.Turn.Take(ctx); err != nil {
			return nil, err
		}
	}
	w.most.Store(max(w.most.Load(), w.running.Add(1))) // at most a few too low
	<-w.release
	w.running.Add(-1)
	return nil, secret.Errorf(secret.ReasonAccessDenied, "no")
}

// TestWatchTakesTurns: of the streams that a principal opens at the same time, only a few
// are opened at a time, which leaves CPU time to others, and all have their turn.
func TestWatchTakesTurns(t *testing.T) {
	w := &countingWatcher{release: make(chan struct{})}
	ts := startServer(t, func(c *Config) { c.Watcher = w })
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	const streams = 50
	failed := make(chan error, streams)
	for range streams {
		s := openWatch(t, conn, items(1))
		go func() {
			_, err := s.Recv()
			failed <- err
		}()
	}
	eventually(t, "all streams arrive", func() bool { return ts.counter(t, "secretbroker_streams", "watch") == streams })
	close(w.release)
	for range streams {
		if err := <-failed; status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.ResourceExhausted { // on a slow machine
			t.Error(err)
		}
	}
	if most := w.most.Load(); most < 1 || most > int64(2*cpulimit.CPUs()) {
		t.Errorf("%d streams were opened at the same time", most)
	}
}

// TestWatchEntries: requests with so many entries that decoding them takes long are refused,
// and malformed ones too.
func TestWatchEntries(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	for name, change := range map[string]func(*secretbrokerv1.WatchSet){
		"known_versions": func(s *secretbrokerv1.WatchSet) {
			s.KnownVersions = make(map[string]string)
			for i := range resolve.MaxWatched + 1 {
				s.KnownVersions[fmt.Sprint(i)] = "v"
			}
		},
		"configs": func(s *secretbrokerv1.WatchSet) {
			for i := range maxWatchedConfigs + 1 {
				s.Configs[fmt.Sprint(i)] = "v"
			}
		},
	} {
		req := items(1)
		change(req.GetSets()[0])
		_, err := openWatch(t, conn, req).Recv()
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), name+", the maximum is") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, raw := range []string{"\x0a", "\x0a\x02\x12", "\x0a\x02\x12\x05", "\xff", "\x0a\x03\x0a\x01\xff"} {
		if err := checkEntries([]byte(raw)); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, secretbrokerv1.WatchService_Watch_FullMethodName, grpc.ForceCodecV2(rawCodec{}))
		if err == nil {
			err = errors.Join(stream.SendMsg(raw), stream.CloseSend())
		}
		if err == nil {
			err = stream.RecvMsg(new(string))
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

// rawCodec sends strings as messages.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(string))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (rawCodec) Name() string                         { return "proto" }
