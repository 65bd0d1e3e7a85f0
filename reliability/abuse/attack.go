package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// attackTask is the task of a process with attackers. It runs until the suite stops it.
type attackTask struct {
	Kind         string
	Addr, CAFile string
	Attackers    []identity
	// Integration is an integration that the attackers may use, or whose id they know.
	Integration string
	// Reference is the reference that they request.
	Reference string
}

// attacker is a principal with a certificate that attacks.
type attacker struct {
	*attackTask
	identity
	number int
	counts *counts
}

// counts are the results of an attack: numbers of events, or figures.
type counts struct {
	mu sync.Mutex
	of map[string]float64
}

func (c *counts) add(what string, n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[what] += n
}

// attacks maps the kinds of attacks to the behavior of one attacker. Each function returns
// when ctx ends.
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
	"watch-open":   attackWatchOpen,
	"watch-hold":   attackWatchHold,
	"watch-large":  attackWatchLarge,
	"continuation": attackContinuation,
	"ping":         attackPing,
	"settings":     attackSettings,
	"well-behaved": func(ctx context.Context, _ *attacker) { <-ctx.Done() },
}

// runAttack attacks until ctx ends and prints the results as JSON.
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

// again calls do repeatedly until ctx ends, with a pause after each call.
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

// each calls do n times concurrently, and returns when all calls have returned.
func each(n int, do func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}
