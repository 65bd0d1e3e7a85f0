package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// demands are the limits for a case.
type demands struct {
	share      float64 // of the victim's calls, at least
	p99        float64 // ms, at most, or ten times the quiet one if that is more
	memory     float64 // MiB
	revocation float64 // ms
	logLines   float64 // a second
}

// demands returns the limits. They depend on the options only by the slack for a busy machine.
func (o *options) demands() demands {
	d := demands{share: 0.999, p99: 50, memory: float64(o.memory) / (1 << 20), revocation: float64(revocationLimit.Milliseconds()), logLines: mostLogLines}
	if o.slack {
		d.share, d.p99 = 0.99, 1000
	}
	return d
}

// mostLogLines is the maximum number of lines that a broker may log per second.
const mostLogLines = 100.0

// report is the result of a run.
type report struct {
	Commit        string     `json:"commit"`
	CPUs          int        `json:"cpus"`
	MemoryMiB     int64      `json:"memory_limit_mib"`
	AttackSeconds float64    `json:"attack_seconds"`
	Slack         bool       `json:"slack"`
	Cases         []*outcome `json:"cases"`
}

// outcome is the result of a case.
type outcome struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Skipped string `json:"skipped,omitempty"`
	// Quiet and Attack are the victim's calls before and during the attack.
	Quiet      phase   `json:"quiet"`
	Attack     phase   `json:"attack"`
	PeakRSSMiB float64 `json:"peak_rss_mib"`
	// Died is the way in which the broker's process ended too early.
	Died string `json:"died,omitempty"`
	// Revocations are the times from a request until it took effect, in milliseconds.
	QuietRevocation   float64            `json:"quiet_revocation_ms"`
	Revocations       []float64          `json:"revocations_ms"`
	LogLinesPerSecond float64            `json:"log_lines_per_second"`
	AuditMiBPerSecond float64            `json:"audit_mib_per_second"`
	Figures           []figure           `json:"figures,omitempty"`
	Attackers         map[string]float64 `json:"attackers"`
	Failures          []string           `json:"failures"`

	mu sync.Mutex // guards Failures and Figures
}

// phase is what a caller experienced in a period.
type phase struct {
	Calls    int            `json:"calls"`
	Answered int            `json:"answered"`
	Share    float64        `json:"share"`
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"` // of the calls that were answered
	Refused  map[string]int `json:"refused,omitempty"`
}

// figure is a measured value that only this case has.
type figure struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	Most  float64 `json:"most"`
}

func phaseOf(all []call) phase {
	p := phase{Calls: len(all), Refused: make(map[string]int)}
	var took []time.Duration
	for _, c := range all {
		if c.Reason == "" {
			took = append(took, c.Took)
		} else {
			p.Refused[c.Reason]++
		}
	}
	p.Answered = len(took)
	if p.Calls > 0 {
		p.Share = float64(p.Answered) / float64(p.Calls)
	}
	slices.Sort(took)
	if len(took) > 0 {
		at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
		p.P50, p.P99 = at(0.5), at(0.99)
	}
	return p
}

func (o *outcome) fail(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(o.Failures, text) {
		o.Failures = append(o.Failures, text)
	}
}

// figure adds one of the case's own figures. The case fails if it exceeds most.
func (o *outcome) figure(name, unit string, value, most float64) {
	o.mu.Lock()
	o.Figures = append(o.Figures, figure{name, unit, value, most})
	o.mu.Unlock()
	if !(value <= most) { // NaN too
		o.fail("%s: %.4g %s, at most %.4g", name, value, unit, most)
	}
}

// judge computes the figures of the calls and applies the limits.
func (r *running) judge() {
	r.Quiet = phaseOf(r.calls.of(victimName, r.quiet, r.begun))
	all := r.calls.of(victimName, r.begun, r.ended)
	r.Attack = phaseOf(slices.DeleteFunc(all, func(c call) bool { return !c.Due.Before(r.outFrom) && c.Due.Before(r.outUntil) }))
	r.PeakRSSMiB = float64(r.bed.broker.peak.Load()) / (1 << 20)
	r.AuditMiBPerSecond = r.auditRate
	switch {
	case r.bed.broker.killed.Load():
		r.Died = fmt.Sprintf("ended by the suite at %d MiB", mostMemory>>20)
	case r.bed.broker.hasEnded():
		r.Died = "ended by itself: " + r.bed.broker.cmd.ProcessState.String()
	}
	r.enforce(r.options.demands())
	if r.c.judge != nil {
		r.c.judge(r)
	}
}

// enforce records a failure for each limit that is exceeded.
func (o *outcome) enforce(d demands) {
	if o.Died != "" {
		o.fail("the broker was %s", o.Died)
	}
	if o.Quiet.Answered == 0 || o.Attack.Calls == 0 {
		o.fail("the victim was not answered before the attack, so nothing was measured")
	}
	if o.Attack.Share < d.share {
		o.fail("%.2f %% of the victim's calls were answered, at least %.1f", 100*o.Attack.Share, 100*d.share)
	}
	if most := max(10*o.Quiet.P99, d.p99); o.Attack.P99 > most {
		o.fail("the victim's p99 was %.1f ms, at most %.1f", o.Attack.P99, most)
	}
	if o.PeakRSSMiB > d.memory {
		o.fail("%.0f MiB of memory, at most %.0f", o.PeakRSSMiB, d.memory)
	}
	if worst := o.worstRevocation(); worst > d.revocation {
		o.fail("a revocation was honoured after %.0f ms, at most %.0f", worst, d.revocation)
	}
	if o.LogLinesPerSecond > d.logLines {
		o.fail("%.0f log lines a second, at most %.0f", o.LogLinesPerSecond, d.logLines)
	}
}

func (o *outcome) worstRevocation() float64 {
	if len(o.Revocations) == 0 {
		return 0
	}
	return slices.Max(o.Revocations)
}

func newReport(o *options) *report {
	commit, _ := exec.Command("git", "describe", "--always", "--dirty").Output() // none in an archive
	return &report{Commit: strings.TrimSpace(string(commit)), CPUs: len(testbed.CPUs(o.serverCPUs)) + len(testbed.CPUs(o.loadCPUs)), MemoryMiB: o.memory >> 20, AttackSeconds: o.attack.Seconds(), Slack: o.slack}
}

func (r *report) write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// failed reports whether a case failed that is not in known.
func (r *report) failed(known string) bool {
	return slices.ContainsFunc(r.Cases, func(o *outcome) bool {
		return len(o.Failures) > 0 && !slices.Contains(names(known), o.Name)
	})
}

// verdict is PASS, FAIL or SKIP.
func (o *outcome) verdict() string {
	switch {
	case o.Skipped != "":
		return "SKIP"
	case len(o.Failures) > 0:
		return "FAIL"
	}
	return "PASS"
}

// line returns the outcome as one line, which is printed while the suite runs.
func (o *outcome) line() string {
	return fmt.Sprintf("%s %-13s answered %6.2f %%  p99 %7.1f ms (quiet %.1f)  peak %4.0f MiB  revocation %5.0f ms  log %.0f/s  audit %.2f MiB/s",
		o.verdict(), o.Name, 100*o.Attack.Share, o.Attack.P99, o.Quiet.P99, o.PeakRSSMiB, o.worstRevocation(), o.LogLinesPerSecond, o.AuditMiBPerSecond)
}

// print writes the report in readable form.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d CPUs, %.0f s of attack, memory limit %d MiB\n\n", r.Commit, r.CPUs, r.AttackSeconds, r.MemoryMiB)
	for _, o := range r.Cases {
		fmt.Fprintln(w, o.line())
		if o.Skipped != "" {
			fmt.Fprintln(w, "      skipped:", o.Skipped)
		}
		for _, f := range o.Failures {
			fmt.Fprintln(w, "      failed:", f)
		}
		for _, f := range o.Figures {
			fmt.Fprintf(w, "      %s: %.4g %s\n", f.Name, f.Value, f.Unit)
		}
		for _, reason := range slices.Sorted(maps.Keys(o.Attack.Refused)) {
			fmt.Fprintf(w, "      the victim got %s: %d\n", reason, o.Attack.Refused[reason])
		}
		for _, what := range slices.Sorted(maps.Keys(o.Attackers)) {
			fmt.Fprintf(w, "      attackers: %s: %.6g\n", what, o.Attackers[what])
		}
	}
}
