package resolve_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// spanSink is a tracing.Exporter that stores all spans.
type spanSink struct{ spans []tracing.Span }

func (s *spanSink) Export(_ context.Context, spans []tracing.Span) (int, error) {
	s.spans = append(s.spans, spans...)
	return 0, nil
}

// TestTracedLoads: the spans contain the duration and the owner of a load, for calls that read
// the same secrets concurrently, calls that are answered from the cache, and failing calls.
func TestTracedLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.store.delay = time.Second
		sink := &spanSink{}
		tracer := tracing.New(tracing.Config{Exporter: sink})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = tracer.Run(ctx) })

		call := func(id, integration string, refs ...string) {
			configs := make(map[string]string)
			for _, r := range refs {
				configs[r] = vault + "::" + r
			}
			trace := tracer.Begin("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", tracing.Span{Start: time.Now(), RequestID: id})
			res, err := b.call(worker, resolve.Request{IntegrationID: integration, Configs: configs, Trace: trace})
			if err == nil {
				res.Wipe()
			}
			trace.End("", "")
		}
		var calls sync.WaitGroup
		calls.Go(func() { call("first", "cspi", "db-secret::user", "db-secret::password", "oracle") })
		time.Sleep(time.Second / 2)
		calls.Go(func() { call("second", "cspi", "db-secret") })
		calls.Wait()
		call("warm", "cspi", "db-secret")
		call("failing", "cspi", "db-throttled")
		call("failed before", "cspi", "db-throttled")
		call("no integration", "canary", "db-secret")
		call("no reference", "cspi", "canary db-secret")
		cancel()
		running.Wait()

		type said struct {
			Of, Integration string
			References      int
			Took            time.Duration
			Own             bool
			Source          string
			Reason          secret.Reason
		}
		var got []said
		ids := make(map[tracing.SpanID]string)
		for _, s := range sink.spans {
			switch s.Step {
			case tracing.Serve:
				ids[s.ID] = s.RequestID
				got = append(got, said{Of: s.RequestID, Integration: s.Integration, References: s.References, Took: s.End.Sub(s.Start)})
			case tracing.Load:
				if s.Kind != secret.KindAzureKeyVault || s.Store != vault {
					t.Errorf("%+v", s)
				}
				got = append(got, said{Of: ids[s.Parent], Took: s.End.Sub(s.Start), Own: s.Own, Source: s.Source, Reason: s.Reason})
			}
		}
		want := []said{
			{Of: "first", Integration: "cspi", References: 3, Took: time.Second}, // a fourth is denied
			{Of: "first", Took: time.Second, Own: true, Source: "miss"},
			{Of: "second", Integration: "cspi", References: 1, Took: time.Second / 2},
			{Of: "second", Took: time.Second / 2, Source: "shared"},
			{Of: "warm", Integration: "cspi", References: 1},
			{Of: "failing", Integration: "cspi", References: 1, Took: time.Second},
			{Of: "failing", Took: time.Second, Own: true, Reason: secret.ReasonStoreThrottled},
			{Of: "failed before", Integration: "cspi", References: 1},
			{Of: "failed before", Reason: secret.ReasonStoreThrottled},
			{Of: "no integration"}, // the caller's text is left out
			{Of: "no reference", Integration: "cspi", References: 1},
		}
		slices.SortStableFunc(got, func(a, b said) int { // the first two spans end at the same time
			place := func(s said) int { return slices.IndexFunc(want, func(w said) bool { return w.Of == s.Of }) }
			return place(a) - place(b)
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
