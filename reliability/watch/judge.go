package main

import (
	"fmt"
	"slices"
	"time"
)

// limits are the times after which something must be right.
type limits struct {
	picture, honour time.Duration
}

const (
	// readSlack is how much earlier than a rotation a read may have begun that found the new
	// version: the vault's file is written at some time during the rotation.
	readSlack = 200 * time.Millisecond
	// databaseBack is the time that a replica has after an outage of the database until it
	// has connected again.
	databaseBack = 3 * time.Second
)

// record is what a client was told about an item, or that it forgot what it knew.
type record struct {
	at, asOf, fetch time.Time
	state, version  string
	forgot          bool
}

// picture returns what the client knows after the record.
func (r *record) picture() picture {
	return picture{denied: r.state == stateDenied, version: r.version}
}

// judge checks everything that the clients were told.
func judge(t *truth, clients []*watcher, l *limits) *result {
	r := newResult()
	for _, c := range clients {
		c.mu.Lock()
		r.count(c)
		r.add(c.findings...)
		for it, records := range c.records {
			j := judged{t, c.who, it, records, l, r}
			j.notices(c.name)
			j.pictures(c.name, c.troubles)
		}
		c.mu.Unlock()
	}
	r.summarise()
	return r
}

// judged is one item of a client.
type judged struct {
	truth   *truth
	who     string
	item    item
	records []record
	limits  *limits
	result  *result
}

// notices checks each notice alone.
func (j *judged) notices(client string) {
	lost := j.deniedSpans()
	for i := range j.records {
		r := &j.records[i]
		if r.version == "" {
			continue
		}
		if !j.truth.had(j.item, r.version, span{r.fetch.Add(-readSlack), r.asOf}) {
			j.result.add(finding{"a version that the secret did not have", fmt.Sprintf("%s was told %s of %v, read at %s", client, r.version, j.item, stamp(r.fetch))})
		}
		for _, s := range lost {
			if r.asOf.After(s.from) && r.asOf.Before(s.until) {
				j.result.add(finding{"a version for a caller without access", fmt.Sprintf("%s was told of %v at %s, without access from %s to %s", client, j.item, stamp(r.asOf), stamp(s.from), stamp(s.until))})
			}
		}
	}
}

// deniedSpans returns the periods in which no replica may tell the caller a version.
func (j *judged) deniedSpans() (all []span) {
	for _, s := range j.truth.segments(j.who, j.item) {
		if !s.denied {
			continue
		}
		from := s.from.Add(j.limits.honour)
		for again := true; again; { // one outage may follow another
			again = false
			for _, f := range j.truth.faultsWithin(span{s.from, from}, databaseFault) {
				if back := f.until.Add(databaseBack + j.limits.honour); back.After(from) {
					from, again = back, true
				}
			}
		}
		if from.Before(s.until) {
			all = append(all, span{from, s.until})
		}
	}
	return all
}

// pictures checks that the client had the right picture whenever nothing had changed and
// nothing had failed for the bound. troubles are the client's own.
func (j *judged) pictures(client string, troubles []span) {
	for _, s := range j.truth.segments(j.who, j.item) {
		faults := append(j.truth.faultsWithin(span{s.began.Add(-j.limits.picture), s.until}, ""), troubles...)
		j.lag(&s, faults)
		for _, calm := range calmSpans(s.span, faults) {
			due := calm.from.Add(j.limits.picture)
			if !due.Before(calm.until) {
				continue
			}
			j.result.Checked++
			if got := j.at(due); got == nil || got.forgot || got.picture() != s.picture {
				j.result.add(finding{"a wrong picture", fmt.Sprintf("%s: %v should be %+v since %s (%s), and is %s at %s", client, j.item, s.picture, stamp(calm.from), s.cause, got, stamp(due))})
				continue
			}
			for i := range j.records {
				if r := &j.records[i]; r.at.After(due) && r.at.Before(calm.until) && r.picture() != s.picture {
					j.result.add(finding{"a picture that became wrong", fmt.Sprintf("%s: %v is %+v since %s, and became %s", client, j.item, s.picture, stamp(calm.from), r)})
				}
			}
		}
	}
}

// calmSpans returns the parts of a period without faults.
func calmSpans(s span, faults []span) (calm []span) {
	faults = slices.Clone(faults)
	slices.SortFunc(faults, func(a, b span) int { return a.from.Compare(b.from) })
	from := s.from
	for _, f := range faults {
		if f.until.Before(from) {
			continue
		}
		if f.from.After(s.until) {
			break
		}
		if f.from.After(from) {
			calm = append(calm, span{from, f.from})
		}
		from = f.until
	}
	if from.Before(s.until) {
		calm = append(calm, span{from, s.until})
	}
	return calm
}

// lag records how long after a change the client was told, if nothing failed shortly before
// or meanwhile. A change that another one followed before the client was told does not count.
func (j *judged) lag(s *segment, faults []span) {
	if j.at(s.began) == nil {
		return // the beginning
	}
	for i := range j.records {
		r := &j.records[i]
		if !r.at.After(s.began) || r.picture() != s.picture {
			continue
		}
		around := span{s.began.Add(-databaseBack), r.at}
		if r.at.Before(s.until) && !slices.ContainsFunc(faults, around.overlaps) {
			j.result.lags[s.cause] = append(j.result.lags[s.cause], max(0, r.at.Sub(s.from)))
		}
		return
	}
}

// at returns the last record before a time, nil if there is none.
func (j *judged) at(when time.Time) (last *record) {
	for i := range j.records {
		if r := &j.records[i]; !r.at.After(when) {
			last = r
		}
	}
	return last
}

func (r *record) String() string {
	switch {
	case r == nil:
		return "nothing"
	case r.forgot:
		return "forgotten"
	}
	return fmt.Sprintf("%s %s (told at %s, as of %s, read at %s)", r.state, r.version, stamp(r.at), stamp(r.asOf), stamp(r.fetch))
}

func stamp(t time.Time) string { return t.Format("15:04:05.000") }
