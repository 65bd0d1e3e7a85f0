package server

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/time/rate"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/resolve"
)

// TestIncompleteRequests: incomplete requests use no capacity that other callers need,
// are charged to their sender, and get its connection closed.
func TestIncompleteRequests(t *testing.T) {
	b, with := memoryOf(64<<20, timeouts{request: 300 * time.Millisecond, write: time.Minute, answer: time.Minute, call: time.Minute})
	ts := startServer(t, with)
	ts.SetCallLimits(admission.Limits{PerCaller: 200, Total: 4})
	a := ts.attack(t, otherID, 1<<16)
	ended := a.drain()
	const n = 100
	for range n {
		id, err := a.begin()
		if err == nil {
			err = a.framer.WriteData(id, false, message(1<<20, make([]byte, 8)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	account := b.Account(otherID)
	defer account.Close()
	asynctest.Eventually(t, "all are counted", func() bool { return account.Open.Load() == n })
	if used := b.Stats().Used; used < n*streamBytes {
		t.Errorf("%d bytes are charged", used)
	}
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	for range 20 {
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
			t.Errorf("another caller got %v", err)
		}
	}
	<-ended
	if got := ts.cutFor(t, "request_time"); got != 1 {
		t.Errorf("%v connections were closed", got)
	}
	conn.Close()
	settled(t, b)
	if account.Open.Load() != 0 {
		t.Errorf("%d calls are still open", account.Open.Load())
	}
}

// TestALateRequestIsAnswered: a request that arrives in pieces is admitted once it is
// complete.
func TestALateRequestIsAnswered(t *testing.T) {
	b, with := memoryOf(64<<20, defaultTimeouts)
	ts := startServer(t, with)
	called := make(chan struct{}, 1)
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		called <- struct{}{}
		return &resolve.Result{}, nil
	}
	a := ts.attack(t, string(granted), 1<<16)
	a.drain()
	id, err := a.begin()
	if err != nil {
		t.Fatal(err)
	}
	msg := message(2, []byte{4 << 3, 1})
	for i := range msg {
		asynctest.Eventually(t, "the call is being worked on", func() bool { return b.Stats().Used >= streamBytes })
		if err := a.framer.WriteData(id, i == len(msg)-1, msg[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	<-called
	a.conn.Close()
	settled(t, b)
}

// TestRequestsTakeTheirShare: a caller that sends requests without end uses at most its
// share of memory. The server closes its connection and no other.
func TestRequestsTakeTheirShare(t *testing.T) {
	p := defaultTimeouts
	p.memory, p.request = 100*time.Millisecond, time.Second
	b, with := memoryOf(8<<20, p)
	ts := startServer(t, with)
	ctx, cancel := context.WithCancel(t.Context())
	var most int64
	var watching sync.WaitGroup
	watching.Go(func() { most = watchHealth(ctx, b) })
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	a := ts.attack(t, otherID, 1<<16)
	ended := a.drain()
	var err error
	for err == nil {
		var id uint32
		if id, err = a.begin(); err == nil {
			first := message(1<<20, make([]byte, 16<<10-5))
			for i := 0; i < 3 && err == nil; i++ {
				err = a.framer.WriteData(id, false, first)
			}
		}
	}
	<-ended
	cancel()
	watching.Wait()
	if most < 1<<20 || most > 8<<20/accountShareInTest+1<<20 {
		t.Errorf("%d bytes were charged", most)
	}
	if got := ts.cutFor(t, "memory") + ts.cutFor(t, "request_time"); got != 1 {
		t.Errorf("%v connections were closed", got)
	}
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("another caller got %v", err)
	}
	conn.Close()
	settled(t, b)
}

// TestReadingWaitsForMemory: while the calls of a caller use its whole share of memory, the
// server reads nothing from it. The connection stays open.
func TestReadingWaitsForMemory(t *testing.T) {
	const n, total = 100, 2 << 20 // of which each caller may have half
	p := defaultTimeouts
	p.memory = time.Minute
	b, with := memoryOf(total, p)
	ts := startServer(t, with)
	ts.SetCallLimits(admission.Limits{PerCaller: 2 * n})
	finish := make(chan struct{})
	release := sync.OnceFunc(func() { close(finish) })
	defer release() // also after a failure: the end of the server waits for the calls
	var served atomic.Int64
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		<-finish
		served.Add(1)
		return &resolve.Result{}, nil
	}
	a := ts.attack(t, string(granted), 1<<16)
	a.drain()
	sent := make(chan error, 1)
	go func() {
		for range n {
			if _, err := a.call(&secretbrokerv1.ResolveRequest{Connector: strings.Repeat("x", 12<<10)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	account := b.Account(string(granted))
	defer account.Close()
	asynctest.Eventually(t, "the caller's share is used up", func() bool { return b.Stats().Used > total/accountShareInTest })
	if open := account.Open.Load(); open > n-10 {
		t.Errorf("%d of %d calls were read", open, n)
	}
	release()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	asynctest.Eventually(t, "all calls are answered", func() bool {
		return served.Load()+int64(ts.overLimit(t, admission.Memory)) == n && account.Open.Load() == 0
	})
	if got := served.Load(); got < n/4 {
		t.Errorf("%d of %d were served", got, n)
	}
	if cut := ts.cutFor(t, "memory"); cut != 0 {
		t.Errorf("%v connections were closed", cut)
	}
	a.conn.Close()
	settled(t, b)
}

// TestWaitingRequestsAreRefused: the server refuses waiting requests that would use up
// their caller's share, so that it can go on reading from the caller.
func TestWaitingRequestsAreRefused(t *testing.T) {
	const n, total = 200, 2 << 20
	b, with := memoryOf(total, defaultTimeouts)
	ts := startServer(t, with)
	ts.SetCallLimits(admission.Limits{PerCaller: 2 * n})
	a := ts.attack(t, string(granted), 1<<16)
	a.drain()
	var ids []uint32
	for range n {
		id, err := a.begin()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	asynctest.Eventually(t, "some are refused", func() bool { return ts.overLimit(t, admission.Memory) > 0 })
	for _, id := range ids {
		if err := a.framer.WriteData(id, true, message(0, nil)); err != nil {
			t.Fatal(err)
		}
	}
	account := b.Account(string(granted))
	defer account.Close()
	asynctest.Eventually(t, "all have ended", func() bool { return account.Open.Load() == 0 })
	if cut := ts.cutFor(t, "memory"); cut != 0 {
		t.Errorf("%v connections were closed", cut)
	}
	a.conn.Close()
	settled(t, b)
}

// TestRapidResets: the server closes the connection of a caller that resets calls as soon
// as it has started them, but not of one that cancels calls later.
func TestRapidResets(t *testing.T) {
	b, with := memoryOf(256<<20, defaultTimeouts)
	ts := startServer(t, with)
	a := ts.attack(t, otherID, 1<<16)
	ended := a.drain()
	begun := 0
	for ; begun < 100_000; begun++ {
		id, err := a.begin()
		if err == nil {
			err = a.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			break
		}
	}
	<-ended
	if got := ts.cutFor(t, "resets"); got != 1 {
		t.Errorf("%v connections were closed after %d resets", got, begun)
	}
	// The next connection of that principal may not make further rapid resets.
	a = ts.attack(t, otherID, 1<<16)
	ended = a.drain()
	for range 1000 {
		id, err := a.begin()
		if err == nil {
			err = a.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			break
		}
	}
	<-ended

	ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 5 {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				_, _ = secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, &secretbrokerv1.ResolveRequest{})
				cancel()
			}
		})
	}
	callers.Wait()
	if got := ts.cutFor(t, "resets"); got != 2 {
		t.Errorf("%v connections were closed", got)
	}
	conn.Close()
	settled(t, b)
}

// TestTheQuietCallerGetsIn: the server admits a caller with few calls although eight
// others have as many calls as they may.
func TestTheQuietCallerGetsIn(t *testing.T) {
	b, with := memoryOf(512<<20, defaultTimeouts)
	ts := startServer(t, with)
	ts.SetCallLimits(admission.Limits{PerCaller: 64, Total: 512})
	finish := make(chan struct{})
	release := sync.OnceFunc(func() { close(finish) })
	defer release() // also after a failure: the end of the server waits for the calls
	ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
		if callOf(ctx).who.Principal != granted {
			<-finish
		}
		return &resolve.Result{}, nil
	}
	var all []*attacker
	for i := range 8 {
		a := ts.attack(t, otherID+string(rune('0'+i)), 1<<16)
		a.drain()
		all = append(all, a)
		for range 64 {
			if _, err := a.call(&secretbrokerv1.ResolveRequest{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	asynctest.Eventually(t, "the broker is full", func() bool { return ts.overLimit(t, admission.Total) > 0 })
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	for range 20 {
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
			t.Errorf("the quiet caller got %v", err)
		}
	}
	release()
	for _, a := range all {
		a.conn.Close()
	}
	conn.Close()
	settled(t, b)
}

// TestControlFrames: the server closes the connection of a peer that sends PING frames
// without end, and the peer's next connection gets no new allowance. A client whose calls
// come with many PING frames keeps its connection.
func TestControlFrames(t *testing.T) {
	ts := startServer(t)
	for _, most := range []int{4 * controlBurst, controlBurst} {
		a := ts.attack(t, otherID, 1<<16)
		ended := a.drain()
		for range most {
			if err := a.framer.WritePing(true, [8]byte{}); err != nil {
				break
			}
		}
		<-ended
	}
	if got := ts.cutFor(t, "control_frames"); got != 2 {
		t.Errorf("%v connections were closed, want 2", got)
	}

	var busy traffic
	busy.control = rate.NewLimiter(0, 0)
	ping, call := frameBytes(framePing, 0, 0), frameBytes(frameHeaders, flagEndStream, 1)
	for i := range 1000 {
		binary.BigEndian.PutUint32(call[5:], uint32(2*i+1))
		if err := busy.received(call, time.Now()); err != nil {
			t.Fatal(err)
		}
		for range controlPerCall {
			if err := busy.received(ping, time.Now()); err != nil {
				t.Fatalf("after %d calls: %v", i+1, err)
			}
		}
	}
	if err := busy.received(ping, time.Now()); !errors.Is(err, errControlFrames) {
		t.Errorf("after one frame more than the calls allow: %v", err)
	}
}

// frameBytes is the header of a frame without a payload.
func frameBytes(kind, flags byte, stream uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{0, 0, 0, kind, flags}, stream)
}
