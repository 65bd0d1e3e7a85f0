package replica

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var password = Key{Integration: "it", Store: "https://my-vault.vault.azure.net", Name: "password"}

func replicas(t *testing.T, notified bool, test func(t *testing.T, d *database, a, b *broker)) {
	synctest.Test(t, func(t *testing.T) {
		d := newDatabase()
		test(t, d, d.join(t, "a", notified), d.join(t, "b", notified))
	})
}

// TestSeenElsewhere: a version that one replica has seen is not answered any more by the
// other, within 1 s without notifications, and within 50 ms with them; what is known costs
// no write.
func TestSeenElsewhere(t *testing.T) {
	for notified, within := range map[bool]time.Duration{true: 50 * time.Millisecond, false: time.Second} {
		replicas(t, notified, func(t *testing.T, d *database, a, b *broker) {
			a.read(password, "v1", time.Millisecond)
			time.Sleep(time.Second)
			b.read(password, "v1", time.Millisecond)
			other := password
			other.Integration = "other"
			b.read(other, "v1", time.Millisecond)
			time.Sleep(time.Second)
			writes, _ := d.counts()
			a.read(password, "v1", time.Millisecond)
			time.Sleep(time.Second)
			if now, _ := d.counts(); now != writes || b.has(password) != "v1" {
				t.Errorf("a known version was written")
			}
			a.read(password, "v2", time.Millisecond)
			time.Sleep(within)
			if b.has(password) != "" || a.has(password) != "v2" || b.hints == 0 {
				t.Errorf("notified=%v: a has %q, b has %q, %d hints", notified, a.has(password), b.has(password), b.hints)
			}
			if b.has(other) != "v1" {
				t.Error("the secret of another integration was dropped")
			}
			b.read(password, "v2", time.Millisecond)
			time.Sleep(time.Second)
			if a.has(password) != "v2" || b.has(password) != "v2" {
				t.Error("a version that both have was dropped")
			}
		})
	}
}

// TestReadInFlight: a read that began before another replica's ended is not kept, whichever
// of them is first.
func TestReadInFlight(t *testing.T) {
	replicas(t, true, func(t *testing.T, _ *database, a, b *broker) {
		var kept bool
		var reading sync.WaitGroup
		reading.Go(func() { kept = b.read(password, "v1", 10*time.Second) })
		time.Sleep(time.Second)
		a.read(password, "v2", 5*time.Second)
		reading.Wait()
		if kept {
			t.Error("b kept a read that began before a's ended")
		}
		time.Sleep(time.Second)
		if got := a.has(password); got != "" {
			t.Errorf("a kept %q, whose read overlaps with b's later one", got)
		}
		a.read(password, "v2", time.Millisecond)
		b.read(password, "v2", time.Millisecond)
		time.Sleep(time.Minute)
		if a.has(password) != "v2" || b.has(password) != "v2" {
			t.Errorf("a has %q, b has %q", a.has(password), b.has(password))
		}
	})
}

// TestLaterReadIsKept: a read that began after the other replica's had ended stays.
func TestLaterReadIsKept(t *testing.T) {
	replicas(t, false, func(t *testing.T, d *database, a, b *broker) {
		a.read(password, "v1", time.Millisecond)
		time.Sleep(10 * time.Millisecond)
		b.read(password, "v2", time.Millisecond)
		time.Sleep(2 * time.Second)
		if a.has(password) != "" || b.has(password) != "v2" {
			t.Errorf("a has %q, b has %q", a.has(password), b.has(password))
		}
	})
}

// TestRestart: a replica that starts with an empty cache tells the others what it reads, and
// knows what they have seen.
func TestRestart(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		a.read(password, "v1", time.Millisecond)
		b.read(password, "v1", time.Millisecond)
		b.stop()
		if _, n := d.counts(); n != 1 {
			t.Error("a replica that has stopped left its lease")
		}
		time.Sleep(time.Minute)
		c := d.join(t, "b", true)
		if version, ok := c.Known(password); !ok || version != "v1" {
			t.Errorf("a replica that has started knows the version %q (%t)", version, ok)
		}
		if _, ok := c.Known(Key{Integration: "it", Name: "never read"}); ok {
			t.Error("a replica knows a secret that no replica has read")
		}
		c.read(password, "v2", time.Millisecond)
		time.Sleep(100 * time.Millisecond)
		if a.has(password) != "" {
			t.Error("a answers the old version after b has restarted and seen the new one")
		}
	})
}

// TestDatabaseAway: without the database nothing waits, and both replicas learn of what the
// other has seen when it is back. A late write of an old read does not replace a later one.
func TestDatabaseAway(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		a.read(password, "v1", time.Millisecond)
		b.read(password, "v1", time.Millisecond)
		time.Sleep(time.Second)
		d.mu.Lock()
		d.down = errors.New("no route to host")
		d.mu.Unlock()
		start := time.Now()
		a.read(password, "v2", time.Millisecond)
		if time.Since(start) > time.Millisecond {
			t.Error("the read waited for the database")
		}
		time.Sleep(time.Minute)
		b.read(password, "v3", time.Millisecond)
		time.Sleep(time.Minute)
		if b.has(password) != "v3" || len(b.Stats().Problems) == 0 || b.Stats().Pending != 1 {
			t.Errorf("b has %q, %+v", b.has(password), b.Stats())
		}
		if c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v2", Began: time.Now(), Ended: time.Now()}}); c.State != Unknown {
			t.Errorf("without the database: %+v", c)
		}
		d.mu.Lock()
		d.down = nil
		d.mu.Unlock()
		time.Sleep(10 * time.Second)
		if a.has(password) != "" || b.has(password) != "v3" || len(a.Stats().Problems)+len(b.Stats().Problems)+b.Stats().Pending != 0 {
			t.Errorf("a has %q, b has %q, %+v", a.has(password), b.has(password), b.Stats())
		}
	})
}

// TestPrunedBeforeSeen: a replica that was away while rows were deleted forgets everything.
func TestPrunedBeforeSeen(t *testing.T) {
	replicas(t, false, func(t *testing.T, d *database, a, b *broker) {
		b.read(password, "v1", time.Millisecond)
		time.Sleep(time.Second)
		a.read(password, "v2", time.Millisecond)
		for d.written(password) != "v2" {
			time.Sleep(time.Millisecond)
		}
		d.mu.Lock()
		d.pruned = d.seq
		clear(d.rows)
		d.mu.Unlock()
		time.Sleep(time.Second)
		if got := b.has(password); got != "" {
			t.Errorf("b has %q", got)
		}
	})
}

// TestClockJumps: a jump of the database's clock between the write and the poll does not
// make a replica keep an old version, nor read all the time.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		replicas(t, false, func(t *testing.T, d *database, a, b *broker) {
			a.read(password, "v1", time.Millisecond)
			b.read(password, "v1", time.Millisecond)
			time.Sleep(time.Minute)
			a.read(password, "v2", time.Millisecond)
			for d.written(password) != "v2" {
				time.Sleep(time.Millisecond)
			}
			d.mu.Lock()
			d.clock += jump
			d.mu.Unlock()
			time.Sleep(time.Second)
			if got := b.has(password); got != "" {
				t.Errorf("%v: b has %q", jump, got)
			}
			if c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v2", Began: time.Now(), Ended: time.Now()}}); c.State != Unknown {
				t.Errorf("%v: right after the jump: %+v", jump, c)
			}
			b.read(password, "v2", time.Millisecond)
			time.Sleep(time.Minute)
			b.read(password, "v3", time.Millisecond)
			time.Sleep(time.Minute)
			if a.has(password) != "" || b.has(password) != "v3" {
				t.Errorf("%v: a has %q, b has %q", jump, a.has(password), b.has(password))
			}
			if c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v3", Began: time.Now(), Ended: time.Now()}}); c.State != AllReplicas {
				t.Errorf("%v: later: %+v", jump, c)
			}
		})
	}
}

// TestAlternatingVersions: two replicas that see versions in turns do not read in a loop, and
// a drop that was delayed takes effect.
func TestAlternatingVersions(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		reads := 0
		for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			for n, r := range []*broker{a, b} { // each sees its own version
				if r.has(password) == "" {
					r.read(password, fmt.Sprint("v", n), time.Millisecond)
					reads++
				}
			}
		}
		// Each drop causes a read: at first the burst, then one per dropInterval.
		if most := 2 * (dropBurst + 10*60/30 + 2); reads > most {
			t.Errorf("%d reads in ten minutes, expected at most %d", reads, most)
		}
		if reads < 10 {
			t.Errorf("only %d reads: the drops were not delayed but lost", reads)
		}
		// The store becomes consistent.
		for range 100 {
			time.Sleep(time.Second)
			for _, r := range []*broker{a, b} {
				if r.has(password) == "" {
					r.read(password, "v9", time.Millisecond)
				}
			}
			a.read(password, "v9", time.Millisecond)
		}
		if a.has(password) != "v9" || b.has(password) != "v9" {
			t.Errorf("at last a has %q and b has %q", a.has(password), b.has(password))
		}
	})
}

// TestConfirmAfterLaterRead: a refresh that has waited for other reads before it tells the
// replicas of this one does not replace a version that was read meanwhile.
func TestConfirmAfterLaterRead(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		began := time.Now()
		a.read(password, "v1", time.Millisecond)
		ended := time.Now()
		time.Sleep(time.Second)
		b.read(password, "v2", time.Millisecond)
		time.Sleep(time.Second)
		if c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: began, Ended: ended}}); c.State != AllReplicas {
			t.Errorf("%+v", c)
		}
		time.Sleep(time.Second)
		if a.has(password) != "" || b.has(password) != "v2" || d.written(password) != "v2" {
			t.Errorf("a has %q, b has %q, the row has %q", a.has(password), b.has(password), d.written(password))
		}
	})
}

// TestConfirm: a refresh makes the others drop what they have read before, whatever its
// version is, and names those that do not acknowledge it.
func TestConfirm(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		b.read(password, "v1", time.Millisecond)
		time.Sleep(time.Minute)
		refresh := func() (Coverage, time.Duration) {
			began := time.Now()
			a.read(password, "v1", time.Millisecond)
			c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: began, Ended: time.Now()}, {Key: password, Version: "v1", Began: began, Ended: time.Now()}})
			return c, time.Since(began)
		}
		c, took := refresh()
		if c.State != AllReplicas || took > 200*time.Millisecond {
			t.Errorf("%+v after %v", c, took)
		}
		if b.has(password) != "" || a.has(password) != "v1" {
			t.Errorf("a has %q, b has %q", a.has(password), b.has(password))
		}
		b.read(password, "v1", time.Millisecond)
		time.Sleep(time.Minute)
		if b.has(password) != "v1" {
			t.Error("b does not keep a read after the refresh")
		}

		// A process that ends without notice, and one that hangs, look alike.
		dead := d.join(t, "c", false)
		dead.stopSilently(d)
		c, took = refresh()
		if c.State != SomeReplicas || len(c.Behind) != 1 || c.Behind[0].Name != "c" || took < confirmTime || took > confirmTime+100*time.Millisecond {
			t.Errorf("a dead replica: %+v after %v", c, took)
		}
		time.Sleep(time.Minute) // its lease has expired; it may run without the database
		if c, took = refresh(); c.State != SomeReplicas || took > time.Second {
			t.Errorf("an expired lease: %+v after %v", c, took)
		}
		time.Sleep(20 * time.Minute) // it would not answer calls any more
		if c, _ = refresh(); c.State != AllReplicas {
			t.Errorf("after a longer time than a replica serves alone: %+v", c)
		}

		// A successor of the same name deletes the lease.
		d.mu.Lock()
		d.leases[dead.ID()] = &lease{Lease: Lease{ID: dead.ID(), Name: "c"}, expires: d.now(), serves: d.now() + time.Hour}
		d.mu.Unlock()
		time.Sleep(time.Second)
		successor := d.join(t, "c", true)
		if c, _ = refresh(); c.State != AllReplicas {
			t.Errorf("with a successor: %+v", c)
		}
		successor.stop()
		if c, took = refresh(); c.State != AllReplicas || took > 200*time.Millisecond {
			t.Errorf("after a restart: %+v after %v", c, took)
		}
		d.mu.Lock()
		d.slow = 3 * time.Second
		d.mu.Unlock()
		if c, took = refresh(); c.State != Unknown || took > confirmTime+100*time.Millisecond {
			t.Errorf("a slow database: %+v after %v", c, took)
		}
	})
}

// TestDetached: a replica whose lease was not renewed for ServesFor knows it.
func TestDetached(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, _ *broker) {
		d.mu.Lock()
		d.down = errors.New("down")
		d.mu.Unlock()
		time.Sleep(15*time.Minute - renewInterval)
		if a.Detached() {
			t.Error("too early")
		}
		time.Sleep(renewInterval + time.Second)
		if !a.Detached() {
			t.Error("too late")
		}
		d.mu.Lock()
		d.down = nil
		d.mu.Unlock()
		time.Sleep(5 * time.Second)
		if a.Detached() {
			t.Error("the lease was not renewed")
		}
	})
}

// TestPending: the sightings in memory are bounded, and written in few writes.
func TestPending(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		for i := range maxPending + 5 {
			a.Saw(Key{Integration: "it", Name: fmt.Sprint(i)}, "", "v")
		}
		a.Saw(Key{Integration: "it", Name: "nul\x00"}, "", "v")
		a.Saw(Key{Integration: "it", Name: "utf8\xff"}, "", "v")
		if s := a.Stats(); s.Pending != maxPending || s.Lost != 5 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Minute)
		writes, _ := d.counts()
		if s := b.Stats(); s.Rows != maxPending || writes != maxPending/chunk {
			t.Errorf("%+v after %d writes", s, writes)
		}
	})
}
