// Command reliability runs the broker under steady load against the embedded Key Vault
// behind a fault-injecting proxy. It causes one failure after the other on a schedule, and
// counts the results: answered calls, wrong answers, leaked values, callers that were served
// although they must be denied, and the broker's recovery times.
//
//	go run . -for 3m
//
// It needs only Go, listens on loopback only, and ends by itself. The exit code is 1 if an
// answer was wrong, a value leaked, or a denied caller was served.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	duration := flag.Duration("for", 3*time.Minute, "how long to run, at most an hour")
	workers := flag.Int("workers", 32, "concurrent callers")
	asJSON := flag.Bool("json", false, "print the result as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	result, err := run(ctx, min(*duration, time.Hour), *workers)
	if err != nil {
		fmt.Fprintln(os.Stderr, "reliability:", err)
		os.Exit(2)
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(result)
	} else {
		result.print(os.Stdout)
	}
	if !result.clean() {
		os.Exit(1)
	}
}

func run(ctx context.Context, duration time.Duration, workers int) (*result, error) {
	dir, err := os.MkdirTemp("", "reliability-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "broker")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/secretbroker")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the broker: %w\n%s", err, out)
	}
	w, err := newWorld(ctx, filepath.Join(dir, "dev"), binary)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if err := w.startBroker(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	load, err := startLoad(ctx, w, workers)
	if err != nil {
		return nil, err
	}
	w.breakThings(ctx, load)
	load.wait()
	return load.result(w, duration), nil
}
