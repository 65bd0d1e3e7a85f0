// Package resolve owns the use case: a caller's references come in, the values
// that it may have go out, and every decision is recorded before a value
// leaves.
//
// It ties policy, cache, stores and audit together and knows no gRPC, no SDK
// and no database.
package resolve

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// method is the call's name in the audit.
const method = "Resolve"

// Integrations finds an integration; registry.ErrNotFound says that there is
// none.
type Integrations interface {
	Get(id string) (*registry.Integration, error)
}

// Stores reads a secret through an integration; provider.Set is one.
type Stores interface {
	Fetch(ctx context.Context, in *registry.Integration, ref secret.Ref) (*secret.Secret, error)
}

// AuditLog records decisions; audit.Log is one. All events of a Write are
// recorded, or the Write fails.
type AuditLog interface {
	Write(events []audit.Event) error
}

// Config is what a Resolver is made of. All fields are required but the last.
type Config struct {
	Integrations Integrations
	Stores       Stores
	Cache        *cache.Cache
	Audit        AuditLog
	// CacheTTL is how long values of an integration without a time-to-live of
	// its own are answered from the cache.
	CacheTTL time.Duration
	// Observe, if not nil, is told of every config's reason, empty for success.
	Observe func(reason secret.Reason)
}

// Resolver answers calls. It is safe for concurrent use.
type Resolver struct {
	cfg Config
}

// New makes a Resolver.
func New(cfg Config) *Resolver {
	if cfg.Observe == nil {
		cfg.Observe = func(secret.Reason) {}
	}
	return &Resolver{cfg: cfg}
}

// item is one reference on its way through a call.
type item struct {
	name     string
	ref      secret.Ref // zero if it could not be parsed
	decision authz.Decision
	value    secret.Value
	got      cache.Result
	err      *secret.Error
}

// Resolve answers a call of who. The error is a *secret.Error for the call as a
// whole, or a *Failure that lists every config which stood in its way.
func (r *Resolver) Resolve(ctx context.Context, who Caller, req Request) (*Result, error) {
	if err := req.validate(); err != nil {
		return nil, r.reject(who, req, nil, err)
	}
	refs, faults, err := references(req.IntegrationID, req.Configs)
	if err != nil {
		return nil, r.reject(who, req, faults, err)
	}
	if n := len(refs) + len(faults); n > MaxReferences {
		return nil, r.reject(who, req, nil, invalid("the request has %d references, the most is %d; split it", n, MaxReferences))
	}
	items := parse(refs, faults)
	in, err := r.decide(who.Principal, req.IntegrationID, items)
	if err != nil {
		return nil, err
	}
	r.fetch(ctx, in, req.MaxAge, items)
	return r.finish(who, req, items)
}

// parse makes the call's items, sorted by name: a parsed reference or what is
// wrong with it.
func parse(refs map[string]string, faults []ConfigError) []item {
	items := make([]item, 0, len(refs)+len(faults))
	for name, text := range refs {
		it := item{name: name}
		ref, err := secret.ParseRef(text)
		if err != nil {
			it.err = secret.AsError(err)
		}
		it.ref = ref
		items = append(items, it)
	}
	for _, f := range faults {
		items = append(items, item{name: f.Config, err: f.Err})
	}
	sort.Slice(items, func(i, j int) bool { return items[i].name < items[j].name })
	return items
}

var errDenied = secret.Errorf(secret.ReasonAccessDenied,
	"this caller has no grant for this secret through this integration, or there is no such integration; ask the broker's operator, who finds the decision in the audit log by the request id")

var errStoreNotAllowed = secret.Errorf(secret.ReasonStoreNotAllowed,
	"the store is not one of the integration's; add it to the integration's vaults, or fix the reference")

// decide asks the policy about every reference, on every call, before anything
// else about the integration, the cache or the store can be observed. An
// integration that does not exist has no policy, and no policy denies.
func (r *Resolver) decide(who authz.Principal, integration string, items []item) (*registry.Integration, error) {
	in, err := r.cfg.Integrations.Get(integration)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return nil, err
	}
	var policy *authz.Policy
	if in != nil {
		policy = in.Policy
	}
	for i := range items {
		it := &items[i]
		if it.err != nil {
			continue
		}
		it.decision = policy.Decide(who, it.ref)
		switch it.decision.Effect {
		case authz.Allowed:
		case authz.StoreNotAllowed:
			it.err = errStoreNotAllowed
		default:
			it.err = errDenied
		}
	}
	return in, nil
}

// fetch reads the secrets of the allowed items, each distinct one once and all
// of them at the same time, and selects the items' values.
func (r *Resolver) fetch(ctx context.Context, in *registry.Integration, maxAge *time.Duration, items []item) {
	bySecret := make(map[secret.Ref][]*item)
	for i := range items {
		if it := &items[i]; it.err == nil {
			ref := it.ref
			ref.Key = ""
			bySecret[ref] = append(bySecret[ref], it)
		}
	}
	var running sync.WaitGroup
	for ref, group := range bySecret {
		if len(bySecret) == 1 {
			r.fetchOne(ctx, in, maxAge, ref, group)
			return
		}
		running.Go(func() { r.fetchOne(ctx, in, maxAge, ref, group) })
	}
	running.Wait()
}

func (r *Resolver) fetchOne(ctx context.Context, in *registry.Integration, maxAge *time.Duration, ref secret.Ref, group []*item) {
	ttl := in.CacheTTL
	if ttl == 0 {
		ttl = r.cfg.CacheTTL
	}
	req := cache.Request{
		Key: cache.Key{
			Integration: in.ID,
			Revision:    in.Revision,
			Store:       ref.Store,
			Name:        ref.Name,
			Version:     ref.Version,
		},
		TTL: ttl,
	}
	if maxAge != nil {
		req.MaxAge, req.HasMaxAge = *maxAge, true
	}
	got, err := r.cfg.Cache.Get(ctx, req, func(ctx context.Context) (*secret.Secret, error) {
		return r.cfg.Stores.Fetch(ctx, in, ref)
	})
	for _, it := range group {
		if err != nil {
			it.err = secret.AsError(err)
			continue
		}
		it.got = got
		value, err := got.Secret.Select(it.ref.Key)
		if err != nil {
			it.err = secret.AsError(err)
			continue
		}
		it.value = value
	}
}

// finish records every decision and, if that succeeded, hands out the values.
func (r *Resolver) finish(who Caller, req Request, items []item) (*Result, error) {
	res := &Result{}
	for i := range items {
		it := &items[i]
		if it.err != nil {
			res.Errors = append(res.Errors, ConfigError{Config: it.name, Err: it.err})
			r.cfg.Observe(it.err.Reason)
			continue
		}
		r.cfg.Observe("")
		res.Configs = append(res.Configs, Resolved{
			Config:    it.name,
			Value:     it.value,
			Version:   it.got.Secret.Version,
			FetchedAt: it.got.Secret.FetchedAt,
			ExpiresAt: it.got.Expires,
			Stale:     it.got.Source == cache.Stale,
		})
	}
	withhold := len(res.Errors) > 0 && !req.AllowPartial
	events := make([]audit.Event, len(items))
	for i := range items {
		events[i] = decisionEvent(who, &req, &items[i], withhold)
	}
	if len(events) > 0 {
		if err := r.record(events); err != nil {
			return nil, err
		}
	}
	if withhold {
		return nil, &Failure{Configs: res.Errors}
	}
	return res, nil
}
