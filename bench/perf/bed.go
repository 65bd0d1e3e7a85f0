package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// resourceExhausted is the gRPC code of calls that a broker refuses because it has
// too much to do.
const resourceExhausted = "8"

// conditions are what all measurements in rounds have in common.
type conditions struct {
	rounds               int
	warm, duration       time.Duration
	serverCPUs, loadCPUs string
	// memory is the GOMEMLIMIT of all servers; empty for none.
	memory string
	// quiet is which part of the servers' CPUs others may take while something is
	// measured; zero is any.
	quiet float64
}

func (c *conditions) register(flags *flag.FlagSet) {
	flags.IntVar(&c.rounds, "rounds", 5, "how often each server is measured")
	flags.DurationVar(&c.warm, "warm", time.Second, "how long to load a server before measuring")
	flags.DurationVar(&c.duration, "duration", 4*time.Second, "how long to measure")
	usual := placementNamed(placements(testbed.CPUs(testbed.Available())), "2")
	flags.StringVar(&c.serverCPUs, "server-cpus", usual.Server, "hold the servers to these CPUs with taskset; empty for all")
	flags.StringVar(&c.loadCPUs, "load-cpus", usual.Load, "hold the load to these CPUs")
	flags.StringVar(&c.memory, "memory", "", "the GOMEMLIMIT of every server, such as 256MiB; empty for none")
	flags.Float64Var(&c.quiet, "quiet", 0, "measure only while others take no more than this part of the servers' CPUs, such as 0.1; 0 for always")
}

// server is one of those that are compared.
type server struct {
	name    string
	command []string
	env     []string
	// start, if not nil, starts it instead, and may say what to send to it.
	start func(ctx context.Context) (p *testbed.Process, calls string, err error)
}

// workload is what a server is asked, and how much of it at a time.
type workload struct {
	// calls is a file with what to send.
	calls string
	// connections have inFlight calls under way on each, or, if rate is set, so
	// many calls a second on all of them.
	connections, inFlight int
	rate                  *float64
	// least is how long to measure at least.
	least time.Duration
}

// bed is what all measurements share.
type bed struct {
	conditions
	world  *testbed.World
	self   string
	env    []string  // of the servers
	client [2]string // certificate and key
	// attempts are how often something is measured until it was not disturbed.
	attempts int
}

func newBed(ctx context.Context, c conditions) (_ *bed, err error) {
	b := &bed{conditions: c, attempts: 100}
	if b.world, err = testbed.NewWorld(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.world.Close())
		}
	}()
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	cert, err := b.world.Clients.Issue("/connect/perf")
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	b.client = [2]string{filepath.Join(b.world.Dir(), "client.pem"), filepath.Join(b.world.Dir(), "client-key.pem")}
	return b, errors.Join(
		os.WriteFile(b.client[0], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600),
		os.WriteFile(b.client[1], pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
	)
}

// floor is the command of a floor server.
func (b *bed) floor(args ...string) []string {
	return append([]string{b.self, "floor", "-cert", b.world.ServerCertFile(), "-key", b.world.ServerKeyFile(), "-client-ca", b.world.ClientCAFile()}, args...)
}

// broker is the command of a broker with that configuration.
func (b *bed) broker(binary, config string) []string {
	return []string{binary, "serve", "--config", config, "--log-format", "json"}
}

// writeCalls writes what to send to a file and returns its path.
func (b *bed) writeCalls(name string, what calls) (string, error) {
	data, err := json.Marshal(what)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.world.Dir(), name+".json")
	return path, os.WriteFile(path, data, 0o600)
}

// resolveCalls are calls of Resolve.
func resolveCalls(requests ...*secretbrokerv1.ResolveRequest) (calls, error) {
	what := calls{Path: secretbrokerv1.ResolverService_Resolve_FullMethodName}
	for _, req := range requests {
		message, err := proto.Marshal(req)
		if err != nil {
			return what, err
		}
		what.Messages = append(what.Messages, message)
	}
	return what, nil
}

// undisturbed is by how much a measurement may be longer than it should be: more,
// and the machine or its user has stopped something meanwhile.
const undisturbed = 250 * time.Millisecond

var errDisturbed = errors.New("disturbed")

// measure runs one server under one load, again if it was disturbed, until it has
// tried b.attempts times.
func (b *bed) measure(ctx context.Context, s server, w workload) (sample, error) {
	for attempt := 1; ; attempt++ {
		b.waitForQuiet(ctx)
		result, err := b.measureOnce(ctx, s, w)
		if !errors.Is(err, errDisturbed) || attempt >= b.attempts || ctx.Err() != nil {
			return result, err
		}
		fmt.Fprintln(os.Stderr, s.name+":", err, "- once more")
	}
}

// waitForQuiet waits until others leave the servers' CPUs alone.
func (b *bed) waitForQuiet(ctx context.Context) {
	const pause = time.Second
	for b.quiet > 0 && ctx.Err() == nil {
		before := testbed.Busy(b.serverCPUs)
		wait(ctx, pause)
		if b.share(testbed.Busy(b.serverCPUs)-before, pause) <= b.quiet {
			return
		}
	}
}

// share is which part of the servers' CPUs so much of their time is.
func (b *bed) share(used, took time.Duration) float64 {
	return float64(used) / float64(took) / float64(max(1, len(testbed.CPUs(b.serverCPUs))))
}

func (b *bed) start(ctx context.Context, s server) (p *testbed.Process, calls string, err error) {
	if s.start != nil {
		return s.start(ctx)
	}
	// A log of some GiB would fill the disk, and be read by the next broker.
	if err := os.RemoveAll(filepath.Join(b.world.Env.Dir, auditFile)); err != nil {
		return nil, "", err
	}
	env := slices.Concat(b.env, s.env)
	if b.memory != "" {
		env = append(env, "GOMEMLIMIT="+b.memory)
	}
	p, err = testbed.Start(b.serverCPUs, env, s.command...)
	return p, "", err
}

// auditFile is the brokers' audit log, beside their configuration.
const auditFile = "audit.jsonl"

// overdue is how much longer than it should a measurement may take before it is
// given up.
const overdue = 2 * time.Minute

func (b *bed) measureOnce(ctx context.Context, s server, w workload) (_ sample, err error) {
	duration := max(b.duration, w.least)
	ctx, cancel := context.WithTimeout(ctx, b.warm+duration+overdue)
	defer cancel()
	p, what, err := b.start(ctx, s)
	if err != nil {
		return nil, err
	}
	w.calls = cmp.Or(what, w.calls)
	defer func() { err = errors.Join(err, p.Stop()) }()
	args := []string{b.self, "load", "-addr", p.Addr, "-ca", b.world.Env.CAFile, "-cert", b.client[0], "-key", b.client[1], "-calls", w.calls,
		"-connections", strconv.Itoa(w.connections), "-in-flight", strconv.Itoa(w.inFlight), "-warm", b.warm.String(), "-duration", duration.String()}
	if w.rate != nil {
		args = append(args, "-rate", strconv.FormatFloat(*w.rate, 'f', 0, 64))
	}
	if b.loadCPUs != "" {
		args = append([]string{"taskset", "-c", b.loadCPUs}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	var before, after used
	var begin time.Time
	var took time.Duration
	var report loadReport
	for lines.Scan() {
		switch line := lines.Text(); line {
		case "begin":
			begin, before = time.Now(), b.usageOf(ctx, p)
		case "end":
			took, after = time.Since(begin), b.usageOf(ctx, p)
		default:
			if err := json.Unmarshal([]byte(line), &report); err != nil {
				return nil, err
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("the load: %w", err)
	}
	if longest := max(took, time.Duration(report.Seconds*float64(time.Second))); longest > duration+undisturbed {
		return nil, fmt.Errorf("%w: %v instead of %v", errDisturbed, longest.Round(time.Millisecond), duration)
	}
	if others := b.share(after.busy-before.busy-(after.CPU-before.CPU), took); b.quiet > 0 && others > b.quiet {
		return nil, fmt.Errorf("%w: others took %.0f %% of the CPUs", errDisturbed, 100*others)
	}
	return report.sample(s.name, before, after)
}

// sample are the figures of a server that has used so much meanwhile.
func (report *loadReport) sample(server string, before, after used) (sample, error) {
	if report.Calls == 0 {
		return nil, fmt.Errorf("no call was answered, failed %v", report.Failed)
	}
	refused := report.Failed[resourceExhausted]
	delete(report.Failed, resourceExhausted)
	failed := 0
	for _, n := range report.Failed {
		failed += n
	}
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d calls answered, failed %v\n", server, report.Calls, report.Failed)
	}
	calls := float64(report.Calls)
	all := calls + float64(refused) + float64(failed)
	return sample{
		throughput:  calls / report.Seconds,
		refusals:    100 * float64(refused) / all,
		failures:    100 * float64(failed) / all,
		cpuPerCall:  float64((after.CPU - before.CPU).Microseconds()) / calls,
		p50:         report.P50,
		p99:         report.P99,
		p999:        report.P999,
		allocations: (after.mallocs - before.mallocs) / calls,
		answerBytes: float64(report.Bytes) / calls,
		rss:         float64(after.RSS) / (1 << 20),
	}, nil
}

// used is what a server has used.
type used struct {
	testbed.Usage
	busy    time.Duration // of its CPUs, whoever used them
	mallocs float64
}

func (b *bed) usageOf(ctx context.Context, p *testbed.Process) used {
	u := used{Usage: testbed.UsageOf(p.Pid()), busy: testbed.Busy(b.serverCPUs)}
	if p.AdminAddr == "" {
		return u
	}
	m, _ := metrics(ctx, p.AdminAddr) // without it there are no allocations in the table
	u.mallocs = m["go_memstats_mallocs_total"]
	return u
}
