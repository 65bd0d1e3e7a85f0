package sqlstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// The bounds of the wait before the next attempt to listen for notices.
const (
	minRelisten = 100 * time.Millisecond
	maxRelisten = 5 * time.Second
)

// pruneInterval is how often usage that is too old is deleted.
const pruneInterval = time.Hour

// resealPause is the pause after credentials could not be sealed again.
const resealPause = time.Minute

// Run implements registry.Store. The loop that looks for changes does nothing else,
// so that nothing which hangs keeps it from looking; each other duty has a goroutine
// of its own. Notices of the database only wake the loop up: what it goes by is what
// it then reads, and it also reads without any.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var duties sync.WaitGroup
	defer duties.Wait() // after cancel, as deferred calls go
	defer cancel()
	notices := make(chan struct{}, 1)
	if s.listen != nil {
		duties.Go(func() { s.keepListening(ctx, notices) })
	}
	duties.Go(func() { s.resealUntilDone(ctx) })
	duties.Go(func() { every(ctx, filesInterval, s.checkFiles) })
	duties.Go(func() { every(ctx, s.cfg.upkeep, func() { s.prune(ctx) }) })
	duties.Go(func() { every(ctx, s.cfg.probing, func() { s.probe(ctx) }) })
	poll := time.NewTicker(s.cfg.PollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notices:
			_ = s.follow(ctx, true) // which notes what fails
		case <-poll.C:
			_ = s.follow(ctx, false) // as above
		}
	}
}

// every does something at about that interval, until ctx ends. Replicas that start
// together do not keep in step.
func every(ctx context.Context, interval time.Duration, do func()) {
	for sleep(ctx, interval-interval/10+rand.N(interval/5)) { //nolint:gosec // hides nothing
		do()
	}
}

// sleep waits and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// resealUntilDone seals credentials with the current key, as after a change of keys
// while the broker was stopped.
func (s *Store) resealUntilDone(ctx context.Context) {
	for {
		_, err := s.Reseal(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.cfg.Logger.Error("credentials are not sealed with the current key", "error", err)
		if !sleep(ctx, resealPause) {
			return
		}
	}
}

// keepListening listens for notices, again whenever the connection has broken or is
// old enough.
func (s *Store) keepListening(ctx context.Context, notices chan<- struct{}) {
	wake := func() {
		select {
		case notices <- struct{}{}:
		default: // one is waiting already
		}
	}
	wait := minRelisten
	warned := false
	for ctx.Err() == nil {
		err := s.listen(ctx, wake)
		if err == nil {
			wait, warned = minRelisten, false
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !warned {
			warned = true
			s.cfg.Logger.Warn("no notices of changes from the integrations' database, polling only", "error", err)
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, maxRelisten)
	}
}
