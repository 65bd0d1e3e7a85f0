package usage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"testing/synctest"
	"time"

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

// fill records uses of integration a until each shard has n entries.
func fill(r *Recorder, n int) {
	for i, full := 0, 0; full < shards; i++ {
		name := fmt.Sprint("secret-", i)
		read := readOf("dns:p", "", "a", secret.Ref{Store: ref.Store, Name: name}, "v1")
		r.note(&read, false)
		k := string(appendKey(nil, &read))
		switch s := &r.shards[maphash.String(r.seed, k)%shards]; len(s.entries) {
		case n:
			full++
		case n + 1:
			delete(s.entries, k)
			r.entries.Add(-1)
		}
	}
}

// useAll uses all entries again.
func useAll(r *Recorder) {
	now := time.Now().UnixNano()
	for i := range r.shards {
		for _, e := range r.shards[i].entries {
			if e.last = now; e.first == 0 {
				e.first = now
			}
		}
	}
}

// TestSlowFlushesGetThrough: a flush to a slow store ends within its time limit, the batches
// that it wrote stay written, and the next flushes write the rest, also if the number of
// shards is a multiple of those that a flush gets through.
func TestSlowFlushesGetThrough(t *testing.T) {
	for _, perShard := range []int{batchSize / 2, batchSize/2 - 24} {
		synctest.Test(t, func(t *testing.T) {
			store := &slow{Memory: NewMemory(1 << 20), each: 3 * time.Second}
			r := New(Config{Store: store})
			fill(r, perShard)
			for n := range 11 { // 3 batches of 2 shards at least, of 64
				useAll(r) // meanwhile all secrets are used again
				begin := time.Now()
				if err := r.Flush(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != writeTime {
					t.Fatalf("flush %d: %v after %v", n, err, time.Since(begin))
				}
			}
			got, err := store.Usage(t.Context(), "a", time.Time{}, 0)
			if err != nil || len(got) != r.Entries() || len(got) != shards*perShard {
				t.Errorf("%d entries in a shard: %d of %d entries are written, %v", perShard, len(got), r.Entries(), err)
			}
			for _, n := range store.batches {
				if n > 2*batchSize {
					t.Errorf("a batch of %d entries", n)
				}
			}
		})
	}
}

// refusing is a Memory that refuses the batches with one secret.
type refusing struct {
	*Memory
	name string
}

func (s *refusing) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	if slices.ContainsFunc(batch, func(u registry.Usage) bool { return u.Secret == s.name }) {
		return errors.New("refused")
	}
	return s.Memory.MergeUsage(ctx, batch)
}

// TestRefusedBatch: a batch that the store always refuses does not keep the others from being
// written.
func TestRefusedBatch(t *testing.T) {
	store := &refusing{Memory: NewMemory(1 << 20), name: "secret-1"}
	r := New(Config{Store: store})
	fill(r, batchSize/2)
	for range 4 {
		if err := r.Flush(t.Context()); err == nil {
			t.Fatal("the store accepted the batch")
		}
	}
	if got, err := store.Usage(t.Context(), "a", time.Time{}, 0); err != nil || len(got) != r.Entries()-batchSize {
		t.Errorf("%d of %d entries are written, %v", len(got), r.Entries(), err)
	}
}

// TestInMemory: InMemory returns unwritten uses without the store, also during a flush.
func TestInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slow{Memory: NewMemory(0), each: 3 * time.Second}
		r := New(Config{Store: store})
		begin := time.Now()
		r.Used(readOf(worker, "sink", "a", ref, "v1"))
		r.Used(readOf(worker, "sink", "ab", ref, "v1"))
		time.Sleep(time.Second)
		r.Used(readOf(worker, "later", "a", ref, "v1"))
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
