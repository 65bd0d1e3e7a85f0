package resolve

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// Refreshed is the result of Refresh.
type Refreshed struct {
	// Configs has every reference and every invalid config, sorted by name.
	Configs []RefreshReport
	// Coverage says which replicas do not answer with older reads any more.
	Coverage replica.Coverage
}

// RefreshReport is the outcome of the read of one config's secret.
type RefreshReport struct {
	Config string
	// Version, FetchedAt and ExpiresAt are those of the secret; zero if Err is set.
	Version              string
	FetchedAt, ExpiresAt time.Time
	// Err is why the secret was not read, or could not be.
	Err *secret.Error
}

var errRefreshGenerated = secret.Errorf(secret.ReasonSecretNotWatchable,
	"every read of this secret generates a new credential, so there is nothing to refresh; resolve it again before its secret_expire_time")

// refreshing is one config of a call of Refresh.
type refreshing struct {
	item
	decision watch.Decision
	load     cache.Load
	ended    time.Time // when the read had ended
}

// Refresh reads the secrets of a request from their stores, each distinct one once. Of req
// it uses ID, IntegrationID, Configs and Connector. The error is a *secret.Error for the
// call as a whole.
func (r *Resolver) Refresh(ctx context.Context, who Caller, req Request) (*Refreshed, error) {
	began := time.Now()
	if err := who.takeTurn(ctx); err != nil {
		return nil, err
	}
	configs, groups, in, err := r.openRefresh(who, &req)
	if err != nil {
		return nil, r.reject(MethodRefresh, who, &req, err)
	}
	who.leaveTurn()
	var running sync.WaitGroup
	for _, group := range groups {
		running.Go(func() { r.refreshSecret(ctx, who, in, group, began) })
	}
	running.Wait()
	if err := r.recordRefresh(who, &req, configs); err != nil {
		return nil, err
	}
	out := &Refreshed{Configs: make([]RefreshReport, len(configs)), Coverage: r.confirm(ctx, in, configs)}
	for i := range configs {
		c := &configs[i]
		rep := RefreshReport{Config: c.name, Err: c.err}
		if c.err == nil {
			rep.Version, rep.FetchedAt, rep.ExpiresAt = c.load.Version, c.load.ReadAt, c.load.ExpiresAt
		}
		out.Configs[i] = rep
	}
	return out, nil
}

// openRefresh parses a request and decides about every reference. groups has the configs to
// read, by secret without the suffix of its ARN. The integration is nil if there is none.
func (r *Resolver) openRefresh(who Caller, req *Request) (configs []refreshing, groups map[cache.Key][]*refreshing, in *integration.Integration, err error) {
	limits := &r.cfg.Limits
	if err := req.validate(limits); err != nil {
		return nil, nil, nil, err
	}
	refs, problems, err := references(false, req.IntegrationID, req.Configs, limits.MaxReferences)
	if err != nil {
		return nil, nil, nil, err
	}
	if n, most := len(refs)+len(problems), limits.MaxReferences; n > most {
		return nil, nil, nil, invalid("the request has %d references, the maximum is %d; split it", n, most)
	}
	in, err = r.cfg.Integrations.Get(req.IntegrationID)
	if err := unavailable(err); err != nil {
		return nil, nil, nil, err
	}
	if in != nil {
		req.revision = in.Revision
		req.Trace.Asked(in.ID, len(refs))
	}
	items := r.parse(nil, refs, problems, secret.Kind(req.Configs[propKind]))
	configs = make([]refreshing, len(items))
	groups = make(map[cache.Key][]*refreshing)
	for i := range items {
		c := &configs[i]
		if c.item = items[i]; c.err != nil {
			continue
		}
		c.decision = r.decideWatch(who.Principal, in, c.ref)
		switch d := &c.decision; {
		case d.Denied != nil:
			c.err = d.Denied
		case d.Generated, d.Unreadable == errGenerated:
			c.err = errRefreshGenerated
		default: // a secret without versions can be read
			key := r.cacheRequest(in, nil, c.ref).Key
			groups[key] = append(groups[key], c)
		}
	}
	if n, most := len(groups), limits.MaxSecrets; n > most {
		return nil, nil, nil, invalid("the request refers to %d different secrets, the maximum is %d; split it", n, most)
	}
	return configs, groups, in, nil
}

// refreshSecret reads the secret of configs whose references differ at most in the suffix of
// the ARN, JSON key and decoding. The read begins at or after began.
func (r *Resolver) refreshSecret(ctx context.Context, who Caller, in *integration.Integration, group []*refreshing, began time.Time) {
	defer func() {
		if p := recover(); p != nil { // the recovery of the call's goroutine does not cover this one
			for _, c := range group {
				c.err = secret.AsError(fmt.Errorf("resolve: panic of type %T", p))
			}
		}
	}()
	type outcome struct {
		load  cache.Load
		ended time.Time
	}
	outcomes := make(map[string]outcome) // by suffix
	for _, c := range group {
		o, ok := outcomes[c.ref.Suffix]
		if !ok {
			// Not 0, so that a read for another suffix, or for another call that began
			// after this one, is the answer.
			maxAge := time.Since(began)
			if o.load, ok = r.readVersion(ctx, who.Principal, in, c.ref.Secret(), &maxAge, began); !ok {
				o.load.Err = secret.AsError(fmt.Errorf("resolve: a stale value of %s", in.ID))
			}
			o.ended = time.Now()
			outcomes[c.ref.Suffix] = o
		}
		c.load, c.err, c.ended = o.load, o.load.Err, o.ended
	}
}

// recordRefresh records the outcome of every config.
func (r *Resolver) recordRefresh(who Caller, req *Request, configs []refreshing) error {
	events := make([]audit.Event, len(configs))
	for i := range configs {
		c, e := &configs[i], &events[i]
		*e = newEvent(MethodRefresh, who, req)
		e.Config, e.Outcome = c.name, audit.Checked
		if c.ref.Name != "" {
			e.Reference, e.Store, e.Secret, e.JSONKey = c.text, c.ref.Store, c.ref.Name, c.ref.Key
			e.GrantID = c.decision.GrantID
		}
		if c.err == nil {
			e.Version = c.load.Version
			continue
		}
		e.Reason = c.err.Reason
		switch {
		case c.ref.Name == "":
			e.Outcome = audit.Rejected
		case c.decision.Denied != nil:
			e.Outcome = audit.Denied
		default:
			e.Outcome = audit.Failed
		}
	}
	if _, err := r.record(MethodRefresh, who, events); err != nil {
		return err
	}
	for i := range configs {
		if err := configs[i].err; err != nil {
			r.cfg.Observe(MethodRefresh, err.Reason)
		} else {
			r.cfg.Observe(MethodRefresh, "")
		}
	}
	return nil
}
