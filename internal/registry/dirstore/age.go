package dirstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// maxOutage is the maximum age of the last complete look at which Get still answers.
	// It equals the default of registry.max_outage.
	maxOutage = 15 * time.Minute
	// lookTime is how long after its due time a look may complete before Status reports a
	// Problem.
	lookTime = 15 * time.Second
	// endTime is how long Run waits for a look in progress when its context ends. A look
	// at a file server that does not respond may never end.
	endTime = time.Second
	// slack is how late a look may begin before the Store assumes that the process was
	// suspended (SIGSTOP, a paused virtual machine).
	slack = 2 * time.Second
	// freshTime bounds how long calls wait for a look after the process was suspended.
	freshTime = time.Second
)

// looked records that a look that began at this time is complete.
func (f *Store) looked(began time.Time) {
	f.took.Store(int64(elapsed.Between(began, f.now())))
	f.seen.Store(&began)
	f.late.end()
}

// late lets calls wait for a look after the process was suspended.
type late struct {
	mu    sync.Mutex
	since *time.Time    // the look that was the last one when calls waited; they wait once
	ended chan struct{} // closed at the end of the wait; nil if no call waits
}

// end ends the wait of all calls.
func (l *late) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endWait()
}

// endWait requires the lock.
func (l *late) endWait() {
	if l.ended != nil {
		close(l.ended)
		l.ended = nil
	}
}

// awaitLook makes Run look and waits for the end of the look, for at most freshTime. All
// calls wait at the same time, and none waits again before a look has ended: if the files
// cannot be read because a file server hangs, calls must not be slow.
func (f *Store) awaitLook() {
	l := &f.late
	l.mu.Lock()
	if seen := f.seen.Load(); l.since != seen {
		l.endWait()
		ended := make(chan struct{})
		l.since, l.ended = seen, ended
		time.AfterFunc(freshTime, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ended == ended {
				l.endWait()
			}
		})
		select {
		case f.overdue <- struct{}{}:
		default: // Run has not received an earlier request
		}
	}
	ended := l.ended
	l.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// age returns the time since the last complete look began.
func (f *Store) age() time.Duration { return elapsed.Between(*f.seen.Load(), f.now()) }

// mayServe reports whether Get may answer from the current snapshot. It depends only on
// the age, because the goroutine that looks may hang. If a look is overdue, because the
// process was suspended, mayServe waits for one first: the files may have changed long ago.
func (f *Store) mayServe() bool {
	if f.running.Load() && f.age() > f.interval+time.Duration(f.took.Load())+slack {
		f.awaitLook()
	}
	return f.age() <= maxOutage
}

// Status implements registry.Store. It reports a Problem while no look completes, because
// reading hangs or the directory cannot be read.
func (f *Store) Status() registry.Status {
	seen, age := *f.seen.Load(), f.age()
	st := registry.Status{Backend: "files", SeenAt: seen, Held: int(f.heldCount.Load()), Refuses: age > maxOutage}
	if age > f.interval+lookTime {
		st.Problem = fmt.Sprintf("the files of the integrations in %s were last read at %s: reading them hangs or fails; check the directory, the file system and its server",
			f.dir, seen.UTC().Format(time.RFC3339))
		st.RefusesAt = seen.Add(maxOutage)
	}
	return st
}

// tellProblem logs the beginning and the end of each Problem until ctx ends.
func (f *Store) tellProblem(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st := f.Status()
		switch {
		case st.Problem != "" && !told:
			f.log.Error("the files of the integrations cannot be read; no change takes effect", "problem", st.Problem, "calls_refused_from", st.RefusesAt)
		case st.Problem == "" && told:
			f.log.Info("the files of the integrations are read again", "dir", f.dir)
		}
		told = st.Problem != ""
	}
}

// Reload applies all changes, including the removal of held files, and then returns. It
// first polls, so that the changes that stamps reveal take effect early. It then reads
// every file, including the files that integrations refer to, and so finds changes that no
// stamp reveals. Only files that have changed are parsed and reported.
//
// With ten thousand integrations, each with a credential file, the poll takes about 10 ms
// and reading everything about 250 ms on one CPU, if the page cache holds the files.
//
// If the directory exists but cannot be read, nothing changes and Faults reports it. If
// reading takes longer than 15 s, Reload returns, and the changes take effect later.
func (f *Store) Reload() {
	timer := time.NewTimer(lookTime)
	defer timer.Stop()
	select {
	case f.reloading <- struct{}{}:
	case <-timer.C:
		f.log.Error("the files of the integrations are not reloaded: an earlier reload has not ended", "dir", f.dir)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { <-f.reloading }()
		f.lookAtAll(true)
	}()
	select {
	case <-done:
	case <-timer.C:
		f.log.Error("the reload of the integrations' files has not ended yet", "dir", f.dir)
	}
}

// Run applies changes until ctx ends, and then returns nil. Where the system can notify,
// Run detects changes in the directory at once and reads only the affected files. A poll
// finds changes without a notification, and changes of the files that integrations refer
// to. Run must be called at most once. When ctx ends, it does not wait for a look that
// hangs.
func (f *Store) Run(ctx context.Context) error { return f.run(ctx, f.follow) }

func (f *Store) run(ctx context.Context, follow func(context.Context)) error {
	f.running.Store(true)
	defer f.running.Store(false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		follow(ctx)
	}()
	f.tellProblem(ctx)
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	return nil
}
