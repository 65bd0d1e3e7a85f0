package campaign

import "time"

// Debouncer collects keys, such as changed secrets, until they have been quiet for some time,
// so that one rotation of several secrets becomes one campaign. It is not safe for concurrent
// use.
type Debouncer[K comparable] struct {
	// Quiet is the time without another key, and Longest the time after the first one, after
	// which the keys are due.
	Quiet, Longest time.Duration

	keys        map[K]bool
	first, last time.Time
}

// Add adds a key.
func (d *Debouncer[K]) Add(now time.Time, key K) {
	if len(d.keys) == 0 {
		d.keys, d.first = make(map[K]bool), now
	}
	d.keys[key], d.last = true, now
}

// Wait returns the time until the keys are due, at most zero if they are. ok is false if
// there are none.
func (d *Debouncer[K]) Wait(now time.Time) (wait time.Duration, ok bool) {
	due := d.last.Add(d.Quiet)
	if end := d.first.Add(d.Longest); end.Before(due) {
		due = end
	}
	return due.Sub(now), len(d.keys) > 0
}

// Take returns the keys, and forgets them.
func (d *Debouncer[K]) Take() map[K]bool {
	keys := d.keys
	d.keys = nil
	return keys
}
