// Command overload measures what a broker does with more calls than it can
// answer: it starts a real one on loopback, finds its capacity with a closed
// loop, and then offers multiples of that with an open one, which does not slow
// down because answers do.
//
//	go run ./bench/overload
//	go run ./bench/overload -pin 0 -refs 20      # the broker on CPU 0 alone
//
// Calls are single attempts over mutual TLS by several principals. Latency is
// from the moment a call was due, so that a generator that falls behind shows.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	broker      string
	pin         string
	levels      string
	limits      string
	duration    time.Duration
	timeout     time.Duration
	principals  int
	connections int
	refs        int
	workers     int
	capacity    float64
	noisy       bool
}

func main() {
	var o options
	flag.StringVar(&o.broker, "broker", "", "the broker's binary; built from this checkout if empty")
	flag.StringVar(&o.pin, "pin", "", "hold the broker to these CPUs, such as 0 or 0-1, with taskset")
	flag.StringVar(&o.levels, "levels", "1,2,5,10", "multiples of the capacity to offer")
	flag.StringVar(&o.limits, "limits", "", `the broker's limits, such as "max_concurrent_calls: 512"; the defaults if empty`)
	flag.DurationVar(&o.duration, "duration", 5*time.Second, "how long each level lasts")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Second, "deadline of each call")
	flag.IntVar(&o.principals, "principals", 16, "callers, each with a certificate of its own")
	flag.IntVar(&o.connections, "connections", 4, "connections of each caller")
	flag.IntVar(&o.refs, "refs", 1, "references in each call")
	flag.IntVar(&o.workers, "workers", 64, "calls under way while the capacity is measured")
	flag.Float64Var(&o.capacity, "capacity", 0, "take this many calls a second for the capacity instead of measuring it")
	flag.BoolVar(&o.noisy, "noisy", false, "let all the load but 100 calls a second come from one caller, and report on the others alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "overload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	var levels []float64
	for text := range strings.SplitSeq(o.levels, ",") {
		level, err := strconv.ParseFloat(text, 64)
		if err != nil || level <= 0 {
			return fmt.Errorf("-levels: %q is no multiple", text)
		}
		levels = append(levels, level)
	}
	t, err := startTarget(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = t.stop(err) }()
	if err := t.warm(ctx); err != nil {
		return err
	}
	capacity := o.capacity
	if capacity == 0 {
		used := t.cpu()
		if capacity, err = t.closedLoop(ctx, o); err != nil {
			return err
		}
		perCall := time.Duration(float64(t.cpu()-used) / (capacity * o.duration.Seconds()))
		fmt.Fprintf(os.Stdout, "capacity %.0f calls/s (closed loop, %d at a time, %d references each), %v of the broker's CPU a call\n\n",
			capacity, o.workers, o.refs, perCall.Round(time.Microsecond))
	}
	fmt.Fprintln(os.Stdout, "| offered | sent/s | answered OK/s | refused OVERLOADED/s | out of time/s | other/s | p50 of admitted | p99 of admitted | p50 of refused | generator late, p99 | broker's CPUs |")
	fmt.Fprintln(os.Stdout, "|---|---|---|---|---|---|---|---|---|---|---|")
	for _, level := range levels {
		used := t.cpu()
		r := t.openLoop(ctx, o, level*capacity)
		used = t.cpu() - used
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(os.Stdout, "| %gx | %s %.2f |\n", level, r.row(o.duration), used.Seconds()/r.took.Seconds())
		if r.firstOther != nil {
			fmt.Fprintln(os.Stderr, "first other error:", r.firstOther)
		}
	}
	return nil
}
