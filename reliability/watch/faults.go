package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// change rotates secrets, changes grants, and deletes and creates integrations, until ctx
// ends. Then every integration exists.
func (w *world) change(ctx context.Context, random *rand.Rand) {
	gone := "" // an integration that was deleted
	for pause(ctx, time.Second); ctx.Err() == nil; pause(ctx, time.Duration(100+random.IntN(600))*time.Millisecond) {
		integration := integrationName(random.IntN(integrations))
		var err error
		switch n := random.IntN(20); {
		case n < 11:
			var which []item
			for range 1 + random.IntN(3) {
				which = append(which, item{integration, secretName(random.IntN(secretsEach))})
			}
			err = w.rotate(which)
		case n < 18:
			a := access{worker(random.IntN(workers)), integration}
			w.granted[a] = !w.granted[a]
			err = w.update(ctx, integration)
		case gone != "":
			err = w.create(ctx, gone)
			gone = ""
		default:
			gone = integration
			err = w.delete(ctx, integration)
		}
		if err != nil && ctx.Err() == nil {
			panic(err) // this program's own way to the database works
		}
	}
	if gone != "" {
		if err := w.create(context.WithoutCancel(ctx), gone); err != nil {
			panic(err)
		}
	}
}

// create creates an integration with its present grants.
func (w *world) create(ctx context.Context, integration string) error {
	credential, err := os.ReadFile(w.Env.ClientSecretFile)
	if err != nil {
		return err
	}
	return w.alter(integration, true, func() error {
		_, err := w.store.Create(context.WithoutCancel(ctx), registry.Change{
			Document: w.document(integration), Credentials: map[string]secret.Value{"azure.credential.client_secret": secret.NewValue(credential)},
		})
		return err
	})
}

// update writes the present grants of an integration.
func (w *world) update(ctx context.Context, integration string) error {
	if !w.exists[integration] {
		return nil // create will use them
	}
	return w.alter(integration, true, func() error {
		_, err := w.store.Update(context.WithoutCancel(ctx), registry.Change{Document: w.document(integration)})
		return err
	})
}

func (w *world) delete(ctx context.Context, integration string) error {
	return w.alter(integration, false, func() error { return w.store.Delete(context.WithoutCancel(ctx), integration, "") })
}

// alter changes an integration and records what is true then.
func (w *world) alter(integration string, exists bool, do func() error) error {
	began := time.Now()
	if err := do(); err != nil {
		return err
	}
	w.exists[integration] = exists
	w.allow(span{began, time.Now()}, integration)
	return nil
}

// trouble is a fault that this program can cause.
type trouble struct {
	name, kind string
	// most is the longest time between begin and end.
	most       time.Duration
	begin, end func(ctx context.Context, w *world, which *replica) error
}

func nothing(context.Context, *world, *replica) error { return nil }

// restart is a fault that ends a replica.
func restart(name string, sig os.Signal, most time.Duration) trouble {
	return trouble{name, "replica", most,
		func(_ context.Context, _ *world, r *replica) error { r.stop(sig); return nil },
		func(ctx context.Context, _ *world, r *replica) error { return r.start(context.WithoutCancel(ctx)) }}
}

// away is a fault that cuts the way to a server, silent one that holds all bytes.
func away(name, kind string, cut bool) trouble {
	proxy := func(w *world) interface {
		Refuse(refuse bool)
		Cut()
		Hold()
		Release()
	} {
		if kind == databaseFault {
			return w.database
		}
		return w.vault
	}
	return trouble{name, kind, 4 * time.Second,
		func(_ context.Context, w *world, _ *replica) error {
			if cut {
				proxy(w).Refuse(true)
				proxy(w).Cut()
			} else {
				proxy(w).Hold()
			}
			return nil
		},
		func(_ context.Context, w *world, _ *replica) error {
			proxy(w).Refuse(false)
			proxy(w).Release()
			return nil
		}}
}

var troubles = []trouble{
	restart("a replica is killed", syscall.SIGKILL, 2*time.Second),
	away("the database is away", databaseFault, true),
	away("the vault is away", "vault", true),
	restart("a replica is restarted", syscall.SIGTERM, time.Second),
	away("the database is silent", databaseFault, false),
	away("the vault is silent", "vault", false),
	{
		"all replicas are killed", "replica", time.Second,
		func(_ context.Context, w *world, _ *replica) error {
			for _, r := range w.replicas {
				r.stop(syscall.SIGKILL)
			}
			return nil
		},
		func(ctx context.Context, w *world, _ *replica) error {
			var err error
			for _, r := range w.replicas {
				err = errors.Join(err, r.start(context.WithoutCancel(ctx)))
			}
			return err
		},
	},
	{
		"the vault is slow", "vault", 3 * time.Second,
		func(_ context.Context, w *world, _ *replica) error {
			w.vault.SetDelay(200 * time.Millisecond)
			return nil
		},
		func(_ context.Context, w *world, _ *replica) error { w.vault.SetDelay(0); return nil },
	},
	{
		"SIGHUP", "replica", 0,
		func(_ context.Context, _ *world, r *replica) error { r.signal(syscall.SIGHUP); return nil }, nothing,
	},
	{
		"both lose the database for a moment", databaseFault, 0,
		func(_ context.Context, w *world, _ *replica) error { w.database.Cut(); return nil }, nothing,
	},
}

// breakThings causes faults in a random order, until ctx ends.
func (w *world) breakThings(ctx context.Context, random *rand.Rand) {
	var order []int
	for pause(ctx, 2*time.Second); ctx.Err() == nil; pause(ctx, time.Duration(1000+random.IntN(9000))*time.Millisecond) {
		if len(order) == 0 {
			order = random.Perm(len(troubles))
		}
		t := troubles[order[0]]
		order = order[1:]
		which := w.replicas[random.IntN(len(w.replicas))]
		fmt.Fprintln(os.Stderr, stamp(time.Now()), t.name)
		began := time.Now()
		err := t.begin(ctx, w, which)
		pause(ctx, min(t.most, t.most/4+time.Duration(random.Int64N(int64(t.most)+1))))
		err = errors.Join(err, t.end(ctx, w, which))
		w.truth.failed(t.kind, span{began, time.Now()})
		if err != nil {
			panic(err) // the program cannot continue without its replicas
		}
	}
}

// startClients starts all clients.
func startClients(ctx context.Context, w *world) (all []*watcher, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	running := make(chan struct{}, clients)
	habits := []habit{steady, slow, stuck, forgetful, moving}
	who := principals()
	for i := range clients {
		chosen := make(map[item]bool)
		for len(chosen) < 15 {
			chosen[item{integrationName(rand.IntN(integrations)), secretName(rand.IntN(secretsEach))}] = true
		}
		p := who[i%len(who)]
		h := habits[i%len(habits)]
		c := newWatcher(fmt.Sprintf("client %d (%s, %s)", i, p, h), p, h, slices.Collect(maps.Keys(chosen)), w.services(p))
		all = append(all, c)
		go func() {
			c.run(ctx)
			running <- struct{}{}
		}()
	}
	stopped := false
	return all, func() {
		if cancel(); stopped {
			return
		}
		stopped = true
		for range clients {
			<-running
		}
	}
}
