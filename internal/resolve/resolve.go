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
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Integrations finds an integration, registry.ErrNotFound says that there is
// none, and lists those in force.
type Integrations interface {
	Get(id string) (*integration.Integration, error)
	List() []*integration.Integration
}

// Stores reads a secret through an integration; provider.Set is one. The context says
// who is charged for the read, see provider.WithCallers.
type Stores interface {
	Fetch(ctx context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error)
}

// AuditLog records decisions; audit.Limiter and audit.Log are ones. All events of a Begin
// are recorded once its Receipt says so, or Begin or the Receipt fails; of a call that
// delivers nothing some may only be counted. It keeps none of them.
// It waits for a bounded time: a caller that has gone away cannot prevent its record.
type AuditLog interface {
	Begin(events []audit.Event) (audit.Receipt, error)
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
	Admit func(who authz.Principal, in *integration.Integration) (why string)
	// Observe, if not nil, is told of every config's reason, empty for success. As with
	// Used, the CommitBarrier may still hold the value back then, and the value may never leave.
	Observe func(reason secret.Reason)
	// Used, if not nil, is told of every value that is handed out. It must not wait.
	Used func(who authz.Principal, connector, id string, ref secret.Ref, version string)
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
		cfg.Admit = func(authz.Principal, *integration.Integration) string { return "" }
	}
	cfg.Limits = cfg.Limits.withDefaults()
	return &Resolver{cfg: cfg}
}

// item is one reference on its way through a call.
type item struct {
	name     string
	ref      secret.Ref // zero if it could not be parsed
	text     string     // of ref, canonical
	decision authz.Decision
	value    secret.Value // a copy, which the call wipes or its Result does
	got      cache.Result // its Secret tells of itself, but may have been wiped
	err      *secret.Error
	// next is the index of the call's next item of the same secret, 0 if it is the
	// last one.
	next int
}

// itemPool and eventPool keep what every call needs and none keeps: together they
// are a third of the memory that a call would allocate.
var (
	itemPool  = sync.Pool{New: func() any { return new([]item) }}
	eventPool = sync.Pool{New: func() any { return new([]audit.Event) }}
)

// maxKept is the most items or events that are kept for other calls: those of a call
// with as many references as the default limits allow, and what append rounds up to.
const maxKept = 160

// recycle keeps the memory of items, and nothing of what stood there, for other
// calls.
func recycle(items *[]item) {
	clear(*items)
	if cap(*items) <= maxKept {
		itemPool.Put(items)
	}
}

// Resolve answers a call of who. The error is a *secret.Error for the call as a
// whole, or a *Failure that lists every config which stood in its way. The caller
// wipes the Result when it has answered.
func (r *Resolver) Resolve(ctx context.Context, who Caller, req Request) (res *Result, err error) {
	lent, err := r.look(ctx, methodResolve, who, &req)
	if err != nil {
		return nil, err
	}
	defer recycle(lent)
	defer func() {
		if res == nil {
			wipe(*lent)
		}
	}()
	return r.handOut(who, &req, *lent)
}

// wipe overwrites the values that nobody will be told.
func wipe(items []item) {
	for i := range items {
		items[i].value.Wipe()
	}
}

// lightConfigs is how many configs a request may have to need little CPU time.
const lightConfigs = 8

// look finds out about every reference of a request what there is to know: who
// may have it, and its value. Nothing has been recorded yet and no value may
// leave. The caller recycles the items.
func (r *Resolver) look(ctx context.Context, method string, who Caller, req *Request) (*[]item, error) {
	if len(req.Configs) > lightConfigs {
		if err := who.takeTurn(ctx); err != nil {
			return nil, err
		}
	}
	if err := req.validate(&r.cfg.Limits); err != nil {
		return nil, r.reject(method, who, req, err)
	}
	refs, faults, err := references(req.IntegrationID, req.Configs, r.cfg.Limits.MaxReferences)
	if err != nil {
		return nil, r.reject(method, who, req, err)
	}
	if n, most := len(refs)+len(faults), r.cfg.Limits.MaxReferences; n > most {
		return nil, r.reject(method, who, req, invalid("the request has %d references, the most is %d; split it", n, most))
	}
	lent := itemPool.Get().(*[]item)
	items := r.parse((*lent)[:0], refs, faults, secret.Kind(req.Configs[propKind]))
	*lent = items
	var few [64]int
	firsts := link(items, few[:0])
	if n, most := len(firsts), r.cfg.Limits.MaxSecrets; n > most {
		return nil, r.reject(method, who, req, invalid("the request names %d different secrets, the most is %d; split it", n, most))
	}
	in, err := r.decide(who.Principal, req.IntegrationID, items)
	if err != nil {
		return nil, r.reject(method, who, req, err)
	}
	if in != nil {
		req.Trace.Asked(in.ID, len(items))
	}
	r.fetch(ctx, who, in, req, items, firsts)
	return lent, nil
}

// parse appends the call's items, sorted by name: a parsed reference or what is
// wrong with it. A connector's configuration says of which kind all of them are.
func (r *Resolver) parse(items []item, refs map[string]string, faults []ConfigError, kind secret.Kind) []item {
	items = slices.Grow(items, len(refs)+len(faults))
	// Names are sorted before there are items, which are fifteen times as large.
	var space [64]string
	names := space[:0]
	for name := range refs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		items = append(items, item{name: name})
		r.parseItem(&items[len(items)-1], refs[name], kind)
	}
	if len(faults) == 0 {
		return items
	}
	for _, f := range faults {
		items = append(items, item{name: f.Config, err: f.Err})
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.name, b.name) })
	return items
}

// parseItem parses the reference of an item, or says what is wrong with it.
func (r *Resolver) parseItem(it *item, text string, kind secret.Kind) {
	ref, err := r.cfg.Limits.parseRef(text)
	switch {
	case err != nil:
		it.err = secret.AsError(err)
	case kind != "" && ref.Kind != kind:
		it.err = mismatch("the reference is one of %s, but the configuration's %s property says %s", ref.Kind, propKind, kind)
	default:
		if it.ref, it.text = ref, text; !ref.IsString(text) {
			it.text = ref.String()
		}
	}
}

// linkSeed keeps callers from choosing secrets that meet in link's table.
var linkSeed = maphash.MakeSeed()

// link chains the items of each secret by their next and appends the index of the
// first item of each to firsts.
func link(items []item, firsts []int) []int {
	var space [256]int32 // enough for as many references as the default limits allow
	table := space[:]    // of first items by a hash of their names, each plus one; zero is free
	for len(table) < 2*len(items) {
		table = make([]int32, 2*len(table))
	}
	for i := range items {
		if items[i].err != nil {
			continue
		}
		slot := maphash.String(linkSeed, items[i].ref.Name)
		for ; ; slot++ {
			at := &table[slot%uint64(len(table))]
			if *at == 0 {
				*at = int32(i + 1)
				firsts = append(firsts, i)
				break
			}
			if first := &items[*at-1]; first.ref.SameSecret(&items[i].ref) {
				first.next, items[i].next = i, first.next
				break
			}
		}
	}
	return firsts
}

var errDenied = secret.Errorf(secret.ReasonAccessDenied,
	"this caller has no grant for this secret through this integration, or there is no such integration; ask the broker's operator, who finds the decision in the audit log by the request id")

var errStoreNotAllowed = secret.Errorf(secret.ReasonStoreNotAllowed,
	"the store is not one of the integration's; add it to the integration's file, or fix the reference")

var errNoMemory = secret.Errorf(secret.ReasonOverloaded,
	"the values would take more of the broker's memory than this caller may have, or than is left; ask for fewer values at the same time, or wait")

// unavailable returns what to tell of the registry's error: nothing of an
// integration that does not exist.
func unavailable(err error) error {
	switch {
	case err == nil || errors.Is(err, registry.ErrNotFound):
		return nil
	case errors.Is(err, registry.ErrUnavailable):
		return secret.Errorf(secret.ReasonRegistryUnavailable,
			"the broker could not read its database or directory of integrations for too long to decide who may have what; wait, and have the operator look at it").WithCause(err)
	default:
		return err
	}
}

// decide asks the policy about every reference, on every call, before anything
// else about the integration, the cache or the store can be observed. An
// integration that does not exist has no policy, and no policy denies.
func (r *Resolver) decide(who authz.Principal, id string, items []item) (*integration.Integration, error) {
	in, err := r.cfg.Integrations.Get(id)
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

// handOut records every decision and, if that succeeded, hands out the values.
func (r *Resolver) handOut(who Caller, req *Request, items []item) (*Result, error) {
	res := &Result{Configs: make([]Resolved, 0, len(items))}
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

			SecretExpiresAt: it.got.Secret.ExpiresAt,
		})
	}
	outcome := audit.Served
	if len(res.Errors) > 0 && !req.AllowPartial {
		outcome = audit.Withheld
	}
	if err := r.recordDecisions(methodResolve, who, req, items, outcome); err != nil {
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
