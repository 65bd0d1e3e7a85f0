package server

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// pendingRecord is a commit that ends when the test ends it.
type pendingRecord struct {
	asked chan struct{} // closed by the first Wait
	once  sync.Once
	end   chan error
}

func newPendingRecord() *pendingRecord {
	return &pendingRecord{asked: make(chan struct{}), end: make(chan error, 1)}
}

func (r *pendingRecord) Wait() error {
	r.once.Do(func() { close(r.asked) })
	return <-r.end
}

// answerHeld makes the server answer with a value while r is pending.
func answerHeld(ts *testServer, r *pendingRecord) {
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		ts.resolver.mu.Lock()
		defer ts.resolver.mu.Unlock()
		ts.resolver.who.Barrier.HoldUntil(r)
		return &resolve.Result{Configs: []resolve.Resolved{{Config: "p", Value: secret.NewValue([]byte("the-value"))}}}, nil
	}
}

// TestAnswersAreHeldBack: nothing of an answer leaves before it is recorded.
func TestAnswersAreHeldBack(t *testing.T) {
	ts := startServer(t)
	record := newPendingRecord()
	answerHeld(ts, record)
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	type answer struct {
		res *secretbrokerv1.ResolveResponse
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		res, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		answered <- answer{res, err}
	}()
	<-record.asked
	if len(answered) != 0 {
		t.Error("the call was answered before it was recorded")
	}
	record.end <- nil
	if a := <-answered; a.err != nil || a.res.GetConfigs()["p"].GetValue() != "the-value" {
		t.Errorf("answered %v, %v", a.res, a.err)
	}
}

// TestUnrecordedAnswers: an answer that cannot be recorded never leaves. The call
// fails, those of other connections do not, and the caller can connect again.
func TestUnrecordedAnswers(t *testing.T) {
	ts := startServer(t)
	record := newPendingRecord()
	answerHeld(ts, record)
	record.end <- errors.New("no space left on device")
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	if res, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.Unavailable || res != nil {
		t.Errorf("answered %v, %v", res, err)
	}
	counted(t, ts.metrics, "secretbroker_connections_unrecorded_total", 1)
	if log := ts.log.String(); !strings.Contains(log, "the audit log cannot be written") || !strings.Contains(log, "no space left") || strings.Contains(log, "the-value") {
		t.Errorf("log %q", log)
	}
	ts.resolver.mu.Lock()
	ts.resolver.next = nil
	ts.resolver.mu.Unlock()
	asynctest.Eventually(t, "the caller connects again", func() bool {
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		return err == nil
	})
}

// step is a commit that logs each Wait.
type step struct {
	log  *[]string
	name string
	err  error
}

func (s *step) Wait() error {
	*s.log = append(*s.log, s.name)
	return s.err
}

// recordedConn logs writes and the close.
type recordedConn struct {
	net.Conn
	log *[]string
}

func (c *recordedConn) Write(b []byte) (int, error) {
	*c.log = append(*c.log, "write "+string(b))
	return len(b), nil
}

func (c *recordedConn) Close() error {
	*c.log = append(*c.log, "close")
	return nil
}

// TestCommitBarrier: a write waits once for each commit that was added before it. After
// a failed commit nothing is written, whatever is committed later.
func TestCommitBarrier(t *testing.T) {
	var log []string
	conn := &recordedConn{log: &log}
	failed := errors.New("failed")
	c := &connection{Conn: conn, raw: conn, unrecorded: func(error) { log = append(log, "unrecorded") }}
	a, b, bad, late := &step{&log, "a", nil}, &step{&log, "b", nil}, &step{&log, "bad", failed}, &step{&log, "late", nil}
	write := func(text string, want error) {
		t.Helper()
		if _, err := c.Write([]byte(text)); !errors.Is(err, want) {
			t.Errorf("write %s: %v", text, err)
		}
	}
	write("0", nil)
	c.HoldUntil(a)
	c.HoldUntil(a)
	c.HoldUntil(b)
	write("1", nil)
	write("2", nil)
	c.HoldUntil(b)
	c.HoldUntil(bad)
	c.HoldUntil(late)
	write("3", failed)
	c.HoldUntil(late)
	write("4", failed)
	want := []string{"write 0", "a", "b", "write 1", "write 2", "b", "bad", "unrecorded", "close"}
	if !slices.Equal(log, want) {
		t.Errorf("log %q, want %q", log, want)
	}
}

// TestCommitBarrierConcurrently: a write does not overtake another one that waits.
func TestCommitBarrierConcurrently(t *testing.T) {
	var log []string
	conn := &recordedConn{log: &log}
	c := &connection{Conn: conn, raw: conn, unrecorded: func(error) {}}
	record := newPendingRecord()
	c.HoldUntil(record)
	var writing sync.WaitGroup
	write := func(text string) {
		writing.Go(func() {
			if _, err := c.Write([]byte(text)); err == nil {
				t.Errorf("%q was written", text)
			}
		})
	}
	write("with values")
	<-record.asked
	write("after it")
	record.end <- errors.New("failed")
	writing.Wait()
	if slices.ContainsFunc(log, func(s string) bool { return strings.HasPrefix(s, "write") }) {
		t.Errorf("log %q, want no write", log)
	}
}
