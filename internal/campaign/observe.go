package campaign

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
)

// observe looks at a connector that was restarted, and decides whether it is proved.
func (e *Engine) observe(ctx context.Context, cluster string, it *Connector) {
	c := e.cfg.Clusters[cluster]
	r := c.Settings.Restarts
	now := time.Now()
	if it.AcceptTime.IsZero() {
		e.unaccepted(ctx, it, now)
		return
	}
	expired := now.Sub(it.AcceptTime) >= time.Duration(r.VerifyTimeout)
	status, err := c.API.Status(ctx, it.Name)
	switch {
	case ctx.Err() != nil:
		return
	case connectapi.KindOf(err) == connectapi.NotFound:
		e.skip(ctx, it, "it was deleted after the restart")
		return
	case err != nil:
		e.locked(func() { it.RunningSince = time.Time{} })
		if expired {
			e.stall(ctx, it, []string{"the state of the connector: " + err.Error()})
		}
		return
	}
	state := condition(&status)
	if verdict := e.judge(it, &state, &status, r, now); verdict != "" {
		_ = e.set(ctx, it, func(it *Connector) { it.State, it.Reason = Failed, verdict }) // is found again
		return
	}
	missing := e.unsettled(it, &state, &status, r, now)
	var proof []Read
	weak := false
	if len(missing) == 0 || expired {
		proof, weak = e.prove(ctx, it, &status, r, &missing)
	}
	switch {
	case ctx.Err() != nil:
	case len(missing) == 0:
		_ = e.set(ctx, it, func(it *Connector) { // is proved again
			it.State, it.Reason, it.Missing, it.Proof, it.Weak, it.VerifyTime = Verified, "", nil, proof, weak, now
		})
	case expired:
		e.locked(func() { it.Proof, it.Weak = proof, weak })
		e.stall(ctx, it, missing)
	default:
		e.locked(func() { it.Missing = missing })
	}
}

// unaccepted handles a request that may or may not have arrived: its answer was lost, or the
// engine was restarted. The request is repeated; a second restart does no harm.
func (e *Engine) unaccepted(ctx context.Context, it *Connector, now time.Time) {
	switch {
	case now.Sub(it.AttemptTime) < retryWait:
	case it.Attempts < maxAttempts:
		_ = e.set(ctx, it, func(it *Connector) { it.State, it.NotBefore = Pending, now }) // the old state is safe, too
	default:
		e.stall(ctx, it, []string{fmt.Sprintf("the cluster accepted none of %d requests to restart: %s", it.Attempts, it.Reason)})
	}
}

func (e *Engine) stall(ctx context.Context, it *Connector, missing []string) {
	_ = e.set(ctx, it, func(it *Connector) { it.State, it.Missing, it.Reason = Stalled, missing, "" }) // is found again
}

// judge keeps the times of a connector's states. It returns why the connector has failed, ""
// if it has not.
func (e *Engine) judge(it *Connector, state *conditions, status *connectapi.Status, r *connectapi.Restarts, now time.Time) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	since := func(t *time.Time, holds bool) time.Duration {
		switch {
		case !holds:
			*t = time.Time{}
			return -1
		case t.IsZero():
			*t = now
		}
		return now.Sub(*t)
	}
	if state.failed == "" {
		it.Changed = true
	}
	since(&it.RunningSince, state.running() && len(status.Tasks) >= it.Tasks)
	failed := since(&it.FailedSince, state.failed != "")
	stuck := since(&it.StuckSince, state.stuck != "")
	limit := time.Duration(r.StuckAfter)
	switch {
	case failed >= failedTime && (!it.FailedBefore || it.Changed || now.Sub(it.AcceptTime) >= limit):
		return state.failed
	case stuck >= limit:
		return fmt.Sprintf("%s for %s; Connect does not retry, and its log has the reason; restart the connector with its tasks when that is resolved", state.stuck, stuck)
	}
	return ""
}

// unsettled returns what is missing for a connector to be RUNNING for long enough.
func (e *Engine) unsettled(it *Connector, state *conditions, status *connectapi.Status, r *connectapi.Restarts, now time.Time) []string {
	switch {
	case state.stopped != "":
		return []string{state.stopped + ", by somebody else; its tasks may have the old version"}
	case !state.running():
		return []string{cmp.Or(state.failed, state.stuck, state.strange)}
	case len(status.Tasks) < it.Tasks:
		return []string{fmt.Sprintf("%d of %d tasks are missing", it.Tasks-len(status.Tasks), it.Tasks)}
	case now.Sub(it.RunningSince) < time.Duration(r.Settle):
		return []string{fmt.Sprintf("RUNNING since %s, not yet for %s", it.RunningSince.UTC().Format(time.RFC3339), time.Duration(r.Settle))}
	}
	return nil
}

// prove returns the reads that prove that a connector has the new versions, and adds what is
// missing. weak reports that they may be of other connectors.
func (e *Engine) prove(ctx context.Context, it *Connector, status *connectapi.Status, r *connectapi.Restarts, missing *[]string) (proof []Read, weak bool) {
	for i := range it.References {
		reads, err := e.cfg.Broker.Reads(ctx, it.References[i].Integration, it.References[i].ref())
		if err != nil {
			*missing = append(*missing, "the broker's record of reads: "+err.Error())
			continue
		}
		for _, principal := range principals(status, r, missing) {
			found, named, fault := proofOf(it, &it.References[i], principal, reads)
			if fault != "" {
				*missing = append(*missing, fault)
				continue
			}
			proof = append(proof, found)
			weak = weak || !named
		}
	}
	return proof, weak
}

// principals returns the identities of the workers that run a connector.
func principals(status *connectapi.Status, r *connectapi.Restarts, missing *[]string) []string {
	var list []string
	for _, worker := range workers(status) {
		switch p := r.Principal(worker); {
		case p == "":
			if text := "the identity of worker " + worker + ": connect.yaml has none under workers"; !slices.Contains(*missing, text) {
				*missing = append(*missing, text)
			}
		case !slices.Contains(list, p):
			list = append(list, p)
		}
	}
	return list
}

// proofOf returns the read that proves that a principal has the new version of a reference.
// named reports that the read is of this connector.
func proofOf(it *Connector, r *Reference, principal string, reads []Read) (found Read, named bool, fault string) {
	ref := r.ref()
	var late *Read // of an older version
	for i := range reads {
		read := &reads[i]
		if read.Principal != principal || read.Connector != r.Label || read.Store != ref.Store || read.Secret != ref.Name || read.JSONKey != ref.Key {
			continue
		}
		switch {
		case read.Version == r.Version:
			if !read.LastTime.Before(it.ProofFrom) && read.LastTime.After(found.LastTime) {
				found = *read
			}
		case read.LastTime.After(it.OldUntil) && (late == nil || read.LastTime.After(late.LastTime)):
			late = read
		}
	}
	switch {
	case late != nil:
		return found, false, fmt.Sprintf("%s read version %s of %s after the restart, at %s, instead of %s", principal, late.Version, r.Reference, late.LastTime.UTC().Format(time.RFC3339), r.Version)
	case found.Version == "":
		return found, false, fmt.Sprintf("a read of version %s of %s by %s after the restart", r.Version, r.Reference, principal)
	}
	return found, r.Label != "" && r.Label == it.Name, ""
}
