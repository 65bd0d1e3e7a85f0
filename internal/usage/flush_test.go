package usage

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// slow is a Memory that needs some time for each batch.
type slow struct {
	*Memory
	each    time.Duration
	batches []int
}

func (s *slow) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.each):
		s.batches = append(s.batches, len(batch))
		return s.Memory.MergeUsage(ctx, batch)
	}
}

// fillWith records that each of 8 principals uses 8,192 secrets of integration a.
func fillWith(r *Recorder) {
	for p := range shareOf {
		for i := range r.cfg.MaxEntries / shareOf {
			r.note(authz.Principal(fmt.Sprint("dns:", p)), "", "a", "", "g", &secret.Ref{Store: ref.Store, Name: fmt.Sprint(p, "-", i)}, "v1", false)
		}
	}
}

// TestSlowFlushesGetThrough: a flush to a slow store ends within its time limit, the batches
// that it wrote stay written, and the next flushes write the rest.
func TestSlowFlushesGetThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slow{Memory: NewMemory(1 << 20), each: 3 * time.Second}
		r := New(Config{Store: store})
		fillWith(r)
		for n := range 15 {
			fillWith(r) // meanwhile all secrets are used again
			begin := time.Now()
			if err := r.Flush(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != writeTime {
				t.Fatalf("flush %d: %v after %v", n, err, time.Since(begin))
			}
		}
		got, err := store.Usage(t.Context(), "a", time.Time{}, 0)
		if err != nil || len(got) != r.Entries() || len(got) < 60_000 {
			t.Errorf("%d of %d entries are written, %v", len(got), r.Entries(), err)
		}
		for _, n := range store.batches {
			if n > 2*batchSize {
				t.Errorf("a batch of %d entries", n)
			}
		}
	})
}

// TestInMemory: InMemory returns unwritten uses without the store, also during a flush.
func TestInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slow{Memory: NewMemory(0), each: 3 * time.Second}
		r := New(Config{Store: store})
		begin := time.Now()
		r.Used(worker, "sink", "a", "", "g", ref, "v1")
		r.Used(worker, "sink", "ab", "", "g", ref, "v1")
		time.Sleep(time.Second)
		r.Used(worker, "later", "a", "", "g", ref, "v1")
		flushed := make(chan error)
		go func() { flushed <- r.Flush(t.Context()) }()
		synctest.Wait() // the flush waits in the store
		got := r.InMemory("a", "", begin)
		if len(got) != 2 || got[0].Connector != "later" || got[1].Connector != "sink" || got[1].Principal != worker || !got[1].LastAt.Equal(begin) {
			t.Errorf("got %+v", got)
		}
		if got := r.InMemory("a", "", begin.Add(time.Second)); len(got) != 1 {
			t.Errorf("got %+v", got)
		}
		if got := r.InMemory("b", "", begin); len(got) != 0 {
			t.Errorf("got %+v", got)
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	})
}
