package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// result is the result of a run.
type result struct {
	Duration time.Duration `json:"duration"`
	counts
	Leaked     int                      `json:"leaked"`
	Recoveries map[string]time.Duration `json:"recoveries"`
	Examples   []string                 `json:"examples,omitempty"`
}

func (l *load) result(w *world, duration time.Duration) *result {
	w.scrape()
	l.mu.Lock()
	defer l.mu.Unlock()
	return &result{Duration: duration, counts: l.counts, Leaked: w.leaks(), Recoveries: l.recoveries, Examples: l.latest}
}

// clean reports whether none of the events occurred that must never occur.
func (r *result) clean() bool {
	return r.WrongAnswers == 0 && r.TooOld == 0 && r.DeniedButServed == 0 && r.Leaked == 0 && r.Answered > 0 && r.Denied > 0
}

func (r *result) print(w io.Writer) {
	row := func(what string, n any) { fmt.Fprintf(w, "| %s | %v |\n", what, n) }
	fmt.Fprintf(w, "| over %s | |\n|---|---|\n", r.Duration)
	row("calls sent", r.Sent)
	row("answered", r.Answered)
	row("denied as expected", r.Denied)
	row("answered with a wrong value", r.WrongAnswers)
	row("answered with a value older than allowed", r.TooOld)
	row("denied but served", r.DeniedButServed)
	row("values in logs, audit, metrics, readiness", r.Leaked)
	row("values served stale, labelled", r.Stale)
	row("calls of clients with retries, of these without an answer", fmt.Sprintf("%d, %d", r.Patient, r.PatientFailed))
	for _, reason := range slices.Sorted(maps.Keys(r.Errors)) {
		row("got "+reason+" (clients without retries)", r.Errors[reason])
	}
	fmt.Fprintf(w, "\n| fault | slowest recovery, until a fresh read succeeds |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(r.Recoveries)) {
		fmt.Fprintf(w, "| %s | %s |\n", name, r.Recoveries[name].Round(time.Millisecond))
	}
	for _, e := range r.Examples {
		fmt.Fprintln(w, "wrong:", e)
	}
}
