// Command watch checks WatchService during faults. It runs two replicas of the broker with
// the race detector, a PostgreSQL database and the embedded Key Vault. Clients of several
// kinds watch secrets, while secrets are rotated, grants are revoked and added, integrations
// are deleted and created again, replicas are killed and restarted, and the database and the
// vault fail.
//
//	go run ./watch -for 3m
//
// The program knows at every moment what is true: which version each secret has, and who may
// read it. It checks every notice, and it checks that each client has the right picture
// whenever nothing has changed and nothing has failed for a certain time (-bound). The exit code is 1 if
// anything was wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"
)

// options are the command's flags.
type options struct {
	duration time.Duration
	limits   limits
	race     bool
	broker   string // a binary; built if empty
	asJSON   bool
	keep     bool
	seed     uint64
}

func main() {
	o := options{}
	flag.DurationVar(&o.duration, "for", 3*time.Minute, "how long changes and faults continue, at most an hour")
	flag.DurationVar(&o.limits.picture, "bound", 8*time.Second, "the time after which a client must have the right picture if nothing changes and nothing fails")
	flag.DurationVar(&o.limits.honour, "honour", time.Second, "the time after which no notice may have a version for a caller that has lost its grant")
	flag.BoolVar(&o.race, "race", true, "build the broker with the race detector")
	flag.StringVar(&o.broker, "broker", "", "the broker's binary; built from this checkout if empty")
	flag.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory with the logs of the replicas")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the order of changes and faults") //nolint:gosec // any bits
	flag.Parse()
	o.duration = min(o.duration, time.Hour)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	result, err := run(ctx, &o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "watch:", err)
		os.Exit(2)
	}
	if o.asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(result) // to standard output
	} else {
		result.print(os.Stdout)
	}
	if !result.clean() {
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (_ *result, err error) {
	dir, err := os.MkdirTemp("", "reliability-watch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if o.broker == "" {
		o.broker = filepath.Join(dir, "broker")
		args := []string{"build", "-o", o.broker}
		if o.race {
			args = append(args, "-race")
		}
		build := exec.CommandContext(ctx, "go", append(args, "./cmd/secretbroker")...)
		build.Dir = ".." // this program runs in the directory of its module
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the broker: %w\n%s", err, out)
		}
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close(o.keep)) }()
	fmt.Fprintln(os.Stderr, "seed", o.seed)
	clients, stopClients := startClients(ctx, w)
	defer stopClients()
	w.disturb(ctx, o, clients)
	settled, found := w.settle(ctx, clients, &o.limits)
	found = append(found, w.resolveAll(ctx)...)
	stopClients()
	found = append(found, w.nothingLeft(ctx)...)
	found = append(found, w.logFindings()...)
	r := judge(w.truth, clients, &o.limits)
	r.Settled, r.Duration = settled, o.duration
	r.add(found...)
	return r, ctx.Err()
}

// disturb changes what is true and causes faults, until the time is over.
func (w *world) disturb(ctx context.Context, o *options, clients []*watcher) {
	until, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { w.change(until, rand.New(rand.NewPCG(o.seed, 1))) })
	running.Go(func() { w.breakThings(until, rand.New(rand.NewPCG(o.seed, 2))) })
	running.Wait()
	for _, c := range clients {
		c.calm()
	}
}

// settle waits until every client has the right picture, for at most half a minute more than
// the bound, and returns how long that took. The pictures must then stay right.
func (w *world) settle(ctx context.Context, clients []*watcher, l *limits) (took time.Duration, found []finding) {
	began := time.Now()
	for wrong := clients; len(wrong) > 0 && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		if wrong = w.wrong(clients); len(wrong) > 0 && time.Since(began) > l.picture+30*time.Second {
			for _, c := range wrong {
				found = append(found, finding{"a picture that stays wrong", c.name})
			}
			break
		}
	}
	took = time.Since(began)
	pause(ctx, stayRight)
	for _, c := range w.wrong(clients) {
		found = append(found, finding{"a picture that became wrong at the end", c.name})
	}
	w.truth.end(time.Now())
	return took, found
}

// stayRight is for how long the pictures must stay right at the end.
const stayRight = ttl

// wrong returns the clients that have a wrong picture now.
func (w *world) wrong(clients []*watcher) (found []*watcher) {
	for _, c := range clients {
		if !c.right(w.truth) {
			found = append(found, c)
		}
	}
	return found
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
