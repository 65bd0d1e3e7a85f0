package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// matrixResults is a saved matrix.
type matrixResults struct {
	results
	Placements []placement     `json:"placements"`
	Delays     []time.Duration `json:"delays_ns"`
	// SyncMicros is the time of an fsync without a delay before each round.
	SyncMicros []float64 `json:"sync_us"`
	// Problems are the missing samples with their reasons.
	Problems []string `json:"problems,omitempty"`
}

// group returns the group of a cell; it creates it if needed.
func (m *matrixResults) group(c *cell) *group {
	if g := m.find(c.placement.Name, c.part, c.shape); g != nil {
		return g
	}
	g := &group{Placement: c.placement.Name, Part: c.part, Shape: c.shape, Samples: make(map[string][]sample)}
	if rate := c.contenders[0].rate; rate != nil {
		g.Offered = fmt.Sprintf("%.0f/s", *rate)
	}
	m.Groups = append(m.Groups, g)
	return g
}

func (m *matrixResults) find(placement, part, shape string) *group {
	for _, g := range m.Groups {
		if g.Placement == placement && g.Part == part && g.Shape == shape {
			return g
		}
	}
	return nil
}

// add adds a sample, nil if the round has none.
func (g *group) add(server string, s sample) {
	if !slices.Contains(g.Servers, server) {
		g.Servers = append(g.Servers, server)
	}
	g.Samples[server] = append(g.Samples[server], s)
}

// save writes the matrix to a file, unless its name is empty.
func (m *matrixResults) save(file string) error { return saveJSON(file, m) }

// print writes the targets and the tables, as Markdown.
func (m *matrixResults) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s.", m.conditions())
	for _, p := range m.Placements {
		fmt.Fprintf(w, "\n**%s:** %v.", p.Name, p)
	}
	fmt.Fprintln(w)
	m.printTargets(w)
	for _, p := range m.Placements {
		fmt.Fprintf(w, "\n%s:\n\n", p)
		columns := []string{throughput, cpuPerCall, p50, p99, rss, refusals, failures}
		fmt.Fprintf(w, "| load | server | %s |\n|---|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
		for _, part := range []string{partLoads, partConfigs, partSecrets, partHalf} {
			for _, g := range m.Groups {
				if g.Placement == p.Name && g.Part == part {
					g.printRows(w, columns)
				}
			}
		}
	}
	for _, problem := range m.Problems {
		fmt.Fprintln(w, "\nNot measured:", problem)
	}
}

// conditions describes the conditions of the measurement.
func (m *matrixResults) conditions() string {
	rounds := 0
	for _, g := range m.Groups {
		for _, samples := range g.Samples {
			rounds = max(rounds, len(samples))
		}
	}
	return fmt.Sprintf("%s, %s, %s CPUs (%s), grpc-go %s; %d rounds of %s; GOMEMLIMIT %s; an fsync takes %.0f µs",
		m.Time.Format(time.DateOnly), m.Machine["go"], m.Machine["cpus"], m.Machine["cpu"], m.Machine["grpc-go"], rounds, m.Machine["duration"], m.Machine["memory limit"], m.syncMicros())
}

func (m *matrixResults) syncMicros() float64 {
	_, median, _ := quartiles(m.SyncMicros)
	return median
}

// name returns the load's name in the tables.
func (g *group) name() string {
	switch g.Part {
	case partConfigs:
		return fmt.Sprintf("%s, %d configs", g.Shape, manyConfigs)
	case partHalf:
		return fmt.Sprintf("half of the capacity %s, %s", g.Shape, g.Offered)
	default:
		return g.Shape
	}
}

// printRows writes the medians of each server and, from the second server on, the medians of
// the ratios to the first in the same round, with quartiles for throughput and CPU.
func (g *group) printRows(w io.Writer, columns []string) {
	for i, s := range g.Servers {
		fmt.Fprintf(w, "| %s | %s |", g.name(), s)
		for _, f := range columns {
			_, m, _ := quartiles(g.values(s, f))
			fmt.Fprintf(w, " %s", short(m))
			if low, ratio, high := quartiles(g.ratios(s, g.Servers[0], f)); i > 0 && ratio > 0 {
				fmt.Fprintf(w, " (%.2f", ratio)
				if f == throughput || f == cpuPerCall {
					fmt.Fprintf(w, " [%.2f-%.2f]", low, high)
				}
				fmt.Fprint(w, ")")
			}
			fmt.Fprint(w, " |")
		}
		fmt.Fprintln(w)
	}
}

// The lines of a document between which matrix-docs writes.
const (
	docsBegin = "<!-- matrix: make bench-matrix-docs writes what follows -->\n"
	docsEnd   = "<!-- matrix: end -->\n"
)

// matrixDocs writes a saved matrix into a document.
func matrixDocs(args []string) error {
	flags := flag.NewFlagSet("perf matrix-docs", flag.ExitOnError)
	in := flags.String("in", "bench/results/matrix.json", "the saved matrix")
	docs := flags.String("docs", "docs/performance.md", "the document; empty to print")
	_ = flags.Parse(args) // ends the process
	data, err := os.ReadFile(*in)
	if err != nil {
		return err
	}
	var m matrixResults
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("%s: %w", *in, err)
	}
	if *docs == "" {
		m.print(os.Stdout)
		return nil
	}
	text, err := os.ReadFile(*docs)
	if err != nil {
		return err
	}
	if text, err = replaceBlock(text, &m); err != nil {
		return fmt.Errorf("%s: %w", *docs, err)
	}
	return os.WriteFile(*docs, text, 0o644) //nolint:gosec // a document that everybody may read
}

// replaceBlock replaces the text between the two marker lines of a document by the matrix.
func replaceBlock(text []byte, m *matrixResults) ([]byte, error) {
	before, rest, ok := bytes.Cut(text, []byte(docsBegin))
	_, after, also := bytes.Cut(rest, []byte(docsEnd))
	if !ok || !also {
		return nil, fmt.Errorf("it lacks the lines between which to write the matrix: %q and %q", docsBegin, docsEnd)
	}
	var block bytes.Buffer
	m.print(&block)
	return slices.Concat(before, []byte(docsBegin), block.Bytes(), []byte("\n"+docsEnd), after), nil
}
