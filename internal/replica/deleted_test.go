package replica

import (
	"sync"
	"testing"
	"time"
)

// TestDeletedElsewhere: a secret that is deleted is not answered by another replica any more,
// and is when it is restored. A secret that no replica has read is not shared.
func TestDeletedElsewhere(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		a.SawNone(Key{Integration: "it", Name: "missing"}, "")
		time.Sleep(time.Second)
		if writes, _ := d.counts(); writes != 0 {
			t.Errorf("%d writes about a secret that was never read", writes)
		}
		a.read(password, "v1", time.Millisecond)
		b.read(password, "v1", time.Millisecond)
		time.Sleep(time.Second)
		var kept bool
		var reading sync.WaitGroup
		reading.Go(func() { kept = b.read(password, "v1", 10*time.Second) })
		time.Sleep(time.Second)
		for range 3 {
			a.SawNone(password, "")
			time.Sleep(50 * time.Millisecond)
		}
		if b.has(password) != "" || b.hints == 0 {
			t.Errorf("b has %q", b.has(password))
		}
		writes, _ := d.counts()
		reading.Wait()
		if kept {
			t.Error("b kept a read that began before a found that the secret is deleted")
		}
		b.SawNone(password, "")
		time.Sleep(time.Second)
		// The read that is not kept was written: it ended later.
		if now, _ := d.counts(); now > writes+2 {
			t.Errorf("%d writes", now-writes)
		}
		a.read(password, "v1", time.Millisecond)
		time.Sleep(time.Second)
		b.read(password, "v1", time.Millisecond)
		time.Sleep(time.Minute)
		if a.has(password) != "v1" || b.has(password) != "v1" || d.written(password) != "v1" {
			t.Errorf("a has %q, b has %q, the row %q", a.has(password), b.has(password), d.written(password))
		}
	})
}
