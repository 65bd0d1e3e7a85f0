package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// facts measures what has no counterpart in a floor server: how reads of a store are saved
// and distributed, and the cost of connections and integrations.
func facts(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("perf facts", flag.ExitOnError)
	only := flags.String("only", "cold,herd,connections,start", "what to measure")
	_ = flags.Parse(args) // ends the process
	for name := range strings.SplitSeq(*only, ",") {
		measure, ok := map[string]func(context.Context) error{"cold": cold, "herd": herd, "connections": connections, "start": start}[name]
		if !ok {
			return fmt.Errorf("-only: no such measurement: %q", name)
		}
		if err := measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// stage is a broker with its own environment, and connections to it.
type stage struct {
	world   *testbed.World
	command []string
	broker  *testbed.Process
	conns   []*grpc.ClientConn
}

// newStage starts a broker whose embedded Key Vault has n secrets s0, s1, ... and needs 30 ms
// for each read. limits are the integration's limits.
func newStage(ctx context.Context, secrets, conns int, limits string) (_ *stage, err error) {
	s := &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.world, err = testbed.NewWorld(ctx); err != nil {
		return nil, err
	}
	dir := s.world.Env.Dir
	vault := strings.TrimSuffix(strings.TrimPrefix(devmode.VaultURL, "https://"), ".vault.azure.net")
	var content strings.Builder
	fmt.Fprintf(&content, "vaults:\n  %s:\n    delay: 30ms\n    secrets:\n", vault)
	for i := range secrets {
		fmt.Fprintf(&content, "      s%d: {value: 'correct-horse-battery-staple-%d'}\n", i, i)
	}
	if err := os.WriteFile(filepath.Join(dir, "secrets.yaml"), []byte(content.String()), 0o600); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "integrations", s.world.Env.IntegrationID+".yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	integration, _, _ := strings.Cut(string(data), "grants:")
	integration += "grants:\n  - principals: [spiffe://example.org/connect/*]\n" + limits
	if err := os.WriteFile(file, []byte(integration), 0o600); err != nil { //nolint:gosec // in a directory of ours
		return nil, err
	}
	binary, err := testbed.Build(ctx, s.world.Dir(), "cmd/secretbroker", "-trimpath")
	if err != nil {
		return nil, err
	}
	config, err := s.world.Config("facts.yaml", "limits: {max_calls_per_second_per_principal: 1000000, max_concurrent_calls_per_principal: 100000, max_concurrent_calls: 100000}")
	if err != nil {
		return nil, err
	}
	s.command = []string{binary, "serve", "--config", config, "--log-format", "json"}
	return s, s.start(conns)
}

// start starts the broker and connects to it.
func (s *stage) start(conns int) (err error) {
	if s.broker, err = testbed.Start("", nil, s.command...); err != nil {
		return err
	}
	return s.connect(conns)
}

// stop stops the broker.
func (s *stage) stop() error {
	for _, c := range s.conns {
		_ = c.Close() // the connections are no longer needed
	}
	broker := s.broker
	s.conns, s.broker = nil, nil
	if broker == nil {
		return nil
	}
	return broker.Stop()
}

func (s *stage) connect(n int) error {
	for i := range n {
		cert, err := s.world.Clients.Issue(fmt.Sprintf("/connect/facts-%d", i))
		if err != nil {
			return err
		}
		config, err := testbed.ClientTLS(s.world.Env.CAFile, cert)
		if err != nil {
			return err
		}
		conn, err := grpc.NewClient("passthrough:///"+s.broker.Addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
	}
	return nil
}

func (s *stage) resolve(ctx context.Context, conn, first, n int) error {
	req := &secretbrokerv1.ResolveRequest{IntegrationId: s.world.Env.IntegrationID, Configs: make(map[string]string)}
	for i := range n {
		req.Configs[fmt.Sprint("c", i)] = fmt.Sprintf("%s::s%d", devmode.VaultURL, first+i)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := secretbrokerv1.NewResolverServiceClient(s.conns[conn%len(s.conns)]).Resolve(ctx, req)
	return err
}

// metric returns the sum of a metric of the broker.
func (s *stage) metric(ctx context.Context, name string) (sum float64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.broker.AdminAddr+"/metrics", nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body) // a failed read shows as zero in the table
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, name) {
			v, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			sum += v
		}
	}
	return sum
}

func (s *stage) close() error {
	err := s.stop()
	if s.world != nil {
		err = errors.Join(err, s.world.Close())
	}
	return err
}

// coldSizes are the numbers of secrets in a call.
var coldSizes = []int{1, 2, 8, 64}

// cold reads secrets that no call has read before, one and many in a call: through a broker
// that has a connection to the store, and through one that has just started and logs in
// first. It measures every size in each round.
func cold(ctx context.Context) (err error) {
	const rounds, starts = 41, 9
	s, err := newStage(ctx, 4000, 1, "reads: {max_concurrent: 128}\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	next := 0
	read := func(n int) (time.Duration, error) {
		begin := time.Now()
		err := s.resolve(ctx, 0, next, n)
		next += n
		return time.Since(begin), err
	}
	if _, err := read(64); err != nil { // makes the broker connect and get a token
		return err
	}
	connected, first := make(map[int][]time.Duration), make(map[int][]time.Duration)
	for range rounds {
		for _, n := range coldSizes {
			took, err := read(n)
			if err != nil {
				return err
			}
			connected[n] = append(connected[n], took)
		}
	}
	next = 0
	for range starts {
		for _, n := range coldSizes {
			if err := errors.Join(s.stop(), s.start(1)); err != nil {
				return err
			}
			if err := s.ready(ctx); err != nil {
				return err
			}
			took, err := read(n)
			if err != nil {
				return err
			}
			first[n] = append(first[n], took)
		}
	}
	fmt.Fprintf(os.Stdout, "\ncold calls, a store that takes 30 ms; medians [quartiles] of %d and %d\n\n"+
		"| secrets in the call | connection at hand | first call of all, with login |\n|---|---|---|\n", rounds, starts)
	for _, n := range coldSizes {
		fmt.Fprintf(os.Stdout, "| %d | %s | %s |\n", n, spread(connected[n]), spread(first[n]))
	}
	return nil
}

// ready waits for the first connection.
func (s *stage) ready(ctx context.Context) error {
	conn := s.conns[0]
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
	return nil
}

func spread(took []time.Duration) string {
	slices.Sort(took)
	at := func(part, of int) time.Duration { return took[(len(took)-1)*part/of].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%v [%v-%v]", at(1, 2), at(1, 4), at(3, 4))
}

// herd starts 10,000 connectors with 2,000 distinct secrets at the same moment, with a store
// that allows 400 reads per second.
func herd(ctx context.Context) (err error) {
	const connectors, secrets, conns = 10_000, 2_000, 250
	s, err := newStage(ctx, secrets+1, conns, "reads: {per_second: 400, max_concurrent: 64}\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for i := range conns { // make all connections, and get a token from the store
		if err := s.resolve(ctx, i, secrets, 1); err != nil {
			return err
		}
	}
	before := s.metric(ctx, "secretbroker_store_reads_total")
	var callers sync.WaitGroup
	failed := make(chan error, connectors)
	begin := time.Now()
	for i := range connectors {
		callers.Go(func() {
			if err := s.resolve(ctx, i, i%secrets, 1); err != nil {
				failed <- err
			}
		})
	}
	callers.Wait()
	took := time.Since(begin)
	var first error
	if len(failed) > 0 {
		first = <-failed
	}
	use := testbed.UsageOf(s.broker.Pid())
	fmt.Fprintf(os.Stdout, "\nherd: %d connectors on %d connections, %d distinct secrets, 400 reads/s of 30 ms (%d s at best)\n\nall answered after %.2f s (%.2f x), %d failed (%v), %.0f reads, peak memory %d MiB\n",
		connectors, conns, secrets, secrets/400, took.Seconds(), took.Seconds()/(secrets/400.0), len(failed), first, s.metric(ctx, "secretbroker_store_reads_total")-before, use.PeakRSS>>20)
	return nil
}

// connections compares the memory of idle connections with the floor's.
func connections(ctx context.Context) (err error) {
	const n = 1000
	s, err := newStage(ctx, 1, 0, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w := s.world
	floorServer, err := testbed.Start("", nil, self, "floor", "-cert", w.ServerCertFile(), "-key", w.ServerKeyFile(), "-client-ca", w.ClientCAFile())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floorServer.Stop()) }()
	perConnection := make(map[string]float64)
	for name, p := range map[string]*testbed.Process{"floor": floorServer, "broker": s.broker} {
		at := &stage{world: w, broker: p}
		if err := at.connect(1); err != nil {
			return err
		}
		_ = at.resolve(ctx, 0, 0, 1) // the floor does not have the secret, which does not matter
		before := at.metric(ctx, "go_memstats_heap_inuse_bytes") + at.metric(ctx, "go_memstats_stack_inuse_bytes")
		if err := at.connect(n); err != nil {
			return err
		}
		for i := range n {
			_ = at.resolve(ctx, i+1, 0, 1) // makes the connection
		}
		after := at.metric(ctx, "go_memstats_heap_inuse_bytes") + at.metric(ctx, "go_memstats_stack_inuse_bytes")
		perConnection[name] = (after - before) / n / 1024
		for _, c := range at.conns {
			_ = c.Close() // the connections are no longer needed
		}
	}
	fmt.Fprintf(os.Stdout, "\nidle connections, heap and stacks in use: floor %.0f KiB, broker %.0f KiB each (%.2f x; garbage not yet collected counts too)\n",
		perConnection["floor"], perConnection["broker"], perConnection["broker"]/perConnection["floor"])
	return nil
}

// start measures a start with 10,000 integrations.
func start(ctx context.Context) (err error) {
	w, err := testbed.NewWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	dir := filepath.Join(w.Env.Dir, "integrations")
	data, err := os.ReadFile(filepath.Join(dir, w.Env.IntegrationID+".yaml"))
	if err != nil {
		return err
	}
	for i := range 10_000 {
		name := fmt.Sprintf("i%05d", i)
		content := strings.Replace(string(data), "id: "+w.Env.IntegrationID, "id: "+name, 1)
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(content), 0o600); err != nil { //nolint:gosec // in a directory of ours
			return err
		}
	}
	binary, err := testbed.Build(ctx, w.Dir(), "cmd/secretbroker", "-trimpath")
	if err != nil {
		return err
	}
	config, err := w.Config("start.yaml", "")
	if err != nil {
		return err
	}
	var took []time.Duration
	for range 5 {
		begin := time.Now()
		p, err := testbed.Start("", nil, binary, "serve", "--config", config, "--log-format", "json", "--log-level", "info")
		if err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		if err := p.Stop(); err != nil {
			return err
		}
	}
	slices.Sort(took)
	fmt.Fprintf(os.Stdout, "\nstart with 10,000 integrations until ready: %v (median of 5, %v to %v)\n", took[2].Round(time.Millisecond), took[0].Round(time.Millisecond), took[4].Round(time.Millisecond))
	return nil
}
