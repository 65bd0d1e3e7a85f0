package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a file.
type Fault struct {
	// File is the file's name as given to Decode.
	File string
	// Line counts from 1; 0 means the file as a whole.
	Line int
	// Path is the setting, for example "grants[0].secrets[2]"; empty for the
	// document itself.
	Path string
	// Text says what is wrong and what to do about it.
	Text string
}

func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path)
		b.WriteString(": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// Faults are the faults of one or more files.
type Faults []Fault

// Error lists the faults, one on a line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns fs as an error, and nil if there is no fault.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// maxFaults bounds what one file can make the broker say.
const maxFaults = 100

// sorted returns a copy in the order of the lines; faults of one line keep the
// order in which they were found.
func (fs Faults) sorted() Faults {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b Fault) int { return a.Line - b.Line })
	if len(fs) > maxFaults {
		more := len(fs) - maxFaults
		fs = append(fs[:maxFaults:maxFaults], Fault{
			File: fs[0].File,
			Text: fmt.Sprintf("%d more faults are not listed", more),
		})
	}
	return fs
}
