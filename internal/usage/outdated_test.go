package usage

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// uncounted is a Memory that cannot count.
type uncounted struct{ *Memory }

func (uncounted) CountVersions(context.Context, int) ([]registry.VersionCount, error) {
	return nil, errors.New("the database is gone")
}

// TestCountOutdated: a use is outdated if any integration has read another version later.
func TestCountOutdated(t *testing.T) {
	m := NewMemory(0)
	now := time.Now()
	saw := func(in, store, name, version string, ago time.Duration) registry.Seen {
		return registry.Seen{Integration: in, Store: store, Secret: name, Version: version, ReadAt: now.Add(-ago)}
	}
	if err := m.MergeSeen(t.Context(), []registry.Seen{
		saw("a", "s", "db", "v1", time.Hour), saw("b", "s", "db", "v2", time.Minute), saw("a", "s", "same", "v1", time.Hour),
		saw("c", "s", "same", "v9", -time.Hour), // from a clock that is ahead
	}); err != nil {
		t.Fatal(err)
	}
	use := func(in, connector, store, name, version string) registry.Usage {
		return registry.Usage{Integration: in, Principal: worker, Connector: connector, Store: store, Secret: name, Version: version, FirstAt: now, LastAt: now}
	}
	if err := m.MergeUsage(t.Context(), []registry.Usage{
		use("a", "1", "s", "db", "v1"), use("a", "2", "alias of s", "db", "v1"), use("a", "3", "s", "db", "v2"), use("b", "1", "s", "db", "v0"),
		use("a", "1", "s", "same", "v1"), use("a", "1", "s", "never read", "v1"), {Integration: "a", Principal: worker, FirstAt: now, LastAt: now},
	}); err != nil {
		t.Fatal(err)
	}
	canonical := func(in, store string) string {
		if in == "a" && store == "alias of s" {
			return "s"
		}
		return store
	}
	if got, err := CountOutdated(t.Context(), m, canonical); err != nil || got != (Outdated{Uses: 3, Secrets: 2}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := CountOutdated(t.Context(), uncounted{m}, canonical); err == nil {
		t.Error("no error")
	}
}
