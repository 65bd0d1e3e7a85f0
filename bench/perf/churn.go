package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// event is an event that occurs repeatedly.
type event struct {
	what string
	// perHour is the number of events in the assumed hour.
	perHour int
	// atOnce is the maximum number of concurrent events; further ones are skipped.
	atOnce int
	// do causes the n-th event. Its error is an unexpected error or an unexpected answer
	// of the broker.
	do func(ctx context.Context, n int) error

	done, refused, late, failed atomic.Int64
	first                       atomic.Pointer[error]
}

// churn runs the events of an hour in a shorter time, and reports whether the broker's
// memory, goroutines and files grow.
func churn(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("perf churn", flag.ExitOnError)
	duration := flags.Duration("duration", 5*time.Minute, "the duration; the events are always those of an hour")
	every := flags.Duration("every", 5*time.Second, "the interval of the measurements")
	binary := flags.String("binary", "", "the broker's binary; built from this checkout if empty")
	cpus := flags.String("server-cpus", "", "run the broker on these CPUs, with taskset; empty for all")
	_ = flags.Parse(args) // ends the process

	speed := float64(time.Hour) / float64(*duration)
	// Entries with a lifetime must not live longer, counted in events, than in an hour.
	ttl := max(time.Duration(float64(5*time.Minute)/speed), time.Second).Round(time.Second)
	s, err := newScene(ctx, *binary, *cpus, ttl)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	fmt.Fprintf(os.Stdout, "an hour's events in %v: %.3g times as fast; time-to-live %v instead of 5m\n", *duration, speed, ttl)
	if err := s.fillUsage(ctx); err != nil {
		return err
	}
	before, err := s.look(ctx)
	if err != nil {
		return err
	}

	events := s.events()
	running, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	for _, e := range events {
		all.Go(func() { e.run(running, speed) })
	}
	looks, err := s.watch(running, *duration, *every)
	stop()
	all.Wait()
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	printEvents(os.Stdout, events)
	printVerdict(os.Stdout, looks)
	after, err := s.quiet(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "\nbefore: %v\nafter everything ended and two and a half minutes: %v\n", before, after)
	return nil
}

// run causes the event speed times as often as in the assumed hour, until ctx ends. It does
// not catch up on events that were missed while the machine was suspended.
func (e *event) run(ctx context.Context, speed float64) {
	pause := time.Duration(float64(time.Hour) / float64(e.perHour) / speed)
	var underWay sync.WaitGroup
	defer underWay.Wait()
	free := make(chan struct{}, e.atOnce)
	due := time.Now().Add(pause)
	for n := 0; ; n++ {
		if wait(ctx, time.Until(due)); ctx.Err() != nil {
			return
		}
		if due = due.Add(pause); time.Since(due) > time.Second {
			due = time.Now()
		}
		select {
		case free <- struct{}{}:
		default:
			e.late.Add(1)
			continue
		}
		underWay.Go(func() {
			// Let started events end.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
			e.note(e.do(ctx, n))
			cancel()
			<-free
		})
	}
}

func (e *event) note(err error) {
	switch status.Code(err) {
	case codes.OK:
		e.done.Add(1)
	case codes.ResourceExhausted:
		e.refused.Add(1)
	case codes.DeadlineExceeded:
		e.late.Add(1)
	default:
		e.failed.Add(1)
		e.first.CompareAndSwap(nil, &err)
	}
}

// watch measures the broker repeatedly for the given time. Time in which the machine was
// suspended does not count.
func (s *scene) watch(ctx context.Context, duration, every time.Duration) (looks []look, err error) {
	fmt.Fprintf(os.Stdout, "\n| after | %s |\n|---|---|---|---|---|---|---|---|\n", header())
	tick := time.NewTicker(every)
	defer tick.Stop()
	ran, last := time.Duration(0), time.Now()
	for ran < duration {
		select {
		case <-ctx.Done():
			return looks, nil
		case <-tick.C:
		}
		gap := time.Since(last)
		if gap > 2*every {
			fmt.Fprintf(os.Stdout, "nothing ran here for %v\n", (gap - every).Round(time.Second))
			gap = every
		}
		ran, last = ran+gap, time.Now()
		l, err := s.look(ctx)
		if err != nil {
			return looks, err
		}
		l.after = ran
		looks = append(looks, l)
		fmt.Fprintf(os.Stdout, "| %v | %s |\n", l.after.Round(time.Second), l.row())
	}
	return looks, nil
}

// quiet waits until Go has collected the garbage, which it does every two minutes when the
// process is idle, and measures once more.
func (s *scene) quiet(ctx context.Context) (look, error) {
	s.hangUp()
	wait(ctx, 150*time.Second)
	return s.look(ctx)
}
