package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// dimension is a quantity with which the cost of a call may grow.
type dimension struct {
	name, unit string
	// say describes the conditions above the table.
	say    string
	levels func(*grown) ([]level, error)
}

// level is one value of a dimension; everything else is constant.
type level struct {
	label string
	floor []string // arguments of the floor server
	// config is the path of the broker's configuration.
	config string
	workload
}

// dimensions are in the order of the tables.
var dimensions = []dimension{
	{"configs", "configs", "each of a secret of its own; 4 connections x 4 calls under way", (*grown).configs},
	{"values", "size of a value", "two configs, one of that size; 4 connections x 4 calls under way; Key Vault's largest secret has 25 KiB", (*grown).values},
	{"grants", "grants", "at most 10,000 in an integration, the calls in turn through all of these; 4 connections x 16 calls under way", (*grown).grants},
	{"connections", "connections", "512 calls under way on all of them together", (*grown).connections},
	{"secrets", "secrets in the cache", "the calls ask for all of them in turn; 4 connections x 16 calls under way", (*grown).secrets},
}

// growth measures how the cost of a call grows with each dimension separately.
func growth(ctx context.Context, args []string) (err error) {
	var c conditions
	flags := flag.NewFlagSet("perf growth", flag.ExitOnError)
	c.register(flags)
	var names []string
	for _, d := range dimensions {
		names = append(names, d.name)
	}
	only := flags.String("only", strings.Join(names, ","), "what to vary")
	out := flags.String("out", "", "a file for the results; empty for none")
	_ = flags.Parse(args) // ends the process
	for name := range strings.SplitSeq(*only, ",") {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only: no such dimension: %q", name)
		}
	}

	b, err := newBed(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	g := &grown{bed: b}
	if g.binary, err = testbed.Build(ctx, b.world.Dir(), "cmd/secretbroker", "-trimpath"); err != nil {
		return err
	}
	res := newResults(c)
	for _, d := range dimensions {
		if !slices.Contains(strings.Split(*only, ","), d.name) {
			continue
		}
		if err := g.measureAll(ctx, res, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return res.save(*out)
}

// measureAll measures all levels in each round, so that disturbances of the machine affect all
// levels equally.
func (g *grown) measureAll(ctx context.Context, res *results, d dimension) error {
	levels, err := d.levels(g)
	if err != nil {
		return err
	}
	from := len(res.Groups)
	for round := range g.rounds {
		for _, l := range levels {
			servers := []server{{name: "floor", command: g.floor(l.floor...)}, {name: "broker", command: g.broker(g.binary, l.config)}}
			for i := range servers {
				s := servers[(i+round)%len(servers)]
				sample, err := g.measure(ctx, s, l.workload)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", l.label, s.name, err)
				}
				res.add(d.name+" "+l.label, nil, s.name, sample)
				fmt.Fprintf(os.Stderr, "%s %s round %d %-6s %7.0f calls/s  %7.2f µs CPU  p99 %6.0f µs  %5.1f %% refused\n",
					d.name, l.label, round+1, s.name, sample[throughput], sample[cpuPerCall], sample[p99], sample[refusals])
			}
		}
	}
	printGrowth(os.Stdout, d, levels, res.Groups[from:])
	return nil
}

// printGrowth writes the table of a dimension: medians of floor and broker, and the median and
// quartiles of the ratio of their CPU times in the same round.
func printGrowth(w io.Writer, d dimension, levels []level, groups []*group) {
	columns := []string{throughput, answerBytes, cpuPerCall, allocations, p50, p99, rss}
	fmt.Fprintf(w, "\nfloor, broker by %s: %s; medians of %d\n\n| %s | %s | CPU ratio |\n|---|%s---|\n",
		d.unit, d.say, len(groups[0].Samples["floor"]), d.unit, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for i, g := range groups {
		fmt.Fprintf(w, "| %s |", levels[i].label)
		for _, f := range columns {
			_, floor, _ := quartiles(g.values("floor", f))
			_, broker, _ := quartiles(g.values("broker", f))
			fmt.Fprintf(w, " %s, %s |", short(floor), short(broker))
		}
		low, m, high := quartiles(g.ratios("broker", "floor", cpuPerCall))
		fmt.Fprintf(w, " %.2f [%.2f-%.2f]", m, low, high)
		if _, refused, _ := quartiles(g.values("broker", refusals)); refused > 0 {
			fmt.Fprintf(w, ", %.1f %% refused", refused)
		}
		fmt.Fprintln(w, " |")
	}
}
