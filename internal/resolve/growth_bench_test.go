package resolve_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/usage"
)

// BenchmarkResolveGrowth measures how the CPU time of a call that is answered from the cache
// grows with the number of cached secrets, which the calls request in turn, and with the
// number of configs in a call. It records usage as the broker does.
func BenchmarkResolveGrowth(b *testing.B) {
	for _, c := range []struct{ secrets, configs int }{
		{10, 2}, {10_000, 2}, {100_000, 2}, {64, 8}, {64, 64},
	} {
		b.Run(fmt.Sprintf("secrets=%d/configs=%d", c.secrets, c.configs), func(b *testing.B) {
			benchmarkGrowth(b, c.secrets, c.configs)
		})
	}
}

func benchmarkGrowth(b *testing.B, secrets, configs int) {
	store := &fakeStore{secrets: make(map[string]string, secrets)}
	for i := range secrets {
		store.secrets[fmt.Sprintf("db-secret-%d", i)] = `{"user":"dbadmin","password":"correct-horse-battery-staple"}`
	}
	uses := usage.New(usage.Config{Store: usage.NewMemory(0), MaxEntries: 1 << 20})
	r, who := newBenchmark(b, store, uses.Used)
	names := make([]string, configs)
	for c := range names {
		names[c] = fmt.Sprintf("connection.config-%d", c)
	}
	req := resolve.Request{ID: "0123456789abcdef0123456789abcdef", IntegrationID: "cspi", Connector: "orders-sink", Configs: make(map[string]string, configs)}
	call := func(i int) {
		// Make new strings for each request, as a decoder does; they are then in the CPU's cache.
		for c, name := range names {
			of, key := i, "::password"
			if configs > 2 { // a secret for each config, otherwise two members of one
				of += c
			} else if c == 0 {
				key = "::user"
			}
			req.Configs[name] = vault + "::db-secret-" + strconv.Itoa(of%secrets) + key
		}
		res, err := r.Resolve(b.Context(), who, req)
		if err != nil {
			b.Fatal(err)
		}
		res.Wipe()
	}
	for i := range secrets {
		call(i)
	}
	b.ReportAllocs()
	before := cpuTime()
	for i := 0; b.Loop(); i += 7919 { // a prime, so that neighbors in memory do not follow each other
		call(i)
	}
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
}
