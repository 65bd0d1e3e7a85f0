package audit

import (
	"cmp"
	"fmt"
	"slices"
)

// Kind says what is wrong with a log.
type Kind string

// The kinds of findings.
const (
	// Modified: a record is not what was written.
	Modified Kind = "modified"
	// Removed: records are missing.
	Removed Kind = "removed"
	// Inserted: a line was not written here, or stands here once more.
	Inserted Kind = "inserted"
	// Reordered: a record stands in another place than it was written to.
	Reordered Kind = "reordered"
	// Torn: a line is cut off.
	Torn Kind = "torn"
	// Gap: a file does not go on where the one before it ends.
	Gap Kind = "gap"
	// Unkeyed: records are not protected by the key they should be protected by,
	// or by one that is not at hand.
	Unkeyed Kind = "unkeyed"
	// HeadMissing: the log does not lead to an expected head.
	HeadMissing Kind = "head"
	// Note is no fault: it is worth knowing and was declared by the log itself.
	Note Kind = "note"
)

// Finding is one thing that Verify found.
type Finding struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
}

// String returns the finding as a line for people.
func (f *Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Kind, f.Text)
}

// maxFindings is how many findings are kept; more are counted.
const maxFindings = 1000

// Report is what Verify found.
type Report struct {
	// Findings, faults and notes, stand in the order of the lines. There are at
	// most a thousand; More is how many faults were found beyond them.
	Findings []*Finding
	More     int
	// Records is how many records were read, whether in order or not.
	Records int
	// First and Last are the first and the last record that the chain leads
	// through. Both are zero if there is none.
	First, Last Head
}

// Faults returns how many of the findings are faults.
func (r *Report) Faults() int {
	n := r.More
	for _, f := range r.Findings {
		if f.Kind != Note {
			n++
		}
	}
	return n
}

// add returns the finding, which is kept if there is room for it.
func (r *Report) add(at place, kind Kind, format string, args ...any) *Finding {
	f := &Finding{at.file, at.line, kind, fmt.Sprintf(format, args...)}
	switch {
	case len(r.Findings) < maxFindings:
		r.Findings = append(r.Findings, f)
	case kind != Note:
		r.More++
	}
	return f
}

// withdraw takes a finding back that turned out to be another one.
func (r *Report) withdraw(f *Finding) {
	if i := slices.Index(r.Findings, f); i >= 0 {
		r.Findings = slices.Delete(r.Findings, i, i+1)
	} else if r.More > 0 {
		r.More--
	}
}

// sort puts the findings into the order of the files and lines.
func (r *Report) sort(files []string) {
	slices.SortStableFunc(r.Findings, func(a, b *Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(files, a.File), slices.Index(files, b.File)), cmp.Compare(a.Line, b.Line))
	})
}
