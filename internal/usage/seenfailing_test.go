package usage

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// unseeing is a Memory that stores no versions of secrets.
type unseeing struct{ *Memory }

func (unseeing) MergeSeen(context.Context, []registry.Seen) error { return errors.New("refused") }

// TestUsesWithoutSeen: uses are written although the versions of secrets cannot be.
func TestUsesWithoutSeen(t *testing.T) {
	store := unseeing{NewMemory(1 << 20)}
	r := New(Config{Store: store})
	r.Seen(registry.Seen{Integration: "a", Store: ref.Store, Secret: ref.Name, Version: "v1", ReadAt: time.Now()})
	r.UsedIntegration("dns:p", "a", "")
	if err := r.Flush(t.Context()); err == nil {
		t.Error("the flush reports no failure")
	}
	if got, err := store.Usage(t.Context(), "a", time.Time{}, 0); err != nil || len(got) != 1 {
		t.Errorf("%d uses are written, %v", len(got), err)
	}
}
