package sqlstore

import (
	"context"
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

// Run implements registry.Store. Notices of the database only wake it up: what
// it goes by is what it then reads, and it also reads without any.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notices := make(chan struct{}, 1)
	var listener sync.WaitGroup
	defer listener.Wait() // after cancel, as deferred calls go
	defer cancel()
	if s.listen != nil {
		listener.Go(func() { s.keepListening(ctx, notices) })
	}
	poll := time.NewTicker(s.cfg.PollInterval)
	defer poll.Stop()
	files := time.NewTicker(filesInterval)
	defer files.Stop()
	prune := time.NewTicker(pruneInterval)
	defer prune.Stop()
	if _, err := s.Reseal(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Logger.Error("credentials are not sealed anew", "error", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notices:
			s.follow(ctx)
		case <-poll.C:
			s.follow(ctx)
		case <-files.C:
			s.checkFiles()
		case <-prune.C:
			s.prune(ctx)
		}
	}
}

// follow is refresh for Run, to which its own end is no outage.
func (s *Store) follow(ctx context.Context) {
	if err := s.refresh(ctx); err != nil && ctx.Err() == nil {
		// Whatever else is open leads where the database was: after a failover these
		// connections may hang, and each would cost a look.
		s.db.SetMaxIdleConns(0)
		s.db.SetMaxIdleConns(maxIdle)
	}
}

// keepListening listens for notices, again whenever the connection has broken.
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
		began := time.Now()
		err := s.listen(ctx, wake)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxRelisten {
			wait, warned = minRelisten, false
		}
		if !warned {
			warned = true
			s.cfg.Logger.Warn("no notices of changes from the integrations' database, polling only", "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, maxRelisten)
	}
}
