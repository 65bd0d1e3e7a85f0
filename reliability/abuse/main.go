// Command abuse attacks a broker as malicious callers would: in each case eight principals
// with ordinary certificates attack it in one way, while a granted worker (the victim) makes
// 50 calls a second. It measures the share of the victim's calls that are answered and their
// latency, the broker's peak memory, and the time until a revocation takes effect, and
// compares them with limits.
//
//	go run ./abuse                       # all cases, 10 s of attack each
//	go run ./abuse -case unfinished,ping # some of them
//	go run ./abuse table before.json after.json
//
// The broker has a CPU of its own, and a memory limit. The exit code is 1 if a case fails,
// and 2 if abuse could not measure. Everything listens on loopback.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are the command's flags.
type options struct {
	only, known  string
	broker       string
	out          string
	attack       time.Duration
	memory       int64 // the broker's memory limit, in bytes
	slack        bool
	list         bool
	serverCPUs   string
	loadCPUs     string
	keepFailures bool
	built        string // a temporary directory with the broker's binary
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	if len(args) > 0 {
		if part, ok := parts[args[0]]; ok {
			if err := part(ctx, args[1:]); err != nil {
				fmt.Fprintf(os.Stderr, "abuse %s: %v\n", args[0], err)
				return 2
			}
			return 0
		}
	}
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "abuse:", err)
		return 2
	}
	if o.list {
		for _, c := range cases {
			fmt.Printf("%-14s %s\n", c.name, c.title)
		}
		return 0
	}
	if err := o.place(args); err != nil {
		fmt.Fprintln(os.Stderr, "abuse:", err)
		return 2
	}
	r, err := suite(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "abuse:", err)
		return 2
	}
	r.print(os.Stdout)
	if o.out != "" {
		if err := r.write(o.out); err != nil {
			fmt.Fprintln(os.Stderr, "abuse:", err)
			return 2
		}
	}
	if r.failed(o.known) {
		return 1
	}
	return 0
}

// parts are the subcommands of the child processes, and those for results.
var parts = map[string]func(ctx context.Context, args []string) error{
	"call":   func(ctx context.Context, args []string) error { return runPart(ctx, args, makeCalls) },
	"attack": func(ctx context.Context, args []string) error { return runPart(ctx, args, runAttack) },
	"table":  func(_ context.Context, args []string) error { return table(os.Stdout, args) },
}

// runPart runs a part that reads its task from a JSON file and ends when its standard input
// ends.
func runPart[T any](ctx context.Context, args []string, part func(context.Context, T) error) error {
	if len(args) != 1 {
		return errors.New("only the suite starts this subcommand")
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var task T
	if err := json.Unmarshal(data, &task); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // as long as the process
		_, _ = os.Stdin.Read(make([]byte, 1)) // returns at its end
		cancel()
	}()
	return part(ctx, task)
}

func parseOptions(args []string) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("abuse", flag.ContinueOnError)
	flags.StringVar(&o.only, "case", "", "run only these cases, separated by commas")
	flags.StringVar(&o.known, "known", "", "cases that may fail: they are reported and do not make the exit code 1")
	flags.StringVar(&o.broker, "broker", "", "the broker's binary; built from this checkout if empty")
	flags.StringVar(&o.out, "out", "", "write the result as JSON to this file")
	flags.DurationVar(&o.attack, "time", 10*time.Second, "how long each attack lasts, 2s to 10m")
	flags.BoolVar(&o.slack, "slack", false, "allow for a busy machine: p99 up to 1 s, 99 % answered")
	flags.BoolVar(&o.list, "list", false, "list the cases")
	flags.StringVar(&o.serverCPUs, "server-cpus", "", "hold the broker to these CPUs; the first one if empty")
	flags.StringVar(&o.loadCPUs, "load-cpus", "", "hold everything else to these CPUs; all but the first if empty")
	flags.BoolVar(&o.keepFailures, "keep", false, "keep the directory of a case that fails, with the broker's log")
	memory := flags.Int64("memory", 256, "the broker's memory limit in MiB; GOMEMLIMIT is nine tenths of it")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.memory = *memory << 20
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if o.attack < 2*time.Second || o.attack > 10*time.Minute {
		return o, errors.New("-time must be 2s to 10m")
	}
	for _, list := range []string{o.only, o.known} {
		for _, name := range names(list) {
			if caseOf(name) == nil {
				return o, fmt.Errorf("there is no case %q; -list lists them", name)
			}
		}
	}
	return o, nil
}

// names splits a list at its commas.
func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
