package providertest

import (
	"testing"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// Bench reads one secret repeatedly. It measures the cost of an uncached read in this
// process, including the fake store, and the number of requests per read.
func Bench(b *testing.B, h Harness) {
	w := h.Start(b)
	text := canary
	if w.Document != nil {
		text = w.Document(text)
	}
	w.Put(b, "db", []byte(text))
	p, err := w.Opener(b.Context(), w.Integration)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			b.Error(err)
		}
	}()
	ref, err := secret.ParseRef(w.Ref("db"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := p.Fetch(b.Context(), ref); err != nil { // includes the first login
		b.Fatal(err)
	}
	before, spent := w.Reads(), processorTime()
	b.ReportAllocs()
	for b.Loop() {
		got, err := p.Fetch(b.Context(), ref)
		if err != nil {
			b.Fatal(err)
		}
		got.Release()
	}
	b.ReportMetric(float64(processorTime()-spent)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(w.Reads()-before)/float64(b.N), "reads/op")
}
