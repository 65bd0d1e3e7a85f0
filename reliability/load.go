package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// load is the set of callers with their results.
type load struct {
	world   *world
	running sync.WaitGroup

	mu     sync.Mutex
	counts counts
	// cleared is the time at which the last failure ended; zero after the broker has
	// answered a later fresh read.
	cleared    time.Time
	fault      string
	recoveries map[string]time.Duration // the slowest recovery from each failure
	latest     []string                 // some of the errors
}

type counts struct {
	Sent, Answered, Stale                 int
	Denied                                int // expected denials
	WrongAnswers, DeniedButServed, TooOld int
	Errors                                map[string]int // by reason, of callers without retries
	Patient, PatientFailed                int            // of callers with retries
}

// kind is a kind of caller.
type kind struct {
	who         func(*devmode.Environment) devmode.Identity
	integration string
	vault       string
	attempts    int
	denied      bool
}

var kinds = []kind{
	{func(e *devmode.Environment) devmode.Identity { return e.Worker }, "cspi-shaky", shakyVault, 1, false},
	{func(e *devmode.Environment) devmode.Identity { return e.Worker }, "cspi-steady", steadyVault, 1, false},
	{func(e *devmode.Environment) devmode.Identity { return e.Worker }, "cspi-shaky", shakyVault, 8, false},
	{func(e *devmode.Environment) devmode.Identity { return e.OtherWorker }, "cspi-steady", steadyVault, 1, true},
}

func startLoad(ctx context.Context, w *world, workers int) (*load, error) {
	l := &load{world: w, recoveries: make(map[string]time.Duration)}
	l.counts.Errors = make(map[string]int)
	for i := range workers {
		k := kinds[i%len(kinds)]
		c, err := l.dial(k)
		if err != nil {
			return nil, err
		}
		l.running.Go(func() {
			defer c.Close()
			for ctx.Err() == nil {
				l.call(ctx, c, k)
				pause(ctx, time.Duration(10+rand.IntN(20))*time.Millisecond)
			}
		})
	}
	probe, err := l.dial(kinds[0])
	if err != nil {
		return nil, err
	}
	l.running.Go(func() {
		defer probe.Close()
		for ctx.Err() == nil {
			l.probe(ctx, probe)
			pause(ctx, 50*time.Millisecond)
		}
	})
	return l, nil
}

func (l *load) dial(k kind) (*client.Client, error) {
	id := k.who(l.world.env)
	return client.New(client.Config{
		Addrs: []string{l.world.addr}, CAFile: l.world.env.CAFile, CertFile: id.CertFile, KeyFile: id.KeyFile,
		MaxAttempts: k.attempts, Timeout: time.Duration(k.attempts) * 3 * time.Second,
	})
}

func (l *load) wait() { l.running.Wait() }

// call requests a few secrets and checks the answer.
func (l *load) call(ctx context.Context, c *client.Client, k kind) {
	configs := make(map[string]string)
	for range 1 + rand.IntN(3) {
		name := fmt.Sprintf("load-%02d", rand.IntN(secrets))
		configs[name] = "https://" + k.vault + ".vault.azure.net::" + name
	}
	req := client.ResolveRequest{IntegrationID: k.integration, Configs: configs, Connector: "reliability"}
	if rand.IntN(10) == 0 {
		maxAge := time.Duration(rand.IntN(1000)) * time.Millisecond
		req.MaxAge = &maxAge
	}
	begun := time.Now()
	res, err := c.Resolve(ctx, req)
	ended := time.Now()
	if ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Sent++
	if k.attempts > 1 {
		l.counts.Patient++
	}
	if err != nil {
		l.failed(err, k)
		return
	}
	if k.denied || k.integration == "cspi-steady" && l.world.mustBeDenied(begun, ended) {
		l.counts.DeniedButServed++
		l.wrong("%s was served through %s", k.who(l.world.env).ID, k.integration)
		return
	}
	l.counts.Answered++
	for name, v := range res.Values {
		if !l.world.right(k.vault+"/"+name, v.Reveal(), v.FetchTime) {
			l.counts.WrongAnswers++
			l.wrong("%s %s: a value that the secret did not have at %s", k.vault, name, v.FetchTime)
		}
		oldest := ttl
		if v.Stale {
			l.counts.Stale++
			oldest += maxStale
		}
		if req.MaxAge != nil {
			oldest = min(oldest, *req.MaxAge)
		}
		const clockSlack = 50 * time.Millisecond
		if age := begun.Sub(v.FetchTime); age > oldest+clockSlack {
			l.counts.TooOld++
			l.wrong("%s %s: %s old, the maximum is %s (stale %v)", k.vault, name, age, oldest, v.Stale)
		}
	}
}

// failed counts a call without an answer. It requires l.mu.
func (l *load) failed(err error, k kind) {
	var e *client.Error
	if !errors.As(err, &e) {
		l.counts.Errors["not a client.Error"]++
		return
	}
	if e.Reason == client.ReasonAccessDenied {
		l.counts.Denied++
		return
	}
	if k.attempts > 1 {
		l.counts.PatientFailed++
		return
	}
	reason := string(e.Reason)
	if reason == "" {
		reason = e.Code.String()
	}
	l.counts.Errors[reason]++
}

func (l *load) wrong(format string, args ...any) {
	if len(l.latest) < 10 {
		l.latest = append(l.latest, fmt.Sprintf(format, args...))
	}
}

// probe forces a read through the shaky integration and records when reads work again.
func (l *load) probe(ctx context.Context, c *client.Client) {
	zero := time.Duration(0)
	name := fmt.Sprintf("load-%02d", rand.IntN(secrets))
	_, err := c.Resolve(ctx, client.ResolveRequest{
		IntegrationID: "cspi-shaky", MaxAge: &zero, Configs: map[string]string{name: "https://" + shakyVault + ".vault.azure.net::" + name},
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && !l.cleared.IsZero() {
		l.recoveries[l.fault] = max(l.recoveries[l.fault], time.Since(l.cleared))
		l.cleared = time.Time{}
	}
}

// faultCleared starts the clock of a recovery.
func (l *load) faultCleared(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleared, l.fault = time.Now(), name
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
