package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// finding is something that was wrong.
type finding struct {
	What   string `json:"what"`
	Detail string `json:"detail"`
}

// result is the result of a run.
type result struct {
	Duration time.Duration `json:"duration"`
	// Settled is the time after the last change or fault until every picture was right.
	Settled time.Duration `json:"settled"`
	// Checked is the number of periods in which a picture had to be right.
	Checked int            `json:"checked"`
	Streams map[string]int `json:"streams"` // by how they ended
	Notices map[string]int `json:"notices"` // by state
	Wrong   map[string]int `json:"wrong"`
	// Lags are the times until clients were told of a change without faults, by cause.
	Lags map[string]lag `json:"lags"`
	// Examples are some of the findings.
	Examples []finding `json:"examples,omitempty"`

	lags map[string][]time.Duration
}

// lag is the distribution of the times until clients were told of a change.
type lag struct {
	Count int           `json:"count"`
	P50   time.Duration `json:"p50"`
	P99   time.Duration `json:"p99"`
	Max   time.Duration `json:"max"`
}

// summarise sets Lags.
func (r *result) summarise() {
	r.Lags = make(map[string]lag)
	for cause, all := range r.lags {
		slices.Sort(all)
		at := func(share float64) time.Duration { return all[int(share*float64(len(all)-1))].Round(time.Millisecond) }
		r.Lags[cause] = lag{len(all), at(.5), at(.99), at(1)}
	}
}

func newResult() *result {
	return &result{Streams: make(map[string]int), Notices: make(map[string]int), Wrong: make(map[string]int), lags: make(map[string][]time.Duration)}
}

// count adds what a client has seen. It requires the client's lock.
func (r *result) count(c *watcher) {
	for how, n := range c.ends {
		r.Streams[how] += n
	}
	for state, n := range c.notices {
		r.Notices[state] += n
	}
}

func (r *result) add(found ...finding) {
	for _, f := range found {
		if r.Wrong[f.What]++; r.Wrong[f.What] <= 5 {
			r.Examples = append(r.Examples, f)
		}
	}
}

// clean reports whether nothing was wrong, and the run was long enough to show it.
func (r *result) clean() bool {
	return len(r.Wrong) == 0 && r.Notices[stateChanged] > 0 && r.Notices[stateDenied] > 0
}

func (r *result) print(w io.Writer) {
	row := func(what string, n any) { fmt.Fprintf(w, "| %s | %v |\n", what, n) }
	fmt.Fprintf(w, "| over %s | |\n|---|---|\n", r.Duration)
	for _, state := range slices.Sorted(maps.Keys(r.Notices)) {
		row("notices "+state, r.Notices[state])
	}
	for _, how := range slices.Sorted(maps.Keys(r.Streams)) {
		row("streams that ended with "+how, r.Streams[how])
	}
	row("pictures checked after calm periods", r.Checked)
	for _, what := range slices.Sorted(maps.Keys(r.Wrong)) {
		row("**"+what+"**", r.Wrong[what])
	}
	row("wrong", fmt.Sprint(len(r.Wrong) > 0))
	row("time after the end of all changes and faults until every picture was right", r.Settled.Round(time.Millisecond))
	fmt.Fprintf(w, "\n| told without faults | changes x watchers | p50 | p99 | slowest |\n|---|---|---|---|---|\n")
	for _, cause := range slices.Sorted(maps.Keys(r.Lags)) {
		l := r.Lags[cause]
		fmt.Fprintf(w, "| %s | %d | %s | %s | %s |\n", cause, l.Count, l.P50, l.P99, l.Max)
	}
	for _, f := range r.Examples {
		fmt.Fprintf(w, "wrong: %s: %s\n", f.What, f.Detail)
	}
}
