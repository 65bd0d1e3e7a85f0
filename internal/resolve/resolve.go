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
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Integrations finds an integration, registry.ErrNotFound says that there is
// none, and lists those in force.
type Integrations interface {
	Get(id string) (*registry.Integration, error)
	List() []*registry.Integration
}

// Stores reads a secret through an integration; provider.Set is one.
type Stores interface {
	Fetch(ctx context.Context, in *registry.Integration, ref secret.Ref) (*secret.Secret, error)
}

// AuditLog records decisions; audit.Log is one. All events of a Write are
// recorded, or the Write fails. It waits no longer than until ctx ends.
type AuditLog interface {
	Write(ctx context.Context, events []audit.Event) error
}

// Config is what a Resolver is made of. Integrations, Stores, Cache, Audit and
// CacheTTL are required.
type Config struct {
	Integrations Integrations
	Stores       Stores
	Cache        *cache.Cache
	Audit        AuditLog
	// CacheTTL is how long values of an integration without a time-to-live of
	// its own are answered from the cache.
	CacheTTL time.Duration
	// Limits bound one request; zero ones take their defaults.
	Limits Limits
	// Admit, if not nil, says why a caller may not use an integration, whatever its
	// grants, "" if it may: placement.Rules.Admit is one. It is told only to callers
	// that have a grant.
	Admit func(who authz.Principal, in *registry.Integration) (why string)
	// Observe, if not nil, is told of every config's reason, empty for success.
	Observe func(reason secret.Reason)
	// Used, if not nil, is told of every value that is handed out. It must not wait.
	Used func(who authz.Principal, connector, integration string, ref secret.Ref, version string)
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
	if cfg.Admit == nil {
		cfg.Admit = func(authz.Principal, *registry.Integration) string { return "" }
	}
	cfg.Limits = cfg.Limits.withDefaults()
	return &Resolver{cfg: cfg}
}

// item is one reference on its way through a call.
type item struct {
	name     string
	ref      secret.Ref // zero if it could not be parsed
	decision authz.Decision
	value    secret.Value // a copy, which the call wipes or its Result does
	got      cache.Result // its Secret tells of itself, but may have been wiped
	err      *secret.Error
}

// Resolve answers a call of who. The error is a *secret.Error for the call as a
// whole, or a *Failure that lists every config which stood in its way. The caller
// wipes the Result when it has answered.
func (r *Resolver) Resolve(ctx context.Context, who Caller, req Request) (res *Result, err error) {
	items, err := r.look(ctx, methodResolve, who, &req)
	if err != nil {
		return nil, err
	}
	defer func() {
		if res == nil {
			wipe(items)
		}
	}()
	return r.handOut(ctx, who, &req, items)
}

// wipe overwrites the values that nobody will be told.
func wipe(items []item) {
	for i := range items {
		items[i].value.Wipe()
	}
}

// look finds out about every reference of a request what there is to know: who
// may have it, and its value. Nothing has been recorded yet and no value may
// leave.
func (r *Resolver) look(ctx context.Context, method string, who Caller, req *Request) ([]item, error) {
	if err := req.validate(&r.cfg.Limits); err != nil {
		return nil, r.reject(ctx, method, who, req, err)
	}
	refs, faults, err := references(req.IntegrationID, req.Configs, r.cfg.Limits.MaxReferences)
	if err != nil {
		return nil, r.reject(ctx, method, who, req, err)
	}
	if n, most := len(refs)+len(faults), r.cfg.Limits.MaxReferences; n > most {
		return nil, r.reject(ctx, method, who, req, invalid("the request has %d references, the most is %d; split it", n, most))
	}
	items := r.parse(refs, faults)
	if n, most := distinct(items), r.cfg.Limits.MaxSecrets; n > most {
		return nil, r.reject(ctx, method, who, req, invalid("the request names %d different secrets, the most is %d; split it", n, most))
	}
	in, err := r.decide(who.Principal, req.IntegrationID, items)
	if err != nil {
		return nil, r.reject(ctx, method, who, req, err)
	}
	r.fetch(ctx, in, req.MaxAge, items)
	return items, nil
}

// parse makes the call's items, sorted by name: a parsed reference or what is
// wrong with it.
func (r *Resolver) parse(refs map[string]string, faults []ConfigError) []item {
	items := make([]item, 0, len(refs)+len(faults))
	for name, text := range refs {
		it := item{name: name}
		ref, err := r.cfg.Limits.parseRef(text)
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

// distinct counts the secrets that the items name.
func distinct(items []item) int {
	secrets := make(map[secret.Ref]struct{}, len(items))
	for i := range items {
		if items[i].err == nil {
			secrets[items[i].ref.Secret()] = struct{}{}
		}
	}
	return len(secrets)
}

var errDenied = secret.Errorf(secret.ReasonAccessDenied,
	"this caller has no grant for this secret through this integration, or there is no such integration; ask the broker's operator, who finds the decision in the audit log by the request id")

var errStoreNotAllowed = secret.Errorf(secret.ReasonStoreNotAllowed,
	"the store is not one of the integration's; add it to the integration's vaults, or fix the reference")

// unavailable returns what to tell of the registry's error: nothing of an
// integration that does not exist.
func unavailable(err error) error {
	switch {
	case err == nil || errors.Is(err, registry.ErrNotFound):
		return nil
	case errors.Is(err, registry.ErrUnavailable):
		return secret.Errorf(secret.ReasonRegistryUnavailable,
			"the broker has not reached its database of integrations for too long to decide who may have what; wait, and look at the database").WithCause(err)
	default:
		return err
	}
}

// decide asks the policy about every reference, on every call, before anything
// else about the integration, the cache or the store can be observed. An
// integration that does not exist has no policy, and no policy denies.
func (r *Resolver) decide(who authz.Principal, integration string, items []item) (*registry.Integration, error) {
	in, err := r.cfg.Integrations.Get(integration)
	if err := unavailable(err); err != nil {
		return nil, err
	}
	var (
		policy    *authz.Policy
		elsewhere *secret.Error
	)
	if in != nil {
		policy = in.Policy
		if why := r.cfg.Admit(who, in); why != "" {
			elsewhere = secret.Errorf(secret.ReasonPlacementDenied, "%s", why)
		}
	}
	for i := range items {
		it := &items[i]
		if it.err != nil {
			continue
		}
		it.decision = policy.Decide(who, it.ref)
		switch it.decision.Effect {
		case authz.Allowed:
			if elsewhere != nil {
				it.err, it.decision = elsewhere, authz.Decision{}
			}
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
			ref := it.ref.Secret()
			bySecret[ref] = append(bySecret[ref], it)
		}
	}
	var running sync.WaitGroup
	for ref, group := range bySecret {
		if len(bySecret) == 1 {
			r.fetchOne(ctx, in, maxAge, ref, group)
			return
		}
		running.Go(func() {
			defer func() {
				if p := recover(); p != nil { // the call's own recovery does not reach here
					for _, it := range group {
						it.err = secret.AsError(fmt.Errorf("resolve: panic of type %T", p))
					}
				}
			}()
			r.fetchOne(ctx, in, maxAge, ref, group)
		})
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
		TTL:      ttl,
		MaxStale: in.CacheMaxStale,
	}
	if maxAge != nil {
		req.MaxAge, req.HasMaxAge = *maxAge, true
	}
	got, err := r.cfg.Cache.Get(ctx, req, func(ctx context.Context) (*secret.Secret, error) {
		return r.cfg.Stores.Fetch(ctx, in, ref)
	})
	if err == nil {
		defer got.Secret.Release() // the items get copies of what they select
	}
	for _, it := range group {
		if err != nil {
			it.err = secret.AsError(err)
			continue
		}
		it.got = got
		if it.value, err = r.value(got.Secret, it.ref); err != nil {
			it.err = secret.AsError(err)
			err = nil // the next item may ask for something else of the secret
		}
	}
}

// value selects and decodes what ref asks for.
func (r *Resolver) value(s *secret.Secret, ref secret.Ref) (secret.Value, error) {
	if n, most := s.Size(), r.cfg.Limits.MaxDocumentBytes; ref.Key != "" && n > most {
		return secret.Value{}, secret.Errorf(secret.ReasonSecretNotJSON,
			"the secret has %d bytes, and the broker looks for a JSON key in at most %d; store a smaller document, or raise limits.max_document_bytes", n, most)
	}
	v, err := s.Select(ref.Key)
	if err != nil {
		return secret.Value{}, err
	}
	return ref.Decoding.Apply(v)
}

// handOut records every decision and, if that succeeded, hands out the values.
func (r *Resolver) handOut(ctx context.Context, who Caller, req *Request, items []item) (*Result, error) {
	res := &Result{}
	for i := range items {
		it := &items[i]
		if it.err != nil {
			res.Errors = append(res.Errors, ConfigError{Config: it.name, Err: it.err})
			continue
		}
		res.Configs = append(res.Configs, Resolved{
			Config:    it.name,
			Value:     it.value,
			Decoded:   it.ref.Decoding != "",
			Version:   it.got.Secret.Version,
			FetchedAt: it.got.Secret.FetchedAt,
			ExpiresAt: it.got.Expires,
			Stale:     it.got.Source == cache.Stale,
		})
	}
	outcome := audit.Served
	if len(res.Errors) > 0 && !req.AllowPartial {
		outcome = audit.Withheld
	}
	if err := r.recordDecisions(ctx, methodResolve, who, req, items, outcome); err != nil {
		return nil, err
	}
	if outcome == audit.Withheld {
		return nil, &Failure{Configs: res.Errors}
	}
	if r.cfg.Used != nil {
		for i := range items {
			if it := &items[i]; it.err == nil {
				r.cfg.Used(who.Principal, req.Connector, req.IntegrationID, it.ref, it.got.Secret.Version)
			}
		}
	}
	return res, nil
}
