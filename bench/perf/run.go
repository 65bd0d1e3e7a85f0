package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// options are the flags of run.
type options struct {
	conditions
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
	o.register(flags)
	flags.StringVar(&o.shapes, "shapes", "4x64,64x64", "connections x calls under way on each")
	flags.StringVar(&o.rates, "rates", "0.5,0.9", "then offer these parts of the floor's throughput at the first shape")
	flags.StringVar(&o.servers, "servers", "floor,tuned,broker,unsynced", "what to measure; unsynced is the broker with audit.sync none")
	flags.StringVar(&o.brokers, "binaries", "", "further brokers to measure, NAME=PATH,...")
	flags.IntVar(&o.configs, "configs", 2, "references in a call")
	flags.StringVar(&o.profile, "profile", "", "measure only the broker, built to be profiled, and write its CPU profile to this file")
	flags.StringVar(&o.out, "out", "bench/results/latest.json", "where to save the results; empty for nowhere")
	_ = flags.Parse(args) // ends the process

	b, err := newBed(ctx, o.conditions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	c, err := newContest(ctx, b, o)
	if err != nil {
		return err
	}
	res := newResults(o.conditions)
	res.Machine["configs"] = strconv.Itoa(o.configs)
	for _, shape := range strings.Split(o.shapes, ",") {
		if err := c.measureAll(ctx, res, shape, nil); err != nil {
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
		if err := c.measureAll(ctx, res, shape, &rate); err != nil {
			return err
		}
	}
	res.print(os.Stdout)
	return res.save(o.out)
}

// unlimited removes the limits of one principal, because one principal makes all the calls.
const unlimited = `limits:
  max_calls_per_second_per_principal: 1000000
  max_concurrent_calls_per_principal: 10000
  max_concurrent_calls: 100000`

// unsynced writes a copy of the configuration in the same directory, with an audit log that is
// not synced to the disk.
func unsynced(config string) (string, error) {
	text, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	path := strings.TrimSuffix(config, ".yaml") + "-unsynced.yaml"
	return path, os.WriteFile(path, //nolint:gosec // beside what we have just written
		bytes.Replace(text, []byte("audit: {"), []byte("audit: {sync: none, "), 1), 0o600)
}

// contest is a comparison: the servers and their calls.
type contest struct {
	*bed
	servers []server
	calls   string // path of a file
}

func newContest(ctx context.Context, b *bed, o options) (*contest, error) {
	c := &contest{bed: b}
	config, err := b.world.Config("perf.yaml", unlimited)
	if err != nil {
		return nil, err
	}
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
		case "": // -binaries alone
		case "floor":
			c.servers = append(c.servers, server{name: name, command: b.floor("-configs", strconv.Itoa(o.configs))})
		case "tuned":
			c.servers = append(c.servers, server{name: name, command: b.floor("-tuned", "-configs", strconv.Itoa(o.configs))})
		case "broker", "unsynced":
			binary, err := testbed.Build(ctx, b.world.Dir(), "cmd/secretbroker", "-trimpath", "-tags", tag)
			if err != nil {
				return nil, err
			}
			with := config
			if name == "unsynced" {
				if with, err = unsynced(config); err != nil {
					return nil, err
				}
			}
			c.servers = append(c.servers, server{name: name, command: b.broker(binary, with)})
		default:
			return nil, fmt.Errorf("-servers: no server %q", name)
		}
	}
	for item := range strings.SplitSeq(o.brokers, ",") {
		if name, path, ok := strings.Cut(item, "="); ok {
			c.servers = append(c.servers, server{name: name, command: b.broker(path, config)})
		}
	}
	req := &secretbrokerv1.ResolveRequest{IntegrationId: b.world.Env.IntegrationID, Connector: "sqlserver-orders-cdc", Configs: make(map[string]string)}
	for i := range o.configs {
		key := "password"
		if i == 0 {
			key = "user"
		}
		req.Configs[configName(i)] = devmode.VaultURL + "::sqlserver-db-secret::" + key
	}
	what, err := resolveCalls(req)
	if err != nil {
		return nil, err
	}
	c.calls, err = b.writeCalls("resolve", what)
	return c, err
}

// measureAll measures every server in turn in each round.
func (c *contest) measureAll(ctx context.Context, res *results, shape string, rate *float64) error {
	w, err := shaped(shape, c.calls)
	if err != nil {
		return fmt.Errorf("-shapes: %w", err)
	}
	w.rate = rate
	for round := range c.rounds {
		for i := range c.servers {
			s := c.servers[(i+round)%len(c.servers)] // no server is always the first
			sample, err := c.measure(ctx, s, w)
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
