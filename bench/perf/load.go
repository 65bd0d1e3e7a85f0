package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// loadReport is the output of the load, as JSON.
type loadReport struct {
	Calls  int            `json:"calls"`
	Failed map[string]int `json:"failed,omitempty"` // by gRPC code or HTTP status
	// Bytes is the total size of all answers.
	Bytes int `json:"bytes"`
	// Seconds is the duration of the measurement.
	Seconds float64 `json:"seconds"`
	// P50, P99 and P999 are the latencies since a call was due, in microseconds.
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// load sends calls on many connections: a fixed number at a time, or at a fixed rate. It
// prints "begin" when the measurement starts, after every message has been answered once, and
// then its report.
func load(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("perf load", flag.ExitOnError)
	addr := flags.String("addr", "", "the server")
	ca := flags.String("ca", "", "the server's authority")
	certFile := flags.String("cert", "", "the client's certificate")
	keyFile := flags.String("key", "", "its key")
	callsFile := flags.String("calls", "", "a file with the calls to send, as JSON")
	connections := flags.Int("connections", 4, "connections")
	inFlight := flags.Int("in-flight", 64, "calls under way on each connection")
	rate := flags.Float64("rate", 0, "send so many calls per second on all connections together, whether or not they are answered, instead of a fixed number at a time")
	warm := flags.Duration("warm", time.Second, "the duration before the measurement")
	duration := flags.Duration("duration", 5*time.Second, "the duration of the measurement")
	_ = flags.Parse(args) // ends the process

	pair, err := tls.LoadX509KeyPair(*certFile, *keyFile)
	if err != nil {
		return err
	}
	config, err := testbed.ClientTLS(*ca, pair)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(*callsFile)
	if err != nil {
		return err
	}
	var what calls
	if err := json.Unmarshal(data, &what); err != nil {
		return err
	}
	what.frame()
	all := make([]*connection, *connections)
	for i := range all {
		if all[i], err = dial(ctx, *addr, config, what); err != nil {
			return err
		}
		all[i].turn = i * len(what.Messages) / len(all)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for _, c := range all {
		next := func(now time.Time) error { return c.send(now) }
		if *rate > 0 {
			next = func(time.Time) error { return nil }
			running.Go(func() { stopOn(cancel, c.offer(ctx, *rate/float64(*connections))) })
		} else if err := c.start(*inFlight); err != nil {
			return err
		}
		running.Go(func() { stopOn(cancel, c.receive(next)) })
	}
	for slices.ContainsFunc(all, func(c *connection) bool { return !c.sentAll(len(all)) }) {
		if wait(ctx, 10*time.Millisecond); ctx.Err() != nil {
			break
		}
	}
	wait(ctx, *warm)
	measure(all, true)
	fmt.Fprintln(os.Stdout, "begin")
	begin := time.Now()
	wait(ctx, *duration)
	measure(all, false)
	took := time.Since(begin)
	fmt.Fprintln(os.Stdout, "end")
	if err := context.Cause(ctx); err != nil {
		return err
	}
	cancel(nil)
	for _, c := range all {
		_ = c.conn.Close() // ends receive
	}
	running.Wait()
	return json.NewEncoder(os.Stdout).Encode(report(all, took))
}

// sentAll reports whether c has received answers to its share of the messages.
func (c *connection) sentAll(connections int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered*connections >= len(c.data)
}

func stopOn(cancel context.CancelCauseFunc, err error) {
	if err != nil {
		cancel(err)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func measure(all []*connection, on bool) {
	for _, c := range all {
		c.mu.Lock()
		c.measured = on
		c.mu.Unlock()
	}
}

// offer sends perSecond calls per second, each when it is due.
func (c *connection) offer(ctx context.Context, perSecond float64) error {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	begin := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		elapsed := time.Since(begin)
		c.mu.Lock()
		for ; n < int(elapsed.Seconds()*perSecond); n++ {
			if err := c.send(begin.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))); err != nil {
				c.mu.Unlock()
				return err
			}
		}
		err := c.out.Flush()
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func report(all []*connection, took time.Duration) loadReport {
	r := loadReport{Seconds: took.Seconds(), Failed: make(map[string]int)}
	var times []time.Duration
	for _, c := range all {
		times = append(times, c.took...)
		r.Bytes += c.bytes
		for code, n := range c.failed {
			r.Failed[code] += n
		}
	}
	slices.Sort(times)
	r.Calls = len(times)
	at := func(q float64) float64 {
		if len(times) == 0 {
			return 0
		}
		return float64(times[int(q*float64(len(times)-1))]) / float64(time.Microsecond)
	}
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
	return r
}
