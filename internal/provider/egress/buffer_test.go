package egress

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// endless responds with a body that does not end, and counts the bytes that it could
// send.
type endless struct {
	sent    atomic.Int64
	streams atomic.Int32
	enough  chan struct{} // closed when more than atLeast bytes are sent
	atLeast int64
	once    sync.Once
}

func (e *endless) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	e.streams.Add(1)
	chunk := make([]byte, 4<<10)
	for {
		n, err := w.Write(chunk)
		if e.sent.Add(int64(n)) > e.atLeast && e.enough != nil {
			e.once.Do(func() { close(e.enough) })
		}
		if err != nil {
			return
		}
	}
}

// perStream is the data that a stream's handler has written and the server still
// buffers.
const perStream = 8 << 10

// A server cannot make the client buffer more than connectionBuffer of unread
// responses, however many streams it uses.
func TestUnreadAnswersAreBounded(t *testing.T) {
	const streams = 50
	// The window of a connection is the buffer plus HTTP/2's initial window.
	const window = connectionBuffer + 64<<10
	e := &endless{enough: make(chan struct{}), atLeast: connectionBuffer}
	s := newSite(t, e.ServeHTTP, nil, "a.test")
	c := NewClient(s.config())
	defer c.CloseIdleConnections()
	base := c.Transport.(*Transport).Base()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ask := func(path string) *http.Response {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://a.test"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := base.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	ask("/ping") // so that all streams use one connection
	for range streams {
		if resp := ask("/"); resp.ProtoMajor != 2 {
			t.Fatalf("the site speaks %s", resp.Proto)
		}
	}
	<-e.enough
	for range 100 { // round trips in which the server could send more
		ask("/ping")
	}
	if n := e.sent.Load(); n > window+streams*perStream {
		t.Errorf("the server could send %d bytes on %d streams that nobody reads, want at most %d", n, streams, window)
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A single stream is limited as well, so that it cannot use the whole connection.
func TestUnreadStreamIsBounded(t *testing.T) {
	e := &endless{enough: make(chan struct{}), atLeast: streamBuffer - 4<<10}
	s := newSite(t, e.ServeHTTP, nil, "a.test")
	c := NewClient(s.config())
	defer c.CloseIdleConnections()
	base := c.Transport.(*Transport).Base()
	for _, path := range []string{"/", "/ping", "/ping", "/ping", "/ping"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a.test"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := base.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		<-e.enough
	}
	if n := e.sent.Load(); n > streamBuffer+perStream {
		t.Errorf("the server could send %d bytes, want at most %d", n, streamBuffer)
	}
}

// Endless responses end, after at most MaxBody plus the stream's buffer each.
func TestEndlessAnswers(t *testing.T) {
	const requests = 64
	e := &endless{}
	s := newSite(t, e.ServeHTTP, nil, "a.test")
	c := NewClient(s.config())
	defer c.CloseIdleConnections()
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://a.test/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.Do(r); !errors.Is(err, errTooLarge) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if n, most := e.sent.Load(), int64(requests*(DefaultMaxBody+streamBuffer+perStream)); n > most || e.streams.Load() != requests {
		t.Errorf("the server sent %d bytes on %d streams, want at most %d", n, e.streams.Load(), most)
	}
}
