package cache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Entries are evicted, rejected, replaced, expired and dropped at the same time, with slow
// readers: every answer is complete, and at the end no buffer of any read remains.
func TestWipingUnderPressure(t *testing.T) {
	c, s := newCache(t, Config{MaxBytes: 32 << 10, MinReadInterval: 1}), &watchedStore{size: 1000}
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			for range 1500 {
				name := fmt.Sprint("key", rnd.IntN(60))
				req := want(name)
				switch rnd.IntN(8) {
				case 0:
					req = req.noOlderThan(0)
				case 1:
					req.TTL = time.Duration(rnd.IntN(int(time.Millisecond)))
				case 2:
					c.drop(c.hash(&req.Key))
				}
				res, err := c.Get(t.Context(), req, s.loader(req.Key))
				if err != nil {
					t.Errorf("Get: %v", err)
					return
				}
				v, err := res.Secret.Select("")
				if err != nil || v.Reveal() != text(name, 1000) {
					t.Errorf("an answer is not whole (%v)", err)
				}
				v.Wipe()
				res.Secret.Release()
			}
		})
	}
	readers.Wait()
	if st := c.Stats(); st.Evictions == 0 || st.RejectedSets == 0 {
		t.Errorf("too tame: %+v", st)
	}
	c.Close()
	deadline := time.Now().Add(10 * time.Second)
	for i, sec := range s.secrets {
		for sec.Retain() { // an entry's timer may still hold a reference
			sec.Release()
			if time.Now().After(deadline) {
				t.Fatalf("read %d of %d is left", i, len(s.secrets))
			}
			runtime.Gosched()
		}
	}
}

// A hit does not allocate.
func TestHitDoesNotAllocate(t *testing.T) {
	c, s := newCache(t, Config{}), &watchedStore{size: 100}
	req, load := want("a"), s.loader(key("a"))
	s.ask(t, c, req)
	get := func() {
		res, err := c.Get(t.Context(), req, load)
		if err != nil {
			t.Fatal(err)
		}
		res.Secret.Release()
	}
	if n := testing.AllocsPerRun(1000, get); n != 0 { // AllocsPerRun rounds down: ristretto's own buffers do not count
		t.Errorf("%v allocations", n)
	}
}
