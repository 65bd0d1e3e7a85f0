package dirstore

import (
	"context"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// maxOutage is the greatest age of the last complete look at the files by which
	// Get still answers. It is the default of registry.max_outage.
	maxOutage = 15 * time.Minute
	// lookTime is how much later than planned a look may be complete before Status
	// reports a Problem.
	lookTime = 15 * time.Second
	// endTime is how long Run waits for a look under way when its context ends. A
	// look at a file server that does not respond may never end.
	endTime = time.Second
)

// looked notes that a look at all files, which began then, is complete.
func (f *Store) looked(began time.Time) { f.seen.Store(&began) }

// age is the time since the last complete look began.
func (f *Store) age() time.Duration { return elapsed.Between(*f.seen.Load(), f.now()) }

// mayServe reports whether Get may answer by what was seen last. Only the age
// decides, not what the goroutine that looks believes: it may hang.
func (f *Store) mayServe() bool { return f.age() <= maxOutage }

// Status implements registry.Store. There is a Problem while no look at the files
// completes: it hangs, or the directory cannot be read.
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

// tellProblem logs when the Problem begins and ends, until ctx ends.
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

// Reload looks for changes now and returns when they have taken effect, the removal
// of files that are held because several vanished included. What time
// stamps show does so at once; then every file is read, those that integrations
// name included, so that a change is found which no time stamp shows. Parsed and
// told of is what has changed. Of ten thousand integrations with a credential each
// the first takes some 10 ms, the second some 250 ms on one CPU, from the page
// cache. If there is a directory that cannot be read, everything stays as it is and
// Faults says so. If reading takes longer than 15 s, Reload returns and the changes
// take effect later.
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

// Run makes changes take effect until ctx ends, and then returns nil. Changes
// in the directory are noticed at once where the system can notify, and only what
// they concern is read. A poll finds those it does not tell of, and changes of the
// files that integrations name. Run is called once at most. It does not wait for
// a look that hangs when ctx ends.
func (f *Store) Run(ctx context.Context) error { return f.run(ctx, f.follow) }

func (f *Store) run(ctx context.Context, follow func(context.Context)) error {
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
