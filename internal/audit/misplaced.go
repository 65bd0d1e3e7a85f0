package audit

import (
	"fmt"
	"slices"
)

// gap is a run of records that were not where they should be.
type gap struct {
	from, to uint64
	next     []chainValue // as in verifier; nil if unknown
	finding  *Finding
}

// maxGaps is how many gaps are remembered for records that turn up later.
const maxGaps = 1000

// jump takes a record that comes too early.
func (v *verifier) jump(body []byte, head Head, m *Marker) {
	g := &gap{from: v.report.Last.Seq + 1, to: head.Seq - 1, next: v.next}
	switch at := v.at; {
	case v.first && v.looseN == 0:
		g.finding = v.report.add(at, Gap, "")
	case v.loose.any && uint64(v.looseN) == g.to-g.from+1: //nolint:gosec // G115: a number of lines
		g.finding = v.report.add(v.looseAt, Modified, "")
		v.loose.reset()
	default:
		g.finding = v.report.add(at, Removed, "")
	}
	g.describe()
	if len(v.gaps) < maxGaps {
		v.gaps = append(v.gaps, g)
	}
	if previous, ok := m.previous(); ok && !v.linked([]chainValue{previous.Chain}, body, head.Chain) {
		v.report.add(v.at, Modified, "record %d is not as it was written", head.Seq)
	}
	v.advance(head, []chainValue{head.Chain}, nil)
}

// describe says in the gap's finding what is missing.
func (g *gap) describe() {
	what := fmt.Sprintf("records %d to %d", g.from, g.to)
	if g.from == g.to {
		what = fmt.Sprintf("record %d", g.from)
	}
	switch g.finding.Kind {
	case Gap:
		g.finding.Text = "the file does not go on where the one before it ends: " + what + " missing"
	case Modified:
		g.finding.Text = "no record can be read where " + what + " should stand"
	default:
		g.finding.Text = what + " missing before this line"
	}
}

// back takes a record whose number was passed already.
func (v *verifier) back(body []byte, head Head) {
	last := v.report.Last.Seq
	switch {
	case head.Seq == 1 && v.first && v.linked([]chainValue{{}}, body, head.Chain):
		v.report.add(v.at, Gap, "a new log begins here, although the one before ends with record %d: the broker found no file to go on with", last)
		v.gaps = nil
		v.advance(head, []chainValue{head.Chain}, nil)
	case v.fill(body, head):
	case head.Seq == last && v.blamed != nil && v.blamed.Kind == Modified && v.linked(v.before, body, head.Chain):
		// This is the real one: the line before was put in front of it.
		v.blamed.Kind, v.blamed.Text = Inserted, fmt.Sprintf("not a record of this log, although it says it is record %d", last)
		v.next, v.blamed = []chainValue{head.Chain}, nil
		v.report.Last = head
		v.expect(head)
	default:
		v.report.add(v.at, Inserted, "record %d does not belong here: the log had got to record %d", head.Seq, last)
	}
}

// fill puts a record into the gap that it is missing from, if there is one.
func (v *verifier) fill(body []byte, head Head) bool {
	i := slices.IndexFunc(v.gaps, func(g *gap) bool { return g.from <= head.Seq && head.Seq <= g.to })
	if i < 0 {
		return false
	}
	g := v.gaps[i]
	f := v.report.add(v.at, Reordered, "record %d stands behind record %d", head.Seq, v.report.Last.Seq)
	known := head.Seq == g.from && g.next != nil
	if known && !v.linked(g.next, body, head.Chain) {
		f.Text += ", and is not as it was written"
	} else if known {
		v.expect(head)
	}
	if head.Seq > g.from && head.Seq < g.to && len(v.gaps) < maxGaps { // two gaps now
		rest := &gap{from: head.Seq + 1, to: g.to, next: []chainValue{head.Chain}, finding: g.finding}
		v.gaps = append(v.gaps, rest)
		g.to = head.Seq - 1
		rest.finding = v.report.add(place{g.finding.File, g.finding.Line}, g.finding.Kind, "")
		rest.describe()
		g.describe()
		return true
	}
	if head.Seq == g.from {
		g.from, g.next = head.Seq+1, []chainValue{head.Chain}
	} else {
		g.to = head.Seq - 1
	}
	if g.from > g.to {
		v.report.withdraw(g.finding)
		v.gaps = slices.Delete(v.gaps, i, i+1)
	} else {
		g.describe()
	}
	return true
}

// settleLoose judges the lines before a record that are none.
func (v *verifier) settleLoose(m *Marker) {
	switch {
	case m.UnchainedBytes > 0 && !v.loose.any:
		v.report.add(v.at, Removed, "%d bytes that this record declares are missing before it", m.UnchainedBytes)
	case m.UnchainedBytes > 0:
		if n, sum := v.loose.sum(); n != m.UnchainedBytes || sum != m.UnchainedSHA256 {
			v.report.add(v.looseAt, Modified, "what is no record here is not what the next record declares, in line %d", v.at.line)
		} else {
			v.report.add(v.looseAt, Note, "%s here, cut off or older than the chain, as the record after declares", v.looseText())
		}
	case v.loose.any:
		v.report.add(v.looseAt, Inserted, "%s here, and the log does not know of it", v.looseText())
	}
	v.loose.reset()
	v.looseN = 0
}

func (v *verifier) looseText() string {
	if v.looseN == 1 {
		return "one line that is no record"
	}
	return fmt.Sprintf("%d lines that are no records", v.looseN)
}

// finish judges what only the end of all files shows.
func (v *verifier) finish() {
	switch {
	case v.loose.any && v.loosePart && v.looseN == 1:
		v.report.add(v.looseAt, Torn, "the last line is cut off; if this file is being written, that may be all of it")
	case v.loose.any:
		v.report.add(v.looseAt, Inserted, "%s here, at the end", v.looseText())
	}
	for _, want := range v.heads {
		switch last := v.report.Last.Seq; {
		case want.Seq > last:
			v.report.add(v.at, HeadMissing, "the end is missing: the log ends with record %d, the expected head is record %d", last, want.Seq)
		default:
			v.report.add(v.at, HeadMissing, "record %d, the expected head, is not among the intact ones of these files", want.Seq)
		}
	}
	if len(v.linkers) > 1 && !v.keyed && v.begun {
		v.report.add(v.at, Unkeyed, "none of the records is protected by the key")
	}
}
