package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// The parts of the matrix.
const (
	partLoads   = "loads"   // every shape with every fsync delay
	partConfigs = "configs" // many configs in a call
	partSecrets = "secrets" // many secrets in the cache
	partHalf    = "half"    // half of the broker's capacity, at a fixed rate
)

// The servers of the matrix. The name of a broker with an fsync delay includes the delay.
const (
	serverFloor    = "floor"
	serverUnsynced = "unsynced"
	serverBroker   = "broker"
)

const (
	manyConfigs = 64
	fewSecrets  = 10
	manySecrets = 10_000
	// capacityShape is the load whose throughput is the broker's capacity.
	capacityShape = "4x64"
	// secretsShape is the load on many secrets.
	secretsShape = "4x16"
)

// matrixOptions are the flags of matrix.
type matrixOptions struct {
	conditions
	placements, delays, shapes, parts string
	limit                             time.Duration
	profiles                          string
	out                               string
}

// matrix measures the broker on the combinations of machine, disk and load that differ most,
// and compares the results with the targets.
func matrix(ctx context.Context, args []string) (err error) {
	var o matrixOptions
	flags := flag.NewFlagSet("perf matrix", flag.ExitOnError)
	o.register(flags)
	flags.StringVar(&o.placements, "placements", "1,2,all", "CPUs of the servers; -server-cpus and -load-cpus are ignored")
	flags.StringVar(&o.delays, "delays", "0,1ms,5ms,20ms", "delays added to every fsync of the audit log")
	flags.StringVar(&o.shapes, "shapes", "1x1,4x4,4x64,64x64", "connections x calls in flight on each")
	flags.StringVar(&o.parts, "parts", strings.Join([]string{partLoads, partConfigs, partSecrets, partHalf}, ","), "what to measure; half needs loads")
	flags.DurationVar(&o.limit, "limit", 2*time.Hour, "stop after this time and report the results so far")
	flags.StringVar(&o.profiles, "profiles", "", "build brokers with profiling, and write their CPU profiles to this directory")
	flags.StringVar(&o.out, "out", "bench/results/matrix.json", "a file for the results; empty for none")
	for name, value := range map[string]string{"memory": "256MiB", "duration": "3s"} {
		if err := flags.Set(name, value); err != nil {
			return err
		}
	}
	_ = flags.Parse(args) // ends the process

	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	g, err := newGrid(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.world.Close()) }()
	return g.measureAll(ctx)
}

// contender is a server in one cell, with its load.
type contender struct {
	server
	workload
}

// cell is one comparison: the same load on several servers.
type cell struct {
	placement
	part, shape string
	contenders  []contender
}

// grid is the state of the matrix during the measurement.
type grid struct {
	*grown
	options    matrixOptions
	placements []placement
	delays     []time.Duration
	saved      *matrixResults
}

func newGrid(ctx context.Context, o matrixOptions) (_ *grid, err error) {
	g := &grid{options: o}
	for _, p := range placements(testbed.CPUs(testbed.Available())) {
		if slices.Contains(strings.Split(o.placements, ","), p.Name) {
			g.placements = append(g.placements, p)
		}
	}
	for text := range strings.SplitSeq(o.delays, ",") {
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("-delays: %w", err)
		}
		g.delays = append(g.delays, d)
	}
	b, err := newBed(ctx, o.conditions)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.world.Close())
		}
	}()
	b.attempts = 3
	g.grown = &grown{bed: b}
	tags := "syncdelay"
	if o.profiles != "" {
		tags += ",cpuprofile"
		if err := os.MkdirAll(o.profiles, 0o750); err != nil {
			return nil, err
		}
	}
	if g.binary, err = testbed.Build(ctx, b.world.Dir(), "cmd/secretbroker", "-trimpath", "-tags", tags); err != nil {
		return nil, err
	}
	g.saved = &matrixResults{results: *newResults(o.conditions), Placements: g.placements, Delays: g.delays}
	g.saved.Machine["memory limit"] = o.memory
	return g, nil
}

// syncTime returns the median time of an fsync in a directory after a small write.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "sync-*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }() // otherwise removed with the directory
	defer func() { _ = f.Close() }()           // its content does not matter
	took := make([]time.Duration, 101)
	for i := range took {
		begin := time.Now()
		if _, err := f.Write(make([]byte, 1024)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// measureAll measures all cells, and saves and prints the results; if ctx ends, the results so
// far.
func (g *grid) measureAll(ctx context.Context) error {
	cells, err := g.cells()
	if err != nil {
		return err
	}
	const overhead = 800 * time.Millisecond // for a start, a stop and warming the cache
	samples := 0
	for _, c := range cells {
		samples += len(c.contenders)
	}
	if g.wants(partHalf) {
		samples += 2 * len(g.placements) * len(g.delays)
	}
	fmt.Fprintf(os.Stderr, "%d samples, about %v\n", samples*g.rounds, (time.Duration(samples*g.rounds) * (g.warm + g.duration + overhead)).Round(time.Minute))
	if err := g.measureRounds(ctx, cells); err != nil {
		return err
	}
	if g.wants(partHalf) {
		if err := g.measureRounds(ctx, g.halves(cells)); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		g.saved.Problems = append(g.saved.Problems, "stopped before the end: "+context.Cause(ctx).Error())
	}
	g.saved.print(os.Stdout)
	return g.saved.save(g.options.out)
}

func (g *grid) wants(part string) bool {
	return slices.Contains(strings.Split(g.options.parts, ","), part)
}

// measureRounds measures every cell once in each round, and saves the results after each.
func (g *grid) measureRounds(ctx context.Context, cells []cell) error {
	for round := range g.rounds {
		took, err := syncTime(g.world.Env.Dir)
		if err != nil {
			return err
		}
		g.saved.SyncMicros = append(g.saved.SyncMicros, micros(took))
		for _, c := range cells {
			g.serverCPUs, g.loadCPUs = c.Server, c.Load
			for i := range c.contenders {
				if ctx.Err() != nil {
					return nil
				}
				g.measureOne(ctx, round, &c, c.contenders[(i+round)%len(c.contenders)])
			}
		}
		if err := g.saved.save(g.options.out); err != nil {
			return err
		}
	}
	return nil
}

// measureOne adds a sample to the results, or the problem that prevented it.
func (g *grid) measureOne(ctx context.Context, round int, c *cell, who contender) {
	if g.options.profiles != "" {
		name := strings.NewReplacer(" ", "", "+", "-").Replace(strings.Join([]string{c.placement.Name, c.part, c.shape, who.name}, "_"))
		who.env = append(slices.Clone(who.env), "SECRETBROKER_CPUPROFILE="+filepath.Join(g.options.profiles, name+".prof"))
	}
	s, err := g.measure(ctx, who.server, who.workload)
	if err != nil && ctx.Err() == nil {
		g.saved.Problems = append(g.saved.Problems, fmt.Sprintf("%v, %s %s, %s, round %d: %v", c.placement, c.part, c.shape, who.name, round+1, err))
	}
	g.saved.group(c).add(who.name, s)
	fmt.Fprintf(os.Stderr, "%-3s %s %s round %d %-16s %7.0f calls/s  %6.2f µs CPU  p50 %6.0f  p99 %6.0f µs  %3.0f MiB  %.1f %% refused %v\n",
		c.placement.Name, c.part, c.shape, round+1, who.name, s[throughput], s[cpuPerCall], s[p50], s[p99], s[rss], s[refusals]+s[failures], errorText(err))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// brokerNamed returns the name of the broker with this fsync delay.
func brokerNamed(delay time.Duration) string {
	if delay == 0 {
		return serverBroker
	}
	return fmt.Sprintf("%s +%v", serverBroker, delay)
}

func (g *grid) brokerWith(config string, delay time.Duration) server {
	return server{name: brokerNamed(delay), command: g.broker(g.binary, config), env: []string{"SECRETBROKER_AUDIT_SYNC_DELAY=" + delay.String()}}
}

// shaped returns a workload with so many connections x calls in flight.
func shaped(shape, calls string) (workload, error) {
	w := workload{calls: calls}
	if _, err := fmt.Sscanf(shape, "%dx%d", &w.connections, &w.inFlight); err != nil {
		return w, fmt.Errorf("%q is not of the form CONNECTIONSxCALLS", shape)
	}
	return w, nil
}
