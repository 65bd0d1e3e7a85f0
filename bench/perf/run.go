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
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// options are the flags of run.
type options struct {
	rounds           int
	warm, duration   time.Duration
	serverCPUs       string
	loadCPUs         string
	shapes           string
	rates            string
	servers          string
	brokers, profile string
	configs          int
	out              string
}

func run(ctx context.Context, args []string) (err error) {
	var o options
	flags := flag.NewFlagSet("perf run", flag.ExitOnError)
	flags.IntVar(&o.rounds, "rounds", 5, "how often each server is measured")
	flags.DurationVar(&o.warm, "warm", time.Second, "how long to load a server before measuring")
	flags.DurationVar(&o.duration, "duration", 4*time.Second, "how long to measure")
	flags.StringVar(&o.serverCPUs, "server-cpus", "0-1", "hold the servers to these CPUs with taskset; empty for all")
	flags.StringVar(&o.loadCPUs, "load-cpus", "2-3", "hold the load to these CPUs")
	flags.StringVar(&o.shapes, "shapes", "4x64,64x64", "connections x calls under way on each")
	flags.StringVar(&o.rates, "rates", "0.5,0.9", "then offer these parts of the floor's throughput at the first shape")
	flags.StringVar(&o.servers, "servers", "floor,tuned,broker", "what to measure")
	flags.StringVar(&o.brokers, "binaries", "", "further brokers to measure, NAME=PATH,...")
	flags.IntVar(&o.configs, "configs", 2, "references in a call")
	flags.StringVar(&o.profile, "profile", "", "measure only the broker, built to be profiled, and write its CPU profile to this file")
	flags.StringVar(&o.out, "out", "bench/results/latest.json", "where to save the results; empty for nowhere")
	_ = flags.Parse(args) // ends the process

	b, err := newBed(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	res := newResults(o)
	for _, shape := range strings.Split(o.shapes, ",") {
		if err := b.measureAll(ctx, res, shape, nil); err != nil {
			return err
		}
	}
	for _, part := range strings.Split(o.rates, ",") {
		if part == "" {
			continue
		}
		factor, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return fmt.Errorf("-rates: %w", err)
		}
		shape, _, _ := strings.Cut(o.shapes, ",")
		rate := factor * res.median(shape, "floor", throughput)
		if err := b.measureAll(ctx, res, shape, &rate); err != nil {
			return err
		}
	}
	res.print(os.Stdout)
	if o.out == "" {
		return nil
	}
	data, err := json.MarshalIndent(res, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o750); err != nil {
		return err
	}
	return os.WriteFile(o.out, append(data, '\n'), 0o600)
}

// resourceExhausted is the gRPC code of calls that a broker refuses because it has
// too much to do.
const resourceExhausted = "8"

// server is one of those that are compared.
type server struct {
	name    string
	command []string
}

// bed is what all measurements share.
type bed struct {
	o       options
	world   *testbed.World
	self    string
	env     []string // of the servers
	servers []server
	client  [2]string // certificate and key
	request string
}

func newBed(ctx context.Context, o options) (_ *bed, err error) {
	b := &bed{o: o}
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
	config, err := b.world.Config("perf.yaml", `limits:
  max_calls_per_second_per_principal: 1000000
  max_concurrent_calls_per_principal: 10000
  max_concurrent_calls: 100000`)
	if err != nil {
		return nil, err
	}
	serve := []string{"serve", "--config", config, "--log-format", "json"}
	files := []string{"floor", "-cert", b.world.ServerCertFile(), "-key", b.world.ServerKeyFile(), "-client-ca", b.world.ClientCAFile()}
	tag := ""
	if o.profile != "" {
		o.servers, tag = "broker", "cpuprofile"
		if o.profile, err = filepath.Abs(o.profile); err != nil {
			return nil, err
		}
		b.env = []string{"SECRETBROKER_CPUPROFILE=" + o.profile}
	}
	for name := range strings.SplitSeq(o.servers, ",") {
		switch name {
		case "floor":
			b.servers = append(b.servers, server{name, append([]string{b.self}, files...)})
		case "tuned":
			b.servers = append(b.servers, server{name, append(append([]string{b.self}, files...), "-tuned")})
		case "broker":
			binary, err := testbed.Build(ctx, b.world.Dir(), "cmd/broker", "-trimpath", "-tags", tag)
			if err != nil {
				return nil, err
			}
			b.servers = append(b.servers, server{name, append([]string{binary}, serve...)})
		default:
			return nil, fmt.Errorf("-servers: no server %q", name)
		}
	}
	for item := range strings.SplitSeq(o.brokers, ",") {
		if name, path, ok := strings.Cut(item, "="); ok {
			b.servers = append(b.servers, server{name, append([]string{path}, serve...)})
		}
	}
	return b, b.prepare()
}

// prepare writes what the load needs.
func (b *bed) prepare() error {
	cert, err := b.world.Clients.Issue("/connect/perf")
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	b.client = [2]string{filepath.Join(b.world.Dir(), "client.pem"), filepath.Join(b.world.Dir(), "client-key.pem")}
	b.request = filepath.Join(b.world.Dir(), "request.json")
	configs := map[string]string{"connection.user": devmode.VaultURL + "::sqlserver-db-secret::user"}
	for i := 1; i < b.o.configs; i++ {
		name := "connection.password"
		if i > 1 {
			name += strconv.Itoa(i)
		}
		configs[name] = devmode.VaultURL + "::sqlserver-db-secret::password"
	}
	req, err := json.Marshal(map[string]any{"integration_id": b.world.Env.IntegrationID, "configs": configs, "connector": "sqlserver-orders-cdc"})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(b.client[0], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600),
		os.WriteFile(b.client[1], pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600),
		os.WriteFile(b.request, req, 0o600),
	)
}

// measureAll measures every server in turn, as many times as there are rounds.
func (b *bed) measureAll(ctx context.Context, res *results, shape string, rate *float64) error {
	for round := range b.o.rounds {
		for i := range b.servers {
			s := b.servers[(i+round)%len(b.servers)] // nobody is always the first
			sample, err := b.measure(ctx, s, shape, rate)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			res.add(shape, rate, s.name, sample)
			fmt.Fprintf(os.Stderr, "%s round %d %-8s %7.0f calls/s  %6.2f µs CPU  p50 %6.0f  p99 %6.0f  p99.9 %6.0f µs  %5.1f allocations  %3.0f MiB\n", cmp.Or(res.Groups[len(res.Groups)-1].Offered, shape), round+1, s.name,
				sample[throughput], sample[cpuPerCall], sample[p50], sample[p99], sample[p999], sample[allocations], sample[rss])
		}
	}
	return nil
}

// measure runs one server under one load.
func (b *bed) measure(ctx context.Context, s server, shape string, rate *float64) (_ sample, err error) {
	var connections, inFlight int
	if _, err := fmt.Sscanf(shape, "%dx%d", &connections, &inFlight); err != nil {
		return nil, fmt.Errorf("-shapes: %q is not CONNECTIONSxCALLS", shape)
	}
	p, err := testbed.Start(b.o.serverCPUs, b.env, s.command...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	args := []string{b.self, "load", "-addr", p.Addr, "-ca", b.world.Env.CAFile, "-cert", b.client[0], "-key", b.client[1], "-request", b.request,
		"-connections", strconv.Itoa(connections), "-in-flight", strconv.Itoa(inFlight), "-warm", b.o.warm.String(), "-duration", b.o.duration.String()}
	if rate != nil {
		args = append(args, "-rate", strconv.FormatFloat(*rate, 'f', 0, 64))
	}
	if b.o.loadCPUs != "" {
		args = append([]string{"taskset", "-c", b.o.loadCPUs}, args...)
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
	var report loadReport
	for lines.Scan() {
		switch line := lines.Text(); line {
		case "begin":
			before = usageOf(ctx, p)
		case "end":
			after = usageOf(ctx, p)
		default:
			if err := json.Unmarshal([]byte(line), &report); err != nil {
				return nil, err
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("the load: %w", err)
	}
	refused := report.Failed[resourceExhausted]
	delete(report.Failed, resourceExhausted)
	if len(report.Failed) > 0 || report.Calls == 0 {
		return nil, fmt.Errorf("%d calls answered, failed %v", report.Calls, report.Failed)
	}
	calls := float64(report.Calls)
	return sample{
		throughput:  calls / report.Seconds,
		refusals:    100 * float64(refused) / (calls + float64(refused)),
		cpuPerCall:  float64((after.CPU - before.CPU).Microseconds()) / calls,
		p50:         report.P50,
		p99:         report.P99,
		p999:        report.P999,
		allocations: (after.mallocs - before.mallocs) / calls,
		rss:         float64(after.RSS) / (1 << 20),
	}, nil
}

// used is what a server has used.
type used struct {
	testbed.Usage
	mallocs float64
}

func usageOf(ctx context.Context, p *testbed.Process) used {
	u := used{Usage: testbed.UsageOf(p.Pid())}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.AdminAddr+"/metrics", nil)
	if err != nil {
		return u
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return u
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body) // without it there are no allocations in the table
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "go_memstats_mallocs_total "); ok {
			u.mallocs, _ = strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return u
}
