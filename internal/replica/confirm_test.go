package replica

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestManyConfirms: however many calls of Confirm wait for a replica that has ended without
// notice, the database gets few writes at the same time and few queries.
func TestManyConfirms(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		const calls = 100
		b.stopSilently(d)
		d.mu.Lock()
		d.slow, d.looks, d.most = 5*time.Millisecond, 0, 0
		d.mu.Unlock()
		states := make([]CoverageState, calls)
		var confirming sync.WaitGroup
		began := time.Now()
		for i := range calls {
			confirming.Go(func() {
				k := password
				k.Name = fmt.Sprint("s", i)
				states[i] = a.Confirm(t.Context(), []Read{{Key: k, Version: "v1", Began: began, Ended: time.Now()}}).State
			})
		}
		confirming.Wait()
		took := time.Since(began)
		for i, s := range states {
			if s != SomeReplicas {
				t.Errorf("call %d: state %d", i, s)
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if most := confirmWrites + 1; d.most > most { // and the writer
			t.Errorf("%d writes at the same time, at most %d expected", d.most, most)
		}
		if most := int(took/ackInterval) + 2; d.looks > most {
			t.Errorf("%d looks at the leases in %v, at most %d expected", d.looks, took, most)
		}
	})
}

// TestMirrorIsPruned: a replica forgets what was deleted from the table, and writes it again
// when it reads it again.
func TestMirrorIsPruned(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		for i := range 10 {
			k := password
			k.Name = fmt.Sprint("s", i)
			a.read(k, "v1", time.Millisecond)
			time.Sleep(time.Second)
		}
		d.mu.Lock()
		for id, row := range d.rows {
			if row.Name != "s9" {
				d.pruned = max(d.pruned, row.Seq)
				delete(d.rows, id)
			}
		}
		d.mu.Unlock()
		time.Sleep(2 * pruneInterval)
		if got, other := a.Stats().Rows, b.Stats().Rows; got != 1 || other != 1 {
			t.Errorf("%d and %d rows in the mirrors, want 1", got, other)
		}
		b.read(Key{password.Integration, password.Store, "s0", ""}, "v2", time.Millisecond)
		time.Sleep(time.Second)
		if a.has(Key{password.Integration, password.Store, "s0", ""}) != "" {
			t.Error("the other replica has an older version")
		}
	})
}

// stopSilently ends a replica and leaves its lease.
func (b *broker) stopSilently(d *database) {
	d.mu.Lock()
	lease := *d.leases[b.ID()]
	d.mu.Unlock()
	b.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases[b.ID()] = &lease
}

// TestConfirmTwoReadsOfOneSecret: of two reads of a secret, the later one is confirmed,
// whatever their order in the call is.
func TestConfirmTwoReadsOfOneSecret(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		for _, order := range [][2]int{{0, 1}, {1, 0}} {
			var reads [2]Read
			reads[0] = Read{Key: password, Version: "v1", Began: time.Now(), Ended: time.Now().Add(time.Millisecond)}
			time.Sleep(time.Second)
			b.read(password, "v1", time.Millisecond) // older than the second read
			time.Sleep(time.Second)
			reads[1] = Read{Key: password, Version: "v2", Began: time.Now(), Ended: time.Now().Add(time.Millisecond)}
			time.Sleep(10 * time.Millisecond)
			if c := a.Confirm(t.Context(), []Read{reads[order[0]], reads[order[1]]}); c.State != AllReplicas {
				t.Errorf("%+v", c)
			}
			if got := b.has(password); got != "" || d.written(password) != "v2" {
				t.Errorf("order %v: the other replica has %q, the row %q", order, got, d.written(password))
			}
			time.Sleep(10 * time.Minute)
		}
	})
}

// TestConfirmAfterLaterConfirm: the confirmation of a read, which comes after that of a later
// read of another replica, is acknowledged at once, although there is nothing left to drop.
func TestConfirmAfterLaterConfirm(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		for range 5 {
			began := time.Now()
			time.Sleep(time.Second)
			for _, r := range []*broker{b, a} {
				at := began
				if r == b {
					at = time.Now()
				}
				start := time.Now()
				c := r.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: at, Ended: time.Now()}})
				if took := time.Since(start); c.State != AllReplicas || took > 200*time.Millisecond {
					t.Errorf("%+v after %v", c, took)
				}
			}
			time.Sleep(1100 * time.Millisecond)
		}
	})
}

// TestConfirmAfterLaterConfirmAndWrite: such a confirmation is also acknowledged at once if the
// replica writes another row before the other one has asked for the first.
func TestConfirmAfterLaterConfirmAndWrite(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		began := time.Now()
		time.Sleep(time.Second)
		if c := b.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: time.Now(), Ended: time.Now()}}); c.State != AllReplicas {
			t.Fatalf("%+v", c)
		}
		time.Sleep(100 * time.Millisecond)
		d.mu.Lock()
		d.slow = 50 * time.Millisecond
		d.mu.Unlock()
		other := password
		other.Name = "other"
		a.read(other, "v1", time.Millisecond) // written 10 ms later
		start := time.Now()
		c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: began, Ended: time.Now()}})
		if took := time.Since(start); c.State != AllReplicas || took > 500*time.Millisecond {
			t.Errorf("%+v after %v", c, took)
		}
	})
}
