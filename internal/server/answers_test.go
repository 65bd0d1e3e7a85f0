package server

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// large makes the resolver answer with n values of the given size, which it reserves as
// the use case does.
func large(ts *testServer, n, size int) {
	ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
		c := callOf(ctx)
		res := &resolve.Result{}
		for i := range n {
			if !c.who.Memory.Reserve(size) {
				return nil, secret.Errorf(secret.ReasonOverloaded, "no memory")
			}
			res.Configs = append(res.Configs, resolve.Resolved{Config: string(rune('a' + i)), Value: secret.NewValue(bytes.Repeat([]byte("v"), size))})
		}
		return res, nil
	}
}

// TestAnswersNobodyTakes: the memory of answers that a peer does not read is limited, and
// so is the number of its calls. The server closes the connection.
func TestAnswersNobodyTakes(t *testing.T) {
	const total = 16 << 20
	for _, tt := range []struct {
		name    string
		size    int // of each of ten values
		reads   bool
		held    func(*budget.Account) bool
		refused admission.Limit
	}{
		{"large, window 0", 10 << 10, true, nil, ""},
		{"small, window 0", 1, true, nil, admission.PerCaller},
		{"nothing is read", 10 << 10, false, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, with := memoryOf(total, timeouts{request: time.Minute, write: 500 * time.Millisecond, answer: 500 * time.Millisecond, call: time.Minute})
			ts := startServer(t, with)
			ts.SetCallLimits(admission.Limits{PerCaller: 64, Total: 4096})
			large(ts, 10, tt.size)
			ctx, cancel := context.WithCancel(t.Context())
			var most int64
			var watching sync.WaitGroup
			watching.Go(func() { most = watchHealth(ctx, b) })
			window := uint32(0)
			if !tt.reads {
				window = 1 << 30
			}
			a := ts.attack(t, otherID, window)
			var ended chan struct{}
			if tt.reads {
				ended = a.drain()
			} else {
				_ = a.framer.WriteWindowUpdate(0, 1<<30)
			}
			cut := func() float64 { return ts.cutFor(t, "answer_time") + ts.cutFor(t, "memory") }
			for n := 0; cut() == 0; n++ {
				if _, err := a.call(&secretbrokerv1.ResolveRequest{}); err != nil {
					break
				}
				if n > 100 {
					<-time.After(time.Millisecond)
				}
			}
			if ended != nil {
				<-ended
			}
			asynctest.Eventually(t, "the connection is cut off", func() bool { return cut() == 1 })
			settled(t, b)
			cancel()
			watching.Wait()
			if most > total/accountShareInTest {
				t.Errorf("%d bytes were charged", most)
			}
			if tt.refused != "" && ts.overLimit(t, tt.refused) == 0 {
				t.Error("no call was refused although many answers waited")
			}
		})
	}
}

const accountShareInTest = 2

// TestLargeAnswers: large answers arrive complete, and leave nothing charged however the
// calls end.
func TestLargeAnswers(t *testing.T) {
	b, with := memoryOf(64<<20, defaultTimeouts)
	ts := startServer(t, with)
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	quiet := b.Stats().Used
	for _, size := range []int{100, 1000, 3000, 10_000, 200_000} {
		large(ts, 10, size)
		res, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		if err != nil || len(res.GetConfigs()) != 10 {
			t.Fatalf("%d: %v", size, err)
		}
		for _, c := range res.GetConfigs() {
			if c.GetValue() != strings.Repeat("v", size) {
				t.Fatalf("%d: the value is %.20q", size, c.GetValue())
			}
		}
	}
	next := ts.resolver.next
	for name, after := range map[string]func(context.Context) error{
		"panic":    func(context.Context) error { panic("canary") },
		"error":    func(context.Context) error { return secret.Errorf(secret.ReasonStoreUnavailable, "away") },
		"deadline": func(ctx context.Context) error { <-ctx.Done(); return nil },
	} {
		ts.resolver.mu.Lock()
		ts.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
			res, err := next(ctx)
			if failed := after(ctx); failed != nil {
				return nil, failed
			}
			return res, err
		}
		ts.resolver.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, &secretbrokerv1.ResolveRequest{})
		if err == nil && name != "deadline" { // the answer may arrive just in time
			t.Errorf("%s: no error", name)
		}
		cancel()
	}
	asynctest.Eventually(t, "nothing is charged but calls that are open", func() bool { return b.Stats().Used <= quiet+10*(streamBytes+handlerBytes) })
	conn.Close()
	settled(t, b)
}

// TestTooLargeAnswersAreRefused: too large answers are refused with OVERLOADED before they
// are made.
func TestTooLargeAnswersAreRefused(t *testing.T) {
	b, with := memoryOf(8<<20, defaultTimeouts)
	ts := startServer(t, with)
	large(ts, 20, 200_000)
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
	expectOverloaded(t, err)
	conn.Close()
	settled(t, b)
}

// TestAnswerIsReleasedOnce: an answer is released once, by gRPC or when its connection is
// closed.
func TestAnswerIsReleasedOnce(t *testing.T) {
	b := budget.New(1 << 20)
	tr := &traffic{account: b.Account("a")}
	used := func(want int64) {
		t.Helper()
		if got := b.Stats().Used; got != want {
			t.Errorf("%d bytes are charged, want %d", got, want)
		}
	}
	tr.account.Charge(300)
	sent, cut := tr.queue(100), tr.queue(200)
	sent.Encoded(40)
	used(240)
	sent.Encoded(50) // the charge does not grow
	used(240)
	sent.Gone()
	used(200)
	sent.Gone()
	used(200)
	tr.close()
	used(0)
	cut.Gone()
	used(0)
}
