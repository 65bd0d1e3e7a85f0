package main

import (
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

func during(from, until float64) span { return span{at(from), at(until)} }

var (
	secretA = item{"it", "a"}
	alice   = access{"alice", "it"}
)

// observed is a truth with two versions, an access that is lost and comes back, and an outage
// of the database, and a client that was told all of it in time.
func observed() (*truth, *watcher) {
	t := newTruth()
	t.allows(during(0, 0), map[access]bool{alice: true})
	t.rotated(during(0, 0), map[item]string{secretA: "1"})
	t.rotated(during(20, 20.1), map[item]string{secretA: "2"})
	t.allows(during(40, 40.1), map[access]bool{alice: false})
	t.allows(during(60, 60.1), map[access]bool{alice: true})
	t.failed(databaseFault, during(80, 85))
	t.allows(during(81, 81.1), map[access]bool{alice: false})
	t.end(at(110))
	c := newWatcher("client", "alice", steady, []item{secretA}, nil)
	c.notices[stateChanged], c.notices[stateDenied] = 1, 1
	told := func(seconds float64, state, version string) {
		c.records[secretA] = append(c.records[secretA], record{at: at(seconds), asOf: at(seconds), fetch: at(seconds - .05), state: state, version: version})
	}
	told(1, stateCurrent, "1")
	told(22, stateChanged, "2")
	told(40.2, stateDenied, "")
	told(61, stateChanged, "2")
	told(88, stateDenied, "")
	return t, c
}

// TestJudge: every kind of wrong notice is found, and nothing else.
func TestJudge(t *testing.T) {
	l := &limits{picture: 5 * time.Second, honour: time.Second}
	set := func(i int, change func(r *record)) func(*watcher) {
		return func(c *watcher) { change(&c.records[secretA][i]) }
	}
	insert := func(seconds float64, r record) func(*watcher) {
		return func(c *watcher) {
			r.at, r.asOf, r.fetch = at(seconds), at(seconds), at(seconds-.05)
			is := c.records[secretA]
			for i := range is {
				if is[i].at.After(r.at) {
					c.records[secretA] = append(append(append([]record{}, is[:i]...), r), is[i:]...)
					return
				}
			}
			c.records[secretA] = append(is, r)
		}
	}
	for _, test := range []struct {
		name   string
		change func(*watcher)
		want   string // the findings
	}{
		{"nothing", func(*watcher) {}, ""},
		{"a rotation that is told too late", set(1, func(r *record) { r.at, r.asOf = at(26), at(26) }), "a wrong picture"},
		{"a rotation that is never told", set(1, func(r *record) { r.version = "1"; r.fetch = at(19.9) }), "a wrong picture"},
		{"a trouble of the client instead", func(c *watcher) {
			set(1, func(r *record) { r.at = at(26) })(c)
			c.troubles = []span{during(19, 22)}
		}, ""},
		{"a loss that is never told", set(2, func(r *record) { r.state = stateUnreadable }), "a wrong picture"},
		{"a return that is never told", set(3, func(r *record) { r.state, r.version = stateDenied, "" }), "a wrong picture"},
		{"a picture that becomes wrong", insert(50, record{state: stateUnreadable}), "a picture that became wrong"},
		{"an invented version", insert(30, record{state: stateChanged, version: "3"}), "a picture that became wrong, a version that the secret did not have"},
		{"an old version", insert(20.9, record{state: stateChanged, version: "1"}), "a version that the secret did not have"},
		{"a version shortly after the loss", insert(40.9, record{state: stateChanged, version: "2"}), "a wrong picture"},
		{"a version for a caller without access", insert(42, record{state: stateChanged, version: "2"}), "a version for a caller without access, a wrong picture"},
		{"a version during the outage", insert(86, record{state: stateChanged, version: "2"}), ""},
		{"a version after the outage", insert(89.5, record{state: stateChanged, version: "2"}), "a version for a caller without access, a wrong picture"},
		{"a client that forgot", insert(30, record{forgot: true}), "a picture that became wrong"},
	} {
		t.Run(test.name, func(t *testing.T) {
			truth, c := observed()
			test.change(c)
			r := judge(truth, []*watcher{c}, l)
			var found []string
			for _, what := range []string{"a picture that became wrong", "a version for a caller without access", "a version that the secret did not have", "a wrong picture"} {
				if r.Wrong[what] > 0 {
					found = append(found, what)
				}
			}
			if got := strings.Join(found, ", "); got != test.want {
				t.Errorf("found %q, want %q: %v", got, test.want, r.Examples)
			}
			if r.clean() != (test.want == "") {
				t.Errorf("clean: %v", r.clean())
			}
		})
	}
}

// TestProtocol: a stream that breaks the rules of Watch is noticed.
func TestProtocol(t *testing.T) {
	s := &call{known: map[item]string{secretA: "1"}, said: make(map[item]record)}
	for i, step := range []struct {
		state, version, reason string
		ok                     bool
	}{
		{stateChanged, "1", "", false}, // known
		{stateCurrent, "2", "", false}, // not known
		{stateCurrent, "1", "", true},
		{stateCurrent, "1", "", false}, // twice
		{stateChanged, "2", "", true},
		{stateChanged, "2", "", false},
		{stateDenied, "2", "ACCESS_DENIED", false}, // with a version
		{stateDenied, "", "", false},               // without a reason
		{stateDenied, "", "ACCESS_DENIED", true},
		{stateDenied, "", "ACCESS_DENIED", false},
		{stateChanged, "2", "", true}, // it is back
		{stateUnreadable, "", "STORE_UNAVAILABLE", true},
		{stateCurrent, "2", "", true},
		{"", "", "", false},
	} {
		r := record{state: step.state, version: step.version, fetch: epoch}
		if problem := s.check(secretA, &r, step.reason); (problem == "") != step.ok {
			t.Errorf("step %d: %q", i, problem)
		} else if step.ok {
			s.said[secretA] = r
		}
	}
}
