package manage_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// slowUsage needs a second to answer LastUsed, or fails.
type slowUsage struct {
	registry.UsageStore
	reads int
	at    time.Time
	err   error
}

func (u *slowUsage) LastUsed(context.Context) (map[string]time.Time, error) {
	u.reads++
	at, err := u.at, u.err
	time.Sleep(time.Second)
	return map[string]time.Time{"cspi": at}, err
}

// Reads of integrations share one read of the usage in ten seconds. The first ones wait
// for it; later ones are answered with the last result, also while the store hangs or fails.
func TestLastUsedIsShared(t *testing.T) {
	b := newSampleBench(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		usage := &slowUsage{UsageStore: b.store, at: began.Add(-time.Hour)}
		cfg := b.cfg
		cfg.Usage, cfg.Now = usage, time.Now
		s := manage.New(cfg)
		unused := func() (n int) {
			all, _, err := s.List(t.Context(), as(orgAuditor), manage.ListOptions{Filter: "unused"})
			if err != nil {
				t.Error(err)
			}
			return len(all)
		}
		check := func(after time.Duration, want time.Time, reads int) {
			t.Helper()
			in, err := s.Get(t.Context(), as(orgAuditor), "cspi")
			if err != nil || !in.LastUsedAt.Equal(want) || usage.reads != reads || time.Since(began) != after {
				t.Errorf("last used %v after %v and %d reads, %v; want %v after %v and %d", in.LastUsedAt, time.Since(began), usage.reads, err, want, after, reads)
			}
		}
		var others sync.WaitGroup
		for range 3 {
			others.Go(func() { check(time.Second, usage.at, 1) })
		}
		others.Wait()
		first := usage.at
		usage.at = began
		time.Sleep(8 * time.Second)
		check(9*time.Second, first, 1)
		time.Sleep(time.Second)
		others.Go(func() { check(11*time.Second, began, 2) })
		synctest.Wait()
		check(10*time.Second, first, 2) // does not wait
		others.Wait()
		usage.err = errors.New("no database")
		time.Sleep(19 * time.Second)
		check(31*time.Second, began, 3)
		if n := unused(); n != 0 {
			t.Errorf("%d unused integrations", n)
		}
		time.Sleep(48 * time.Hour)
		if n := unused(); n != 1 {
			t.Errorf("%d unused integrations after two days, want 1", n)
		}
		s = manage.New(cfg)
		if n := unused(); n != 0 {
			t.Errorf("%d integrations of unknown use are unused", n)
		}
	})
}
