package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// good returns an outcome within all limits.
func good() *outcome {
	return &outcome{
		Name: "ping", Title: "PING frames",
		Quiet: phase{Calls: 150, Answered: 150, Share: 1, P99: 4}, Attack: phase{Calls: 1000, Answered: 999, Share: 0.999, P99: 50},
		PeakRSSMiB: 256, Revocations: []float64{3, 1000}, LogLinesPerSecond: 100,
	}
}

// TestHold: exceeding a single limit makes a case fail.
func TestHold(t *testing.T) {
	o := options{memory: 256 << 20}
	for name, change := range map[string]func(*outcome){
		"":                         func(*outcome) {},
		"answered, at least 99.9":  func(o *outcome) { o.Attack.Share = 0.998 },
		"p99 was 50.1 ms":          func(o *outcome) { o.Attack.P99 = 50.1 },
		"257 MiB of memory":        func(o *outcome) { o.PeakRSSMiB = 257 },
		"honoured after 1001 ms":   func(o *outcome) { o.Revocations = append(o.Revocations, 1001) },
		"101 log lines":            func(o *outcome) { o.LogLinesPerSecond = 101 },
		"the broker was ended":     func(o *outcome) { o.Died = "ended by itself" },
		"nothing was measured":     func(o *outcome) { o.Quiet.Answered = 0 },
		"deleted: 1 of 3, at most": func(o *outcome) { o.figure("deleted", "of 3", 1, 0) },
	} {
		found := good()
		change(found)
		found.enforce(o.demands())
		if name == "" {
			if len(found.Failures) > 0 {
				t.Errorf("a good outcome failed: %q", found.Failures)
			}
		} else if len(found.Failures) != 1 || !strings.Contains(found.Failures[0], name) {
			t.Errorf("%s: failures are %q", name, found.Failures)
		}
	}
}

// TestHoldSlack: the p99 may be ten times that of the quiet phase, and more on a busy machine;
// the limits of memory and revocation have no slack.
func TestHoldSlack(t *testing.T) {
	slow := good()
	slow.Quiet.P99, slow.Attack.P99 = 20, 200
	if slow.enforce((&options{memory: 256 << 20}).demands()); len(slow.Failures) > 0 {
		t.Errorf("ten times the quiet p99: %q", slow.Failures)
	}
	busy := good()
	busy.Attack.Share, busy.Attack.P99, busy.PeakRSSMiB, busy.Revocations = 0.99, 1000, 257, []float64{1001}
	if busy.enforce((&options{memory: 256 << 20, slack: true}).demands()); len(busy.Failures) != 2 {
		t.Errorf("with slack failures are %q; want memory and revocation", busy.Failures)
	}
}

func TestFailedHonoursKnown(t *testing.T) {
	bad := good()
	bad.fail("something")
	r := report{Cases: []*outcome{good(), bad}}
	if !r.failed("") || !r.failed("audit") || r.failed("audit,ping") {
		t.Error("only a failing case that is not known to fail makes a report fail")
	}
}

func TestPhaseOf(t *testing.T) {
	var all []call
	for i := range 100 {
		all = append(all, call{Took: time.Duration(i+1) * time.Millisecond})
	}
	all = append(all, call{Reason: "OVERLOADED", Took: time.Hour})
	p := phaseOf(all)
	if p.Calls != 101 || p.Answered != 100 || p.P50 != 50 || p.P99 != 99 || p.Refused["OVERLOADED"] != 1 {
		t.Errorf("phaseOf = %+v", p)
	}
}

// TestDeniedFrom: a revocation has taken effect when no call is answered any more. An answer
// after a denial means that it has not, whatever the order of the results is.
func TestDeniedFrom(t *testing.T) {
	at := func(ms int, reason string) call { return call{Due: time.UnixMilli(int64(ms)), Reason: reason} }
	for _, test := range []struct {
		calls []call
		want  time.Time
	}{
		{[]call{at(1, ""), at(2, "OVERLOADED")}, time.Time{}},
		{[]call{at(1, ""), at(2, "OVERLOADED"), at(3, "ACCESS_DENIED"), at(4, "ACCESS_DENIED")}, time.UnixMilli(3)},
		{[]call{at(1, "ACCESS_DENIED"), at(3, "ACCESS_DENIED"), at(2, "")}, time.UnixMilli(3)},
		{[]call{at(1, "ACCESS_DENIED"), at(2, "")}, time.Time{}},
	} {
		if got := deniedFrom(test.calls); !got.Equal(test.want) {
			t.Errorf("deniedFrom(%v) = %v, want %v", test.calls, got, test.want)
		}
	}
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, change func(*outcome)) string {
		o := good()
		change(o)
		data, err := json.Marshal(report{Cases: []*outcome{o}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	before := write("before.json", func(o *outcome) { o.fail("something"); o.Revocations = []float64{10_000} })
	after := write("after.json", func(*outcome) {})
	var out strings.Builder
	if err := table(&out, []string{before, after}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before, FAIL", "after, PASS", "| 99.90 % of 1000 |", "not within 10 s", "1000 ms"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, out.String())
		}
	}
}
