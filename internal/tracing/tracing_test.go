package tracing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is an Exporter that stores its spans, unless do is set.
type sink struct {
	mu      sync.Mutex
	batches [][]Span
	do      func(ctx context.Context, spans []Span) (int, error)
}

func (s *sink) Export(ctx context.Context, spans []Span) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.do != nil {
		if rejected, err := s.do(ctx, spans); rejected != 0 || err != nil {
			return rejected, err
		}
	}
	s.batches = append(s.batches, spans)
	return 0, nil
}

func (s *sink) count() (spans int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batches {
		spans += len(b)
	}
	return spans
}

// runningTracer is a Tracer that runs until stop, in a synctest bubble.
type runningTracer struct {
	*Tracer
	sink *sink
	log  *bytes.Buffer
	stop func()
}

func start(t *testing.T, perSecond int) *runningTracer {
	t.Helper()
	r := &runningTracer{sink: &sink{}, log: &bytes.Buffer{}}
	r.Tracer = New(Config{Exporter: r.sink, MaxCallsPerSecond: perSecond, Logger: slog.New(slog.NewTextHandler(r.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *runningTracer) call(traceparent string) *Call {
	return r.Begin(traceparent, Span{Start: time.Now(), Method: "/s/m", RequestID: "r", Principal: "p"})
}

// oneCall traces a call without loads.
func (r *runningTracer) oneCall() { r.call(sampled).End("OK", "") }

func TestSpansOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 100)
		c := r.call(sampled)
		c.Asked("cspi", 3)
		own := c.Load(secret.KindAzureKeyVault, "https://abc.vault.azure.net")
		shared := c.Load(secret.KindAzureKeyVault, "https://abc.vault.azure.net")
		ctx := own.Begin(t.Context())
		time.Sleep(time.Second)
		ReadDone(ctx, secret.Errorf(secret.ReasonStoreThrottled, "wait"), 200*time.Millisecond)
		time.Sleep(time.Second)
		ReadDone(ctx, nil, 300*time.Millisecond)
		own.End("miss", nil)
		shared.End("stale", secret.Errorf(secret.ReasonStoreUnavailable, "gone"))
		c.End("UNAVAILABLE", secret.ReasonStoreUnavailable)
		c.End("OK", "") // a second End has no effect
		// Later spans are not part of the trace.
		ReadDone(ctx, nil, time.Second)
		c.Load(secret.KindLocalFile, "env").End("hit", nil)
		c.Asked("other", 1)
		r.stop()

		if len(r.sink.batches) != 1 {
			t.Fatalf("%d batches", len(r.sink.batches))
		}
		type said struct {
			Step                                                           Step
			Took                                                           time.Duration
			Reason                                                         secret.Reason
			Method, RequestID, Principal, Code, Integration, Store, Source string
			References                                                     int
			Kind                                                           secret.Kind
			Own                                                            bool
		}
		const store = "https://abc.vault.azure.net"
		want := []said{
			{Step: Serve, Took: 2 * time.Second, Reason: secret.ReasonStoreUnavailable, Method: "/s/m", RequestID: "r", Principal: "p", Code: "UNAVAILABLE", Integration: "cspi", References: 3},
			{Step: Read, Took: 200 * time.Millisecond, Reason: secret.ReasonStoreThrottled, Kind: secret.KindAzureKeyVault, Store: store},
			{Step: Read, Took: 300 * time.Millisecond, Kind: secret.KindAzureKeyVault, Store: store},
			{Step: Load, Took: 2 * time.Second, Kind: secret.KindAzureKeyVault, Store: store, Own: true, Source: "miss"},
			{Step: Load, Took: 2 * time.Second, Reason: secret.ReasonStoreUnavailable, Kind: secret.KindAzureKeyVault, Store: store},
		}
		var got []said
		spans := r.sink.batches[0]
		for _, s := range spans {
			got = append(got, said{s.Step, s.End.Sub(s.Start), s.Reason, s.Method, s.RequestID, s.Principal, s.Code, s.Integration, s.Store, s.Source, s.References, s.Kind, s.Own})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		parent, _ := ParseParent(sampled)
		ids := make(map[SpanID]bool)
		for i, parentID := range []SpanID{parent.ID, spans[3].ID, spans[3].ID, spans[0].ID, spans[0].ID} {
			if s := spans[i]; s.Trace != parent.Trace || s.Parent != parentID || s.ID == (SpanID{}) || ids[s.ID] {
				t.Errorf("span %d: %+v", i, s)
			}
			ids[spans[i].ID] = true
		}
	})
}

// TestUntraced: without a trace, all methods can be called and do nothing.
func TestUntraced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 100)
		for _, text := range []string{"", unsampled, strings.ToUpper(sampled), "x"} {
			c := r.call(text)
			if c != nil {
				t.Errorf("%q is traced", text)
			}
			c.Asked("i", 1)
			l := c.Load(secret.KindLocalFile, "env")
			if ctx := l.Begin(t.Context()); ctx != t.Context() {
				t.Error("Begin returned another context")
			}
			l.End("miss", nil)
			c.End("OK", "")
		}
		ReadDone(t.Context(), nil, time.Second)
		r.stop()
		if got := (Stats{}); r.Stats() != got || r.sink.count() != 0 {
			t.Errorf("%+v", r.Stats())
		}
	})
}

// TestCallsPerSecond: callers that request a trace of every call get some traces.
func TestCallsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 10)
		for range 20 { // 2 s
			for range 50 {
				r.oneCall()
			}
			time.Sleep(100 * time.Millisecond)
		}
		r.stop()
		// A burst of 10, and 10 in each second.
		if s := r.Stats(); s.Calls != 29 || s.OverLimit != 1000-29 || s.Sent != 29 || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestSpansPerCall: one call cannot fill the queue.
func TestSpansPerCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 10)
		c := r.call(sampled)
		for range 1000 {
			c.Load(secret.KindLocalFile, "env").End("miss", nil)
		}
		c.End("OK", "")
		r.stop()
		if s := r.Stats(); s.Sent != maxSpans || s.Overflown != 1001-maxSpans || r.sink.count() != maxSpans {
			t.Errorf("%+v", s)
		}
	})
}

// TestBatches: spans are sent in batches, and none waits for long.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 10000)
		r.oneCall()
		time.Sleep(gatherTime / 2)
		r.oneCall()
		synctest.Wait()
		if n := r.sink.count(); n != 0 {
			t.Errorf("%d spans were sent at once", n)
		}
		time.Sleep(gatherTime/2 + 1)
		if n := r.sink.count(); n != 2 {
			t.Errorf("%d spans were sent after a second", n)
		}
		for range maxBatch {
			r.oneCall()
		}
		synctest.Wait()
		if n := r.sink.count(); n != 2+maxBatch {
			t.Errorf("a full batch was not sent at once: %d", n)
		}
	})
}

// TestRejected: the collector may reject some spans. A wrong count from it is corrected.
func TestRejected(t *testing.T) {
	for _, rejected := range []int{1, 5, -7} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, 100)
			r.sink.do = func(context.Context, []Span) (int, error) { return rejected, nil }
			r.oneCall()
			r.oneCall()
			r.stop()
			lost := uint64(max(0, min(2, rejected)))
			if s := r.Stats(); s.Sent != 2-lost || s.Rejected != lost {
				t.Errorf("%d rejected: %+v", rejected, s)
			}
			if told := strings.Contains(r.log.String(), "spans_lost"); told != (lost > 0) {
				t.Errorf("%d rejected, log: %s", rejected, r.log)
			}
		})
	}
}

// TestDeadCollector: no call waits, the number of queued spans is limited, lost spans are
// counted, and the log stays small.
func TestDeadCollector(t *testing.T) {
	down := errors.New("connection refused")
	for name, err := range map[string]error{"retryable": &RetryError{Err: down}, "permanent": down} {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, 1000)
			dead := true
			r.sink.do = func(context.Context, []Span) (int, error) {
				if dead {
					return 0, err
				}
				return 0, nil
			}
			begin := time.Now()
			const minutes = 3
			for range minutes * 60 * 10 {
				before := time.Now()
				for range 30 {
					r.oneCall()
				}
				if time.Since(before) > 0 {
					t.Fatal("a call waited")
				}
				if q := r.Stats().Queued; q > maxQueued {
					t.Fatalf("%d spans are queued", q)
				}
				time.Sleep(100 * time.Millisecond)
			}
			s := r.Stats()
			if s.Sent != 0 || s.Overflown+s.Unsent+uint64(s.Queued) != s.Calls {
				t.Errorf("%s: %+v", name, s)
			}
			r.sink.mu.Lock()
			dead = false
			r.sink.mu.Unlock()
			r.oneCall()
			time.Sleep(retryTime)
			if again := r.Stats(); again.Sent == 0 || again.Queued != 0 {
				t.Errorf("%s: it did not recover: %+v", name, again)
			}
			r.stop()
			lines := strings.Count(r.log.String(), "\n")
			if most := int(time.Since(begin)/complaintPause) + 2; lines == 0 || lines > most || !strings.Contains(r.log.String(), "connection refused") {
				t.Errorf("%s: %d lines in the log\n%s", name, lines, r.log)
			}
		})
	}
}

// TestPatience: the Tracer waits as long as the collector requests.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, 100)
		var at []time.Duration
		begin := time.Now()
		r.sink.do = func(context.Context, []Span) (int, error) {
			at = append(at, time.Since(begin))
			switch len(at) {
			case 1:
				return 0, &RetryError{Err: errors.New("throttled"), After: 10 * time.Second}
			case 2:
				return 0, &RetryError{Err: errors.New("throttled")}
			}
			return 0, nil
		}
		r.oneCall()
		time.Sleep(time.Minute)
		r.stop()
		// One second to gather, ten as requested, and twice that.
		if diff := cmp.Diff([]time.Duration{time.Second, 11 * time.Second, 31 * time.Second}, at); diff != "" {
			t.Error(diff)
		}
		if s := r.Stats(); s.Sent != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestEnd: at the end, the remaining spans are sent once and in limited time, whatever the
// collector does.
func TestEnd(t *testing.T) {
	hang := func(ctx context.Context, _ []Span) (int, error) {
		<-ctx.Done()
		return 0, &RetryError{Err: ctx.Err()}
	}
	refuse := func(context.Context, []Span) (int, error) { return 0, &RetryError{Err: errors.New("no")} }
	for name, tt := range map[string]struct {
		do   func(context.Context, []Span) (int, error)
		most time.Duration
		sent uint64
	}{
		"a good collector": {nil, 0, 1500},
		"a silent one":     {hang, flushTime, 0},
		"one that is gone": {refuse, 0, 0},
	} {
		for _, wait := range []time.Duration{0, gatherTime + time.Millisecond, 5 * time.Second} { // with an Export or a pause under way
			synctest.Test(t, func(t *testing.T) {
				r := start(t, 2000)
				r.sink.do = tt.do
				for range 1500 {
					r.oneCall()
				}
				time.Sleep(wait)
				begin := time.Now()
				r.stop()
				if took := time.Since(begin); took > tt.most {
					t.Errorf("%s, %v: the end took %v", name, wait, took)
				}
				s := r.Stats()
				if s.Sent != tt.sent || s.Sent+s.Unsent != 1500 || s.Queued != 0 {
					t.Errorf("%s, %v: %+v", name, wait, s)
				}
				if told := strings.Contains(r.log.String(), "spans_lost"); told != (tt.sent == 0) {
					t.Errorf("%s, log: %s", name, r.log)
				}
				r.oneCall() // is dropped without waiting
			})
		}
	}
}
