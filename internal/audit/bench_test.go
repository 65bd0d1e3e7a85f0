package audit

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

var benchEvents = []Event{{
	Type: TypeAccess, Time: time.Now(), RequestID: "r1", Method: "Resolve", Principal: "spiffe://example.org/w", IntegrationID: "i", Connector: "c",
	Config: "password", Reference: "https://my-vault.vault.azure.net::s", Store: "https://my-vault.vault.azure.net", Secret: "s", Outcome: Served, Version: "v", Source: "hit",
}}

// BenchmarkWrite measures the cost of a record with concurrent calls, and the latency of
// a call at the 50th and 99th percentile.
func BenchmarkWrite(b *testing.B) {
	key := testKey(b, "k")
	for _, c := range []struct {
		name string
		cfg  Config
	}{{"none", Config{}}, {"none-keyed", Config{Key: key}}, {"batch", Config{Sync: true}}} {
		for _, calls := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("sync=%s/calls=%d", c.name, calls), func(b *testing.B) {
				cfg := c.cfg
				cfg.Path = filepath.Join(b.TempDir(), "audit.jsonl")
				l := open(b, cfg)
				var (
					wg    sync.WaitGroup
					mu    sync.Mutex
					waits []time.Duration
				)
				b.ReportAllocs()
				b.ResetTimer()
				for i := range calls {
					wg.Go(func() {
						mine := make([]time.Duration, 0, b.N/calls+1)
						for range b.N/calls + min(1, max(0, b.N%calls-i)) {
							start := time.Now()
							if err := l.Write(context.Background(), benchEvents); err != nil {
								b.Error(err)
								return
							}
							mine = append(mine, time.Since(start))
						}
						mu.Lock()
						waits = append(waits, mine...)
						mu.Unlock()
					})
				}
				wg.Wait()
				b.StopTimer()
				slices.Sort(waits)
				b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "µs-p50")
				b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "µs-p99")
				s := l.Stats()
				b.ReportMetric(float64(s.Records)/float64(s.Batches), "records/write")
				closeLog(b, l)
			})
		}
	}
}
