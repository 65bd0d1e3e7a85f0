package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// gauge is one figure of a look.
type gauge struct {
	name string
	// per is the unit of the table in units of the figure.
	per float64
	// slack is the growth, relative to the mean, up to which the figure is flat; zero if
	// there is no verdict on it. least is the same in units of the table.
	slack, least float64
}

// gauges are the figures of a look. The heap that Go holds varies more than the live heap.
var gauges = []gauge{
	{"RSS MiB", 1 << 20, 0.1, 1},
	{"heap in use MiB", 1 << 20, 0.1, 1},
	{"live heap MiB", 1 << 20, 0.05, 1},
	{"goroutines", 1, 0.05, 5},
	{"open files", 1, 0.05, 5},
	{"cached secrets", 1, 0, 0},
	{"calls", 1, 0, 0},
}

// look has the figures of a broker, in the order of gauges.
type look struct {
	after  time.Duration
	values [7]float64
}

// look measures all gauges.
func (s *scene) look(ctx context.Context) (look, error) {
	m, err := metrics(ctx, s.broker.AdminAddr)
	if err != nil {
		return look{}, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.broker.Pid()))
	if err != nil {
		return look{}, err
	}
	if m["secretbroker_grpc_calls_total"] == 0 || m["go_goroutines"] == 0 {
		return look{}, errors.New("the broker lacks some of the expected metrics")
	}
	return look{values: [7]float64{
		float64(testbed.UsageOf(s.broker.Pid()).RSS),
		m["go_memstats_heap_inuse_bytes"],
		// The live heap of the last garbage collection, without stacks, of which there are few.
		m["go_memstats_next_gc_bytes"] / (1 + m["go_gc_gogc_percent"]/100),
		m["go_goroutines"], float64(len(files)), m["secretbroker_cache_entries"], m["secretbroker_grpc_calls_total"],
	}}, nil
}

// metrics returns a server's metrics, summed over their labels.
func metrics(ctx context.Context, addr string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	sums := make(map[string]float64)
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line[:max(0, strings.LastIndexByte(line, ' '))], "{")
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64); err == nil && name[0] != '#' {
			sums[name] += v
		}
	}
	return sums, nil
}

func header() string {
	var names []string
	for _, g := range gauges {
		names = append(names, g.name)
	}
	return strings.Join(names, " | ")
}

func (l look) row() string {
	var cells []string
	for i, g := range gauges {
		cells = append(cells, strconv.FormatFloat(l.values[i]/g.per, 'f', 0, 64))
	}
	return strings.Join(cells, " | ")
}

func (l look) String() string {
	var all []string
	for i, g := range gauges {
		all = append(all, fmt.Sprintf("%s %.0f", g.name, l.values[i]/g.per))
	}
	return strings.Join(all, ", ")
}

// printVerdict prints for each gauge whether it grew during the second half, according to a
// linear fit, and the uncertainty of that.
func printVerdict(w io.Writer, looks []look) {
	half := looks[len(looks)/2:]
	if len(half) < 5 {
		fmt.Fprintln(w, "\ntoo short for a verdict")
		return
	}
	took := half[len(half)-1].after - half[0].after
	fmt.Fprintf(w, "\n| | mean of the second half | grown over it (%v), and two standard errors of that | |\n|---|---|---|---|\n", took.Round(time.Second))
	for i, g := range gauges {
		if g.slack == 0 {
			continue
		}
		var x, y []float64
		for _, l := range half {
			x, y = append(x, float64(l.after)/float64(took)), append(y, l.values[i]/g.per)
		}
		mean, growth, uncertain := line(x, y)
		fmt.Fprintf(w, "| %s | %.1f | %+.1f ± %.1f | %s |\n", g.name, mean, growth, uncertain, g.verdict(mean, growth, uncertain))
	}
}

func (g gauge) verdict(mean, growth, uncertain float64) string {
	allowed := max(mean*g.slack, g.least)
	switch {
	case growth+uncertain <= allowed:
		return "flat"
	case growth-uncertain > allowed:
		return "GROWS"
	default:
		return "unclear, measure for a longer time"
	}
}

// line fits a straight line. It returns the mean of y, the slope, and twice the standard error
// of the slope.
func line(x, y []float64) (mean, rise, uncertain float64) {
	n := float64(len(x))
	var sumX, sumY float64
	for i := range x {
		sumX, sumY = sumX+x[i], sumY+y[i]
	}
	mean = sumY / n
	var xx, xy, rest float64
	for i := range x {
		xx += (x[i] - sumX/n) * (x[i] - sumX/n)
		xy += (x[i] - sumX/n) * (y[i] - mean)
	}
	rise = xy / xx
	for i := range x {
		d := y[i] - mean - rise*(x[i]-sumX/n)
		rest += d * d
	}
	return mean, rise, 2 * math.Sqrt(rest/(n-2)/xx)
}

func printEvents(w io.Writer, events []*event) {
	fmt.Fprintf(w, "\n| in the hour that is assumed | | done | told OVERLOADED | out of time, or left out | failed |\n|---|---|---|---|---|---|\n")
	for _, e := range events {
		fmt.Fprintf(w, "| %s | %d | %d | %d | %d | %d |\n", e.what, e.perHour, e.done.Load(), e.refused.Load(), e.late.Load(), e.failed.Load())
	}
	for _, e := range events {
		if err := e.first.Load(); err != nil {
			fmt.Fprintf(w, "%s, the first failure: %v\n", e.what, *err)
		}
	}
}
