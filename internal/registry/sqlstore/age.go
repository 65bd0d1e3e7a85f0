package sqlstore

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
)

const (
	// slack is how much later than planned a look may begin before the process is
	// taken to have been stopped.
	slack = 2 * time.Second
	// freshTime is how long a call waits for a look after the process was stopped.
	freshTime = time.Second
)

// schedule says until when everything goes as planned: a look is under way and
// within its time, or the next one is not overdue.
type schedule struct {
	from   time.Time
	within time.Duration
}

// plan notes that the next sign of life is due that long after an instant.
func (s *Store) plan(from time.Time, within time.Duration) {
	s.planned.Store(&schedule{from, within + s.cfg.PollInterval + slack})
}

// planLook is plan at the beginning of a look. A look that comes too late changes
// nothing before it has ended: calls wait for it.
func (s *Store) planLook(begin time.Time, allowed time.Duration) {
	if s.planned.Load() == nil || s.onSchedule(begin) {
		s.plan(begin, allowed)
	}
}

func (s *Store) onSchedule(now time.Time) bool {
	p := s.planned.Load()
	return elapsed.Between(p.from, now) <= p.within
}

// age is how long ago the snapshot was last seen to be what the database holds.
func (s *Store) age(now time.Time) time.Duration { return elapsed.Between(*s.seen.Load(), now) }

// mayServe reports whether the snapshot may be decided by. That depends on its age
// alone, whatever goroutine hangs or believes that all is well. If the process was
// stopped, it waits for a look first.
func (s *Store) mayServe(now time.Time) bool {
	if s.age(now) <= s.recent {
		return true
	}
	if !s.onSchedule(now) {
		s.awaitLook()
		now = s.cfg.Now()
	}
	return s.age(now) <= s.cfg.MaxOutage
}

// awaitLook waits until a look has ended that began after the process went on, for
// freshTime at most.
func (s *Store) awaitLook() {
	timer := time.NewTimer(freshTime)
	defer timer.Stop()
	for !s.onSchedule(s.cfg.Now()) {
		ended := s.lookNow()
		if ended == nil {
			return
		}
		select {
		case <-ended:
		case <-timer.C:
			return
		}
	}
}

// lookNow starts a look, one for all that wait, and returns a channel that is
// closed when it has ended; nil if the Store is closed.
func (s *Store) lookNow() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil
	}
	if s.awaited == nil {
		ended := make(chan struct{})
		s.awaited = ended
		s.tasks.Go(func() {
			_ = s.follow(s.ctx, false) // which notes what fails
			s.mu.Lock()
			defer s.mu.Unlock()
			s.awaited = nil
			close(ended)
		})
	}
	return s.awaited
}
