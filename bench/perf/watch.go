package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// watchFigures are the results of perf watch.
type watchFigures struct {
	Machine map[string]string `json:"machine"`
	Time    time.Time         `json:"time"`
	// Streams and Items are of the many small streams.
	Streams int `json:"streams"`
	Items   int `json:"items"`
	// Open is the time in seconds in which they were opened, and OpenCPU the broker's CPU
	// time for it.
	Open    float64 `json:"open_seconds"`
	OpenCPU float64 `json:"open_cpu_seconds"`
	// RSS and Heap are the growth of the resident memory and of heap and stacks in use
	// for a stream, in KiB: of a small stream, and of one with 1,000 items.
	RSS       float64 `json:"rss_kib"`
	Heap      float64 `json:"heap_kib"`
	LargeRSS  float64 `json:"large_rss_kib"`
	LargeHeap float64 `json:"large_heap_kib"`
	// IdleCPU is the share of one CPU that the broker uses with idle small streams, and
	// NoCPU without any stream.
	IdleCPU float64 `json:"idle_cpu"`
	NoCPU   float64 `json:"no_cpu"`
	// Rotations are the rounds of a change of one secret that all small streams watch.
	Rotations []rotation `json:"rotations"`
	// Unary has the load of Resolve with and without idle small streams.
	Unary *group `json:"unary"`
}

// rotation is the change of one secret. Times are in milliseconds, from the hint to the
// notices.
type rotation struct {
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Last  float64 `json:"last_ms"`
	Reads float64 `json:"reads"` // of the store
}

// watchBench is the environment of perf watch.
type watchBench struct {
	*bed
	command []string
	second  []string // of another broker beside the first
	file    string   // of the secrets
	changes int
	calls   string
	res     *watchFigures
}

const (
	smallConns, smallStreams, smallItems = 100, 10_000, 20
	largeStreams, largeItems             = 100, 1000
	rotations                            = 7
	idle                                 = 15 * time.Second
)

// watch measures streams of Watch: their memory and CPU time, the time of a notice, and their
// effect on Resolve.
func watch(ctx context.Context, args []string) (err error) {
	c := conditions{}
	flags := flag.NewFlagSet("perf watch", flag.ExitOnError)
	c.register(flags)
	out := flags.String("out", "bench/results/watch.json", "a file for the results; empty for none")
	_ = flags.Parse(args) // ends the process
	b, err := newBed(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	w := &watchBench{bed: b, res: &watchFigures{Machine: newResults(c).Machine, Time: time.Now().UTC().Truncate(time.Second), Streams: smallStreams, Items: smallItems}}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	for _, measure := range []func(context.Context) error{w.large, w.small} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	w.res.print(os.Stdout)
	return saveJSON(*out, w.res)
}

// prepare writes the secrets, the integration and the configuration. Nothing is read again
// because of its age.
func (w *watchBench) prepare(ctx context.Context) error {
	env := w.world.Env
	w.file = env.SecretsFile
	data, err := os.ReadFile(env.IntegrationFile)
	if err != nil {
		return err
	}
	integration, _, _ := strings.Cut(string(data), "cache:")
	integration += "cache: {ttl: 24h}\nreads: {max_concurrent: 128}\ngrants:\n" + connectAll
	if err := errors.Join(w.rotate(), os.WriteFile(env.IntegrationFile, []byte(integration), 0o600)); err != nil { //nolint:gosec // in a directory of ours
		return err
	}
	binary, err := testbed.Build(ctx, w.world.Dir(), "cmd/secretbroker", "-trimpath")
	if err != nil {
		return err
	}
	config, err := w.world.Config("watch.yaml", `watch:
  splay: 0s
  max_streams: 100000
  max_streams_per_principal: 100000
  max_items: 1000000
  max_items_per_principal: 1000000
  max_secrets_per_principal: 10000
  max_reads_per_second: 10000
`+unlimited)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	second := config + ".second.yaml"                                                                                           // brokers do not share an audit log
	if err := os.WriteFile(second, bytes.Replace(text, []byte(auditFile), []byte("second-"+auditFile), 1), 0o600); err != nil { //nolint:gosec // in a directory of ours
		return err
	}
	w.command, w.second = w.broker(binary, config), w.broker(binary, second)
	what, err := resolveCalls(&secretbrokerv1.ResolveRequest{IntegrationId: env.IntegrationID, Configs: map[string]string{
		configName(1): devmode.VaultURL + "::s1", configName(2): devmode.VaultURL + "::s2",
	}})
	if err != nil {
		return err
	}
	w.calls, err = w.writeCalls("watch", what)
	return err
}

// rotate writes the file of the secrets with a new value of s0.
func (w *watchBench) rotate() error {
	vault := strings.TrimSuffix(strings.TrimPrefix(devmode.VaultURL, "https://"), ".vault.azure.net")
	var content strings.Builder
	fmt.Fprintf(&content, "vaults:\n  %s:\n    secrets:\n", vault)
	w.changes++
	for i := range stored {
		n := 0
		if i == 0 {
			n = w.changes
		}
		fmt.Fprintf(&content, "      s%d: {value: 'correct-horse-battery-staple-%d'}\n", i, n)
	}
	return errors.Join(os.WriteFile(w.file+".new", []byte(content.String()), 0o600), os.Rename(w.file+".new", w.file))
}

// memoryOf returns the resident memory, and heap and stacks in use, in KiB.
func (w *watchBench) memoryOf(ctx context.Context, p *testbed.Process) (resident, heap float64) {
	m, _ := metrics(ctx, p.AdminAddr) // without metrics the table has no heap
	return float64(testbed.UsageOf(p.Pid()).RSS) / 1024, (m["go_memstats_heap_inuse_bytes"] + m["go_memstats_stack_inuse_bytes"]) / 1024
}

// settled runs the load on a broker, which makes it collect its garbage, and returns the
// memory then.
func (w *watchBench) settled(ctx context.Context, p *testbed.Process) (resident, heap float64, err error) {
	if _, err := w.resolve(ctx, p); err != nil {
		return 0, 0, err
	}
	resident, heap = w.memoryOf(ctx, p)
	return resident, heap, nil
}

// resolve measures Resolve.
func (w *watchBench) resolve(ctx context.Context, p *testbed.Process) (sample, error) {
	return w.loadOn(ctx, p, "broker", workload{calls: w.calls, connections: 4, inFlight: 4})
}

// large measures streams of 1,000 items.
func (w *watchBench) large(ctx context.Context) (err error) {
	p, err := testbed.Start(w.serverCPUs, nil, w.command...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	resident, heap, err := w.settled(ctx, p)
	if err != nil {
		return err
	}
	ws, err := openWatchers(ctx, w.world, p.Addr, largeStreams/10, largeStreams, largeItems)
	if err != nil {
		return err
	}
	defer ws.close()
	nowResident, nowHeap, err := w.settled(ctx, p)
	w.res.LargeRSS, w.res.LargeHeap = (nowResident-resident)/largeStreams, (nowHeap-heap)/largeStreams
	return err
}

// small measures many streams of a few items.
func (w *watchBench) small(ctx context.Context) (err error) {
	without, err := testbed.Start(w.serverCPUs, nil, w.second...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, without.Stop()) }()
	p, err := testbed.Start(w.serverCPUs, nil, w.command...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	resident, heap, err := w.settled(ctx, p)
	if err != nil {
		return err
	}
	begin, before := time.Now(), testbed.UsageOf(p.Pid())
	ws, err := openWatchers(ctx, w.world, p.Addr, smallConns, smallStreams, smallItems)
	if err != nil {
		return err
	}
	defer ws.close()
	w.res.Open, w.res.OpenCPU = time.Since(begin).Seconds(), (testbed.UsageOf(p.Pid()).CPU - before.CPU).Seconds()
	wait(ctx, 2*time.Second)
	for range rotations {
		if err := w.tell(ctx, p, ws); err != nil {
			return err
		}
	}
	before, beforeWithout := testbed.UsageOf(p.Pid()), testbed.UsageOf(without.Pid())
	wait(ctx, idle)
	w.res.IdleCPU = (testbed.UsageOf(p.Pid()).CPU - before.CPU).Seconds() / idle.Seconds()
	w.res.NoCPU = (testbed.UsageOf(without.Pid()).CPU - beforeWithout.CPU).Seconds() / idle.Seconds()
	if err := w.compare(ctx, without, p); err != nil {
		return err
	}
	nowResident, nowHeap := w.memoryOf(ctx, p)
	w.res.RSS, w.res.Heap = (nowResident-resident)/smallStreams, (nowHeap-heap)/smallStreams
	return nil
}

// compare measures Resolve with and without streams, in rounds.
func (w *watchBench) compare(ctx context.Context, without, with *testbed.Process) error {
	w.res.Unary = &group{Shape: "4x4", Samples: make(map[string][]sample)}
	for round := range w.rounds {
		for i := range 2 {
			name, p := "no streams", without
			if (i+round)%2 == 1 {
				name, p = "idle streams", with
			}
			s, err := w.resolve(ctx, p)
			if err != nil {
				return err
			}
			w.res.Unary.add(name, s)
		}
	}
	return nil
}

// tell changes the secret that all streams watch, and measures until the last one is told. A
// Resolve that requires a new read is the hint.
func (w *watchBench) tell(ctx context.Context, p *testbed.Process, ws *watchers) error {
	ws.do(func() { ws.changed = nil })
	st := &stage{world: w.world, broker: p, conns: ws.conns}
	reads := st.metric(ctx, "secretbroker_store_reads_total")
	if err := w.rotate(); err != nil {
		return err
	}
	begin := time.Now()
	if err := st.fresh(ctx, "s0"); err != nil {
		return err
	}
	if err := ws.await(ctx, func() bool { return len(ws.changed) == smallStreams }); err != nil {
		return err
	}
	var took []float64
	for _, at := range ws.changed {
		took = append(took, float64(at.Sub(begin).Microseconds())/1000)
	}
	slices.Sort(took)
	w.res.Rotations = append(w.res.Rotations, rotation{
		P50: took[len(took)/2], P99: took[len(took)*99/100], Last: took[len(took)-1],
		Reads: st.metric(ctx, "secretbroker_store_reads_total") - reads,
	})
	wait(ctx, time.Second)
	return nil
}

func (f *watchFigures) print(w io.Writer) {
	middle := func(of func(rotation) float64) (low, median, high float64) {
		var vs []float64
		for _, r := range f.Rotations {
			vs = append(vs, of(r))
		}
		slices.Sort(vs)
		return vs[0], vs[len(vs)/2], vs[len(vs)-1]
	}
	row := func(what, format string, args ...any) {
		fmt.Fprintf(w, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "\n| %d streams of %d items on %d connections | |\n|---|---|\n", f.Streams, f.Items, smallConns)
	row("opened in, CPU time of the broker", "%.1f s, %.1f s", f.Open, f.OpenCPU)
	row("memory of a stream: resident; heap and stacks in use", "%.1f KiB; %.1f KiB", f.RSS, f.Heap)
	row("the same of a stream of 1,000 items", "%.0f KiB; %.0f KiB", f.LargeRSS, f.LargeHeap)
	row("CPU of the broker with idle streams, without streams", "%.2f %%, %.2f %% of one", 100*f.IdleCPU, 100*f.NoCPU)
	low, median, high := middle(func(r rotation) float64 { return r.P50 })
	row("one rotation, from the hint to the notice: p50", "%.0f ms [%.0f-%.0f]", median, low, high)
	low, median, high = middle(func(r rotation) float64 { return r.P99 })
	row("p99", "%.0f ms [%.0f-%.0f]", median, low, high)
	low, median, high = middle(func(r rotation) float64 { return r.Last })
	row("the last one", "%.0f ms [%.0f-%.0f]", median, low, high)
	low, _, high = middle(func(r rotation) float64 { return r.Reads })
	row("reads of the store for it", "%.0f to %.0f", low, high)
	fmt.Fprintf(w, "\n| Resolve, %d rounds | no streams | idle streams |\n|---|---|---|\n", len(f.Unary.Samples["no streams"]))
	for _, figure := range []string{throughput, cpuPerCall, p50, p99} {
		fmt.Fprintf(w, "| %s |", figure)
		for _, name := range []string{"no streams", "idle streams"} {
			low, m, high := quartiles(f.Unary.values(name, figure))
			fmt.Fprintf(w, " %s [%s-%s] |", short(m), short(low), short(high))
		}
		fmt.Fprintln(w)
	}
}

// fresh makes the broker read a secret.
func (s *stage) fresh(ctx context.Context, name string) error {
	_, err := secretbrokerv1.NewResolverServiceClient(s.conns[0]).Resolve(ctx, &secretbrokerv1.ResolveRequest{
		IntegrationId: s.world.Env.IntegrationID, MaxAge: durationpb.New(0), Configs: map[string]string{rotating: devmode.VaultURL + "::" + name},
	})
	return err
}
