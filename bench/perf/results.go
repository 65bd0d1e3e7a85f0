package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// The figures of a sample. Times are in microseconds.
const (
	throughput  = "calls/s"
	refusals    = "refused %"
	failures    = "failed %"
	cpuPerCall  = "CPU µs/call"
	p50         = "p50 µs"
	p99         = "p99 µs"
	p999        = "p99.9 µs"
	allocations = "allocations"
	rss         = "RSS MiB"
	answerBytes = "bytes of the answer"
)

var figures = []string{throughput, refusals, failures, cpuPerCall, p50, p99, p999, allocations, rss}

// sample is one measurement of one server.
type sample map[string]float64

// group has the samples of all servers under one load.
type group struct {
	Shape string `json:"shape"`
	// Placement and Part locate the group in a matrix.
	Placement string `json:"placement,omitempty"`
	Part      string `json:"part,omitempty"`
	// Offered is the rate; empty for a fixed number of active calls.
	Offered string              `json:"offered,omitempty"`
	Servers []string            `json:"servers"`
	Samples map[string][]sample `json:"samples"` // by server, one a round, null if it is missing
}

// results is a saved run.
type results struct {
	Time    time.Time         `json:"time"`
	Machine map[string]string `json:"machine"`
	Groups  []*group          `json:"groups"`
}

func newResults(c conditions) *results {
	r := &results{Time: time.Now().UTC().Truncate(time.Second), Machine: map[string]string{
		"go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH, "cpus": fmt.Sprint(runtime.NumCPU()),
		"server cpus": c.serverCPUs, "load cpus": c.loadCPUs, "duration": c.duration.String(),
	}}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				r.Machine["cpu"] = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "google.golang.org/grpc" {
				r.Machine["grpc-go"] = m.Version
			}
		}
	}
	return r
}

// save writes the results to a file, unless its name is empty.
func (r *results) save(file string) error { return saveJSON(file, r) }

// saveJSON writes results of any kind to a file, unless its name is empty.
func saveJSON(file string, results any) error {
	if file == "" {
		return nil
	}
	data, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o600)
}

func (r *results) add(shape string, rate *float64, server string, s sample) {
	offered := ""
	if rate != nil {
		offered = fmt.Sprintf("%.0f/s", *rate)
	}
	i := slices.IndexFunc(r.Groups, func(g *group) bool { return g.Shape == shape && g.Offered == offered })
	if i < 0 {
		i = len(r.Groups)
		r.Groups = append(r.Groups, &group{Shape: shape, Offered: offered, Samples: make(map[string][]sample)})
	}
	r.Groups[i].add(server, s)
}

// median returns the median of a figure for a load with a fixed number of active calls.
func (r *results) median(shape, server, figure string) float64 {
	for _, g := range r.Groups {
		if g.Shape == shape && g.Offered == "" {
			_, m, _ := quartiles(g.values(server, figure))
			return m
		}
	}
	return 0
}

func (g *group) values(server, figure string) []float64 {
	var vs []float64
	for _, s := range g.Samples[server] {
		if s != nil {
			vs = append(vs, s[figure])
		}
	}
	return vs
}

// ratios returns a server's figures divided by those of base in the same round.
func (g *group) ratios(server, base, figure string) []float64 {
	var vs []float64
	for i, s := range g.Samples[server] {
		if s != nil && i < len(g.Samples[base]) && g.Samples[base][i][figure] > 0 {
			vs = append(vs, s[figure]/g.Samples[base][i][figure])
		}
	}
	return vs
}

func quartiles(vs []float64) (low, median, high float64) {
	if len(vs) == 0 {
		return 0, 0, 0
	}
	vs = slices.Sorted(slices.Values(vs))
	at := func(q float64) float64 {
		x := q * float64(len(vs)-1)
		i := int(x)
		if i+1 == len(vs) {
			return vs[i]
		}
		return vs[i] + (vs[i+1]-vs[i])*(x-float64(i))
	}
	return at(0.25), at(0.5), at(0.75)
}

// print writes a table for each load: medians, and the medians and quartiles of the ratios to
// the first server.
func (r *results) print(w io.Writer) {
	for _, g := range r.Groups {
		fmt.Fprintf(w, "\n%s: connections x calls under way", g.Shape)
		if g.Offered != "" {
			fmt.Fprintf(w, ", instead %s offered on as many connections", g.Offered)
		}
		fmt.Fprintf(w, "; medians of %d\n\n| server | %s |\n|---|%s\n", len(g.Samples[g.Servers[0]]), strings.Join(figures, " | "), strings.Repeat("---|", len(figures)))
		for _, s := range g.Servers {
			fmt.Fprintf(w, "| %s |", s)
			for _, f := range figures {
				_, m, _ := quartiles(g.values(s, f))
				fmt.Fprintf(w, " %s |", short(m))
			}
			fmt.Fprintln(w)
		}
		for _, s := range g.Servers[1:] {
			fmt.Fprintf(w, "| %s / %s |", s, g.Servers[0])
			for _, f := range figures {
				low, m, high := quartiles(g.ratios(s, g.Servers[0], f))
				if m == 0 {
					fmt.Fprint(w, " - |")
					continue
				}
				fmt.Fprintf(w, " %.2f [%.2f-%.2f] |", m, low, high)
			}
			fmt.Fprintln(w)
		}
	}
}

func short(v float64) string {
	if v == 0 {
		return "-"
	}
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// compare prints the differences of the ratios of two saved runs. Absolute figures of two runs
// can rarely be compared.
func compare(args []string) error {
	flags := flag.NewFlagSet("perf compare", flag.ExitOnError)
	_ = flags.Parse(args) // ends the process
	if flags.NArg() != 2 {
		return errors.New("expected two files, the old run and the new one")
	}
	var runs [2]results
	for i := range runs {
		data, err := os.ReadFile(flags.Arg(i))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &runs[i]); err != nil {
			return fmt.Errorf("%s: %w", flags.Arg(i), err)
		}
	}
	fmt.Fprintf(os.Stdout, "old: %s %v\nnew: %s %v\n\n", runs[0].Time.Format(time.RFC3339), runs[0].Machine, runs[1].Time.Format(time.RFC3339), runs[1].Machine)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LOAD\tSERVER\tFIGURE\tOLD RATIO\tNEW RATIO\tCHANGE\t")
	for i, g := range runs[1].Groups {
		if i >= len(runs[0].Groups) || runs[0].Groups[i].Shape != g.Shape {
			continue
		}
		was := runs[0].Groups[i]
		for _, s := range g.Servers[1:] {
			for _, f := range figures {
				lowOld, old, highOld := quartiles(was.ratios(s, was.Servers[0], f))
				lowNew, now, highNew := quartiles(g.ratios(s, g.Servers[0], f))
				verdict := "~"
				if old > 0 && (lowNew > highOld || highNew < lowOld) {
					verdict = fmt.Sprintf("%+.0f%%", (now/old-1)*100)
				}
				load := g.Shape
				if g.Offered != "" {
					load += " open"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f\t%s\t\n", load, s, f, old, now, verdict)
			}
		}
	}
	return w.Flush()
}
