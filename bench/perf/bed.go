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

// resourceExhausted is the gRPC code of calls that an overloaded broker refuses.
const resourceExhausted = "8"

// conditions are the common options of all measurements in rounds.
type conditions struct {
	rounds               int
	warm, duration       time.Duration
	serverCPUs, loadCPUs string
	// memory is the GOMEMLIMIT of all servers; empty for none.
	memory string
	// quiet is the maximum part of the servers' CPUs that other processes may use during a
	// measurement; zero for no limit.
	quiet float64
}

func (c *conditions) register(flags *flag.FlagSet) {
	flags.IntVar(&c.rounds, "rounds", 5, "how many times each server is measured")
	flags.DurationVar(&c.warm, "warm", time.Second, "the load's duration before the measurement")
	flags.DurationVar(&c.duration, "duration", 4*time.Second, "the duration of a measurement")
	usual := placementNamed(placements(testbed.CPUs(testbed.Available())), "2")
	flags.StringVar(&c.serverCPUs, "server-cpus", usual.Server, "run the servers on these CPUs, with taskset; empty for all")
	flags.StringVar(&c.loadCPUs, "load-cpus", usual.Load, "run the load on these CPUs")
	flags.StringVar(&c.memory, "memory", "", "the GOMEMLIMIT of every server, such as 256MiB; empty for none")
	flags.Float64Var(&c.quiet, "quiet", 0, "measure only while other processes use at most this part of the servers' CPUs, such as 0.1; 0 for no limit")
}

// server is a server that is compared.
type server struct {
	name    string
	command []string
	env     []string
	// start, if not nil, starts the server instead of command, and may return other calls.
	start func(ctx context.Context) (p *testbed.Process, calls string, err error)
}

// workload is the load on a server.
type workload struct {
	// calls is a file with the calls to send.
	calls string
	// connections is the number of connections. Each has inFlight active calls; or, if
	// rate is set, all of them together get that many calls per second.
	connections, inFlight int
	rate                  *float64
	// least is the minimum duration of a measurement.
	least time.Duration
}

// bed is the environment that all measurements share.
type bed struct {
	conditions
	world  *testbed.World
	self   string
	env    []string  // environment of the servers
	client [2]string // files of the certificate and the key
	// attempts is the maximum number of attempts until a measurement is not disturbed.
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

// floor returns the command of a floor server.
func (b *bed) floor(args ...string) []string {
	return append([]string{b.self, "floor", "-cert", b.world.ServerCertFile(), "-key", b.world.ServerKeyFile(), "-client-ca", b.world.ClientCAFile()}, args...)
}

// broker returns the command of a broker with that configuration.
func (b *bed) broker(binary, config string) []string {
	return []string{binary, "serve", "--config", config, "--log-format", "json"}
}

// writeCalls writes the calls to a file and returns its path.
func (b *bed) writeCalls(name string, what calls) (string, error) {
	data, err := json.Marshal(what)
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.world.Dir(), name+".json")
	return path, os.WriteFile(path, data, 0o600)
}

// resolveCalls returns calls of Resolve.
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

// undisturbed is how much longer than planned a measurement may take. If it takes longer,
// the machine or its user has stopped the process meanwhile.
const undisturbed = 250 * time.Millisecond

var errDisturbed = errors.New("disturbed")

// measure measures one server under one load, again if it was disturbed, at most b.attempts
// times.
func (b *bed) measure(ctx context.Context, s server, w workload) (sample, error) {
	for attempt := 1; ; attempt++ {
		b.waitForQuiet(ctx)
		result, err := b.measureOnce(ctx, s, w)
		if !errors.Is(err, errDisturbed) || attempt >= b.attempts || ctx.Err() != nil {
			return result, err
		}
		fmt.Fprintln(os.Stderr, s.name+":", err, "- measuring again")
	}
}

// waitForQuiet waits until other processes do not use the servers' CPUs.
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

// share returns the part of the servers' CPUs that a CPU time is.
func (b *bed) share(used, took time.Duration) float64 {
	return float64(used) / float64(took) / float64(max(1, len(testbed.CPUs(b.serverCPUs))))
}

func (b *bed) start(ctx context.Context, s server) (p *testbed.Process, calls string, err error) {
	if s.start != nil {
		return s.start(ctx)
	}
	// A log of several GiB would fill the disk, and the next broker would read it.
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

// auditFile is the brokers' audit log, in the directory of their configuration.
const auditFile = "audit.jsonl"

// overdue is how much longer than planned a measurement may take before it is aborted.
const overdue = 2 * time.Minute

func (b *bed) measureOnce(ctx context.Context, s server, w workload) (_ sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.warm+max(b.duration, w.least)+overdue)
	defer cancel()
	p, what, err := b.start(ctx, s)
	if err != nil {
		return nil, err
	}
	w.calls = cmp.Or(what, w.calls)
	defer func() { err = errors.Join(err, p.Stop()) }()
	return b.loadOn(ctx, p, s.name, w)
}

// loadOn measures a running server under one load.
func (b *bed) loadOn(ctx context.Context, p *testbed.Process, name string, w workload) (sample, error) {
	duration := max(b.duration, w.least)
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
		return nil, fmt.Errorf("%w: other processes used %.0f %% of the CPUs", errDisturbed, 100*others)
	}
	return report.sample(name, before, after)
}

// sample computes the figures of a server from its usage before and after.
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

// used is the usage of a server.
type used struct {
	testbed.Usage
	busy    time.Duration // of its CPUs, for all processes
	mallocs float64
}

func (b *bed) usageOf(ctx context.Context, p *testbed.Process) used {
	u := used{Usage: testbed.UsageOf(p.Pid()), busy: testbed.Busy(b.serverCPUs)}
	if p.AdminAddr == "" {
		return u
	}
	m, _ := metrics(ctx, p.AdminAddr) // without metrics the table has no allocations
	u.mallocs = m["go_memstats_mallocs_total"]
	return u
}
