package replica

import (
	"testing"
	"time"
)

// BenchmarkDetached measures the check of the lease that each call makes.
func BenchmarkDetached(b *testing.B) {
	t := New(Config{ServesFor: time.Hour})
	now := time.Now()
	t.renewed.Store(&now)
	b.ReportAllocs()
	for b.Loop() {
		if t.Detached() {
			b.Fatal("detached")
		}
	}
}
