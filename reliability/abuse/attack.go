package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// attackTask is what a process of attackers does until it is told to stop.
type attackTask struct {
	Kind         string
	Addr, CAFile string
	Attackers    []identity
	// Integration is one that the attackers may use, or know the name of.
	Integration string
	// Reference is what they ask for.
	Reference string
}

// attacker is one of the principals with a certificate.
type attacker struct {
	*attackTask
	identity
	number int
	counts *counts
}

// counts says what an attack came to: how often something happened, or a figure.
type counts struct {
	mu sync.Mutex
	of map[string]float64
}

func (c *counts) add(what string, n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[what] += n
}

// attacks are what one attacker does, by the attack's kind. Each returns when ctx
// ends.
var attacks = map[string]func(ctx context.Context, a *attacker){
	"unfinished":   attackUnfinished,
	"untaken":      attackUntaken,
	"deaf":         attackDeaf,
	"reset":        attackReset,
	"audit":        attackAudit,
	"usage":        attackUsage,
	"queue":        attackQueue,
	"list":         attackList,
	"validate":     attackValidate,
	"get":          attackGet,
	"connects":     attackConnects,
	"handshakes":   attackHandshakes,
	"continuation": attackContinuation,
	"ping":         attackPing,
	"settings":     attackSettings,
	"well-behaved": func(ctx context.Context, _ *attacker) { <-ctx.Done() },
}

// runAttack attacks until ctx ends and prints what came of it as JSON.
func runAttack(ctx context.Context, t attackTask) error {
	attack, ok := attacks[t.Kind]
	if !ok {
		return fmt.Errorf("there is no attack %q", t.Kind)
	}
	found := &counts{of: make(map[string]float64)}
	var attackers sync.WaitGroup
	for i, id := range t.Attackers {
		attackers.Go(func() { attack(ctx, &attacker{&t, id, i, found}) })
	}
	attackers.Wait()
	return json.NewEncoder(os.Stdout).Encode(found.of)
}

// again runs do until ctx ends, with a pause after each.
func again(ctx context.Context, rest time.Duration, do func()) {
	for ctx.Err() == nil {
		do()
		pause(ctx, rest)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// each runs n of do at the same time, and returns when all have.
func each(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}
