package azurekv

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// BenchmarkNeighbour reads a healthy vault, which takes 2 ms to respond, while 200
// callers keep requesting secrets of a failing vault of the same integration.
func BenchmarkNeighbour(b *testing.B) {
	all := misbehaviours()
	bad := map[string]misbehaviour{"none": {}}
	for _, name := range []string{"black hole", "slow header", "reset storm", "429, no wait", "down", "500"} {
		bad[name] = all[name]
	}
	for name, m := range bad {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			f := newFake(b)
			f.vault = func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(2 * time.Millisecond)
				f.answer(w, r, "", 0)
			}
			if m.begin != nil {
				m.begin(f, vaultHost)
			}
			set := f.set(f.Config())
			in := f.integration()
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			if m.begin != nil {
				db := providertest.Ref(b, vaultURL+"::db")
				for range 200 {
					wg.Go(func() {
						for ctx.Err() == nil {
							once, done := context.WithTimeout(ctx, 10*time.Second)
							_, err := set.Fetch(once, in, db)
							done()
							wait := min(secret.AsError(err).RetryAfter, time.Second)
							select {
							case <-time.After(max(wait, 100*time.Millisecond)):
							case <-ctx.Done():
							}
						}
					})
				}
			}
			good := providertest.Ref(b, otherURL+"::db")
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := set.Fetch(ctx, in, good); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			ms := func(q float64) float64 {
				return took[int(q*float64(len(took)-1))].Seconds() * 1000
			}
			b.ReportMetric(ms(.5), "p50-ms")
			b.ReportMetric(ms(.99), "p99-ms")
			b.ReportMetric(ms(1), "max-ms")
			cancel()
			wg.Wait()
		})
	}
}
