package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// Fault is one problem in a file.
type Fault struct {
	// File is the name of the file that was passed to Decode.
	File string
	// Line counts from 1; 0 means the file as a whole.
	Line int
	// Path is the setting, for example "grants[0].secrets[2]"; empty for the document
	// itself.
	Path string
	// Text describes the problem and how to fix it.
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

// Faults are the problems of one or more files.
type Faults []Fault

// Error lists the problems, one per line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Err returns fs as an error, and nil if fs is empty.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	return fs
}

// maxFaults limits the number of problems reported for one file.
const maxFaults = 100

// sorted returns a copy sorted by line; problems on the same line keep their order.
func (fs Faults) sorted() Faults {
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b Fault) int { return a.Line - b.Line })
	if len(fs) > maxFaults {
		more := len(fs) - maxFaults
		fs = append(fs[:maxFaults:maxFaults], Fault{
			File: fs[0].File,
			Text: fmt.Sprintf("%d more problems are not listed", more),
		})
	}
	return fs
}
