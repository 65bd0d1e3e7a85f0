package sqlstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Bounds of the backoff between attempts to listen for notifications.
const (
	minRelisten = 100 * time.Millisecond
	maxRelisten = 5 * time.Second
)

// pruneInterval is the time between two deletions of expired usage.
const pruneInterval = time.Hour

// resealPause is the pause after a failed attempt to seal credentials with the current
// key.
const resealPause = time.Minute

// Run implements registry.Store. The loop that looks for changes does nothing else, so
// that no other work can delay a look; every other duty has its own goroutine.
// Notifications from the database only trigger a look early: the Store acts only on what a
// look reads, and looks happen without notifications, too.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var duties sync.WaitGroup
	defer duties.Wait() // runs after cancel
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
			_ = s.follow(ctx, true) // follow records a failure
		case <-poll.C:
			_ = s.follow(ctx, false) // as above
		}
	}
}

// every calls do at about the given interval until ctx ends. The interval varies, so that
// replicas that start together spread their load.
func every(ctx context.Context, interval time.Duration, do func()) {
	for sleep(ctx, interval-interval/10+rand.N(interval/5)) { //nolint:gosec // needs no secrecy
		do()
	}
}

// sleep waits for d and reports whether ctx is still valid.
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

// resealUntilDone seals credentials with the current key, in case the keys changed while
// the broker was stopped.
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

// keepListening listens for notifications and reconnects whenever the connection breaks or
// reaches its lifetime.
func (s *Store) keepListening(ctx context.Context, notices chan<- struct{}) {
	wakeUp := func(c chan<- struct{}) {
		select {
		case c <- struct{}{}:
		default: // a wake-up is already pending
		}
	}
	wake := func(from string) {
		if from != sightingsChannel {
			wakeUp(notices)
		}
		if from != channel {
			wakeUp(s.sightings)
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
			s.cfg.Logger.Warn("listening for changes of the integrations' database failed; the broker finds changes by polling only", "error", err)
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, maxRelisten)
	}
}
