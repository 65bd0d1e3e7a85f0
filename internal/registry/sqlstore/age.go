package sqlstore

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
)

const (
	// slack is how late a look may begin before the Store assumes that the process was
	// suspended (SIGSTOP, a paused virtual machine).
	slack = 2 * time.Second
	// freshTime bounds how long a call waits for a look after the process was suspended.
	freshTime = time.Second
)

// schedule is the period within which the Store considers itself on schedule: a look is
// running and within its time limit, or the next one is not overdue.
type schedule struct {
	from   time.Time
	within time.Duration
}

// plan records that the next look is due within the given time after from.
func (s *Store) plan(from time.Time, within time.Duration) {
	s.planned.Store(&schedule{from, within + s.cfg.PollInterval + slack})
}

// planLook calls plan for a look that begins now. A look that begins too late does not put
// the Store back on schedule until it has ended; calls wait for it.
func (s *Store) planLook(begin time.Time, allowed time.Duration) {
	if s.planned.Load() == nil || s.onSchedule(begin) {
		s.plan(begin, allowed)
	}
}

func (s *Store) onSchedule(now time.Time) bool {
	p := s.planned.Load()
	return elapsed.Between(p.from, now) <= p.within
}

// age is the time since the database was last seen to match the snapshot.
func (s *Store) age(now time.Time) time.Duration { return elapsed.Between(*s.seen.Load(), now) }

// mayServe reports whether calls may be decided by the snapshot. Only the age of the
// snapshot counts, so a goroutine that hangs or wrongly assumes that it is up to date
// cannot extend the use of an old snapshot. If the process was suspended, mayServe waits
// for a look first: the snapshot may be older than any outage that the Store has noticed.
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

// awaitLook waits for a look that began after the process resumed, for at most freshTime.
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

// lookNow starts a look that all waiting calls share. It returns a channel that is closed
// when the look has ended, or nil if the Store is closed.
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
			_ = s.follow(s.ctx, false) // follow records a failure
			s.mu.Lock()
			defer s.mu.Unlock()
			s.awaited = nil
			close(ended)
		})
	}
	return s.awaited
}
