package campaign

import (
	"context"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
)

// start restarts a connector, if that is still right and the broker has its secrets.
func (e *Engine) start(ctx context.Context, cluster string, it *Connector) {
	if !e.prepare(ctx, cluster, it) {
		return
	}
	began := time.Now()
	fetched, ok := e.refresh(ctx, it)
	if !ok {
		return
	}
	// Stored before the request, so that an engine that goes on knows that it may have
	// been made.
	if err := e.set(ctx, it, func(it *Connector) {
		it.State, it.Reason, it.AttemptTime, it.AcceptTime = Running, "", time.Now(), time.Time{}
		it.RunningSince, it.FailedSince, it.StuckSince, it.Changed, it.Missing = time.Time{}, time.Time{}, time.Time{}, false, nil
		it.Attempts++
	}); err != nil {
		e.locked(func() { it.State, it.Attempts = Pending, it.Attempts-1 })
		e.wait(it, conflictWait, "the state of the campaign cannot be stored")
		return
	}
	e.locked(func() { e.attempts[cluster] = append(e.attempts[cluster], it.AttemptTime) })
	refreshed := time.Since(began)
	err := e.cfg.Clusters[cluster].API.Restart(ctx, it.Name)
	if err != nil {
		e.notAccepted(ctx, cluster, it, err)
		return
	}
	_ = e.set(ctx, it, func(it *Connector) { // observed even if it cannot be stored
		it.AcceptTime = time.Now()
		// The read began during the refresh, or up to a second before it, because the
		// broker reads a secret once a second at most.
		sinceBegin := it.AcceptTime.Sub(began)
		it.ProofFrom = fetched.first.Add(sinceBegin - refreshed)
		it.OldUntil = fetched.last.Add(sinceBegin + time.Second)
	})
}

// prepare looks at a connector again before its restart: a person may have changed it.
func (e *Engine) prepare(ctx context.Context, cluster string, it *Connector) bool {
	c := e.cfg.Clusters[cluster]
	now, err := c.API.Get(ctx, it.Name)
	switch {
	case connectapi.KindOf(err) == connectapi.NotFound:
		e.skip(ctx, it, "it was deleted")
		return false
	case connectapi.KindOf(err) == connectapi.Denied:
		e.halt(ctx, it, err)
		return false
	case err != nil:
		e.wait(it, conflictWait, err.Error())
		return false
	}
	if reason := whySkipped(&c.Settings, &now); reason != "" {
		e.skip(ctx, it, reason)
		return false
	}
	references, _ := usesOf(&c.Settings, &now, e.cfg.Selects)
	if len(references) == 0 {
		e.skip(ctx, it, "its configuration does not use the secret any more")
		return false
	}
	state := condition(&now.Status)
	settled := true
	e.locked(func() {
		it.References, it.Tasks = references, len(now.Tasks)
		switch {
		case state.stuck == "":
			it.StuckSince = time.Time{}
		case it.StuckSince.IsZero():
			it.StuckSince = time.Now()
		}
		stuck := state.stuck != "" && time.Since(it.StuckSince) >= time.Duration(c.Settings.Restarts.StuckAfter)
		it.FailedBefore = state.failed != "" || stuck
		settled = state.stuck == "" || stuck
	})
	if !settled { // a rebalance or another restart
		e.wait(it, e.cfg.Poll, state.stuck)
	}
	return settled
}

// fetchTimes are the times at which the broker read secrets, by its clock.
type fetchTimes struct{ first, last time.Time }

// refresh makes the broker read the secrets of a connector. A connector must not be restarted
// while the broker cannot resolve them.
func (e *Engine) refresh(ctx context.Context, it *Connector) (times fetchTimes, ok bool) {
	byIntegration := make(map[string][]string)
	for _, r := range it.References {
		byIntegration[r.Integration] = append(byIntegration[r.Integration], r.Reference)
	}
	for integration, references := range byIntegration {
		read, err := e.cfg.Broker.Refresh(ctx, integration, references)
		if err != nil {
			e.wait(it, conflictWait, "the broker cannot answer, so a restart would end the connector: "+err.Error())
			return times, false
		}
		e.mu.Lock()
		for i := range it.References {
			r := &it.References[i]
			fresh, found := read[r.Reference]
			if r.Integration != integration || !found {
				continue
			}
			r.Version = fresh.Version
			e.latest[[2]string{integration, r.Reference}] = fresh.Version
			if times.first.IsZero() || fresh.FetchTime.Before(times.first) {
				times.first = fresh.FetchTime
			}
			if fresh.FetchTime.After(times.last) {
				times.last = fresh.FetchTime
			}
		}
		e.mu.Unlock()
	}
	for _, r := range it.References {
		if r.Version == "" {
			e.wait(it, conflictWait, "the broker did not tell the version of "+r.Reference)
			return times, false
		}
	}
	return times, true
}

// notAccepted handles a request to restart that was not accepted.
func (e *Engine) notAccepted(ctx context.Context, cluster string, it *Connector, err error) {
	undo := func(reason string) {
		_ = e.set(ctx, it, func(it *Connector) { it.State, it.Attempts = Pending, it.Attempts-1 }) // the old state is safe, too
		e.locked(func() { e.attempts[cluster] = e.attempts[cluster][:len(e.attempts[cluster])-1] })
		e.wait(it, conflictWait, reason)
	}
	switch connectapi.KindOf(err) {
	case connectapi.NotFound:
		e.skip(ctx, it, "it was deleted")
	case connectapi.Conflict, connectapi.Unavailable:
		undo(err.Error())
	case connectapi.Denied, connectapi.Failed:
		undo(err.Error())
		e.halt(ctx, it, err)
	default: // observe repeats it
		e.locked(func() { it.Reason = err.Error() })
	}
}

func (e *Engine) skip(ctx context.Context, it *Connector, reason string) {
	_ = e.set(ctx, it, func(it *Connector) { it.State, it.Reason = Skipped, reason }) // is found again
}

// halt ends the campaign for a reason that another restart would repeat.
func (e *Engine) halt(ctx context.Context, it *Connector, err error) {
	_ = e.set(ctx, it, func(it *Connector) { // the reason is stored at the end
		it.Reason = err.Error()
		e.halted = fmt.Sprintf("connector %s of cluster %s cannot be restarted: %v; correct connect.yaml or the cluster, and run the rotation again", it.Name, it.Cluster, err)
	})
}
