// Package resolve implements the use case Resolve: a caller sends references and gets the
// values that it may have. The audit log records every decision before a value leaves the
// broker.
//
// A call makes its decisions in a fixed order, so that a caller learns nothing that it may
// not know, neither from an error nor from the time that the answer takes:
//
//  1. The request is validated, and its references are parsed (look, parse). Errors depend
//     only on the request.
//  2. The policy decides about every reference (decide), before the cache or a store is
//     used. A caller without a grant gets the same error whether or not the integration or
//     the secret exists. Only a caller with a grant learns that a store is not listed or
//     that its placement is wrong.
//  3. The secrets of the allowed references are taken from the cache or read, each distinct
//     secret once (link, fetch).
//  4. The decisions are recorded, and only then does the caller get the values (handOut).
//     If a reference failed and the request does not allow partial answers, all values are
//     withheld, and recorded as withheld.
//
// Check goes the same way but returns no values. The package connects policy, cache, stores
// and audit log. It knows neither gRPC, nor SDKs, nor a database.
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
	"github.com/secretbroker/secretbroker/internal/watch"
)

// Integrations finds an integration, or returns registry.ErrNotFound, and lists the
// integrations in force.
type Integrations interface {
	Get(id string) (*integration.Integration, error)
	List() []*integration.Integration
}

// Stores reads a secret through an integration; provider.Set implements it. The context
// contains the caller that the read is charged to, see provider.WithCallers.
type Stores interface {
	Fetch(ctx context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error)
}

// AuditLog records decisions; audit.Limiter and audit.Log implement it. All events of a
// Begin are recorded once its Receipt reports success; otherwise Begin or the Receipt
// fails. Of a call that returns no value, some events may only be counted. AuditLog does
// not retain the events. The Position is that of the first event. It waits for a limited time, and not for the call's context: a
// caller cannot prevent its record by disconnecting.
type AuditLog interface {
	Begin(events []audit.Event) (audit.Receipt, audit.Position, error)
}

// Config configures a Resolver. Integrations, Stores, Cache, Audit and CacheTTL are
// required.
type Config struct {
	Integrations Integrations
	Stores       Stores
	Cache        *cache.Cache
	Audit        AuditLog
	// CacheTTL is the time for which the cache answers with values of integrations that
	// have no time-to-live of their own.
	CacheTTL time.Duration
	// Peek, if not nil, returns which version of a secret is current without reading it; see
	// provider.Set.Peek.
	Peek func(ctx context.Context, in *integration.Integration, ref secret.Ref) (state string, err error)
	// Unresponsive, if not nil, reports whether an integration's store is known not to
	// respond right now, see provider.Set.Unresponsive. It must not block.
	Unresponsive func(in *integration.Integration, store string) bool
	// Limits limits one request; a field that is zero has its default.
	Limits Limits
	// Admit, if not nil, returns why a caller may not use an integration whatever its
	// grants are, "" if it may; see placement.Rules.Admit. Only callers with a grant get
	// the text.
	Admit func(who authz.Principal, in *integration.Integration) (why string)
	// Observe, if not nil, is called for every config with the method (MethodResolve,
	// MethodCheck, MethodWatch or MethodRefresh) and the reason, which is empty for success.
	// It is called once, without a config, for a call that fails as a whole. As with Used,
	// the CommitBarrier may still hold the value back then, and the value may never leave.
	Observe func(method string, reason secret.Reason)
	// Used, if not nil, is called for every value that a caller gets. It must not block.
	Used func(registry.Read)
	// Seen, if not nil, is called with the version that a read of a store has found for a
	// reference without a version, if versions say whether the content is the same. It must
	// not block.
	Seen func(registry.Seen)

	// Hub notices changes for Watch. It is required for Watch and not used otherwise. The
	// Resolver is the Hub's watch.Reader.
	Hub *watch.Hub
	// Versions, if not nil, returns what the versions of a secret are, and how often it is
	// read while it is watched; 0 for once per time-to-live. See integration.Kinds.Versions.
	Versions func(in *integration.Integration, ref secret.Ref) (secret.Versions, time.Duration)
	// MayWatch, if not nil, reports whether a principal may watch all secrets of an
	// integration without a grant.
	MayWatch func(who authz.Principal, in *integration.Integration) bool
	// Replicas, if not nil, shares with the other replicas which versions were seen.
	Replicas Replicas
	// VersionScheme identifies the key that computes versions, if the other replicas may
	// have the same one; "" if they have not.
	VersionScheme string
	// ComputesVersions means that Stores returns computed versions for secrets whose store
	// has none.
	ComputesVersions bool
}

// Resolver answers calls. It is safe for concurrent use.
type Resolver struct {
	cfg Config
}

// New returns a Resolver.
func New(cfg Config) *Resolver {
	if cfg.Observe == nil {
		cfg.Observe = func(string, secret.Reason) {}
	}
	if cfg.Admit == nil {
		cfg.Admit = func(authz.Principal, *integration.Integration) string { return "" }
	}
	if cfg.Versions == nil {
		cfg.Versions = func(*integration.Integration, secret.Ref) (secret.Versions, time.Duration) {
			return secret.StoreVersions, 0
		}
	}
	if cfg.MayWatch == nil {
		cfg.MayWatch = func(authz.Principal, *integration.Integration) bool { return false }
	}
	cfg.Limits = cfg.Limits.withDefaults()
	return &Resolver{cfg: cfg}
}

// item is the state of one reference during a call.
type item struct {
	name     string
	ref      secret.Ref // zero if the text is not a reference
	text     string     // the canonical text of ref
	decision authz.Decision
	grantID  string       // of the grant that caused the decision, "" if it is Denied
	value    secret.Value // a copy; the call or its Result wipes it
	got      cache.Result // the metadata of its Secret stays valid after the wipe
	err      *secret.Error
	// next is the index of the call's next item of the same secret, 0 if there is none.
	next int
}

// itemPool and eventPool reuse memory that every call needs and no call keeps: a third of
// the bytes that a call would otherwise allocate.
var (
	itemPool  = sync.Pool{New: func() any { return new([]item) }}
	eventPool = sync.Pool{New: func() any { return new([]audit.Event) }}
)

// maxKept is the maximum capacity that the pools keep: the items of a call with as many
// references as the default limits allow, rounded up as append does.
const maxKept = 160

// recycle clears the items and returns their memory to the pool.
func recycle(items *[]item) {
	clear(*items)
	if cap(*items) <= maxKept {
		itemPool.Put(items)
	}
}

// Resolve answers a call of who. The error is a *secret.Error for the call as a whole, or a
// *Failure that lists every config that failed. The caller wipes the Result after it has
// sent the answer.
func (r *Resolver) Resolve(ctx context.Context, who Caller, req Request) (res *Result, err error) {
	lent, in, err := r.look(ctx, MethodResolve, who, &req)
	if err != nil {
		return nil, err
	}
	defer recycle(lent)
	defer func() {
		if res == nil {
			wipe(*lent)
		}
	}()
	return r.handOut(who, &req, in, *lent)
}

// wipe overwrites the values that no caller will get.
func wipe(items []item) {
	for i := range items {
		items[i].value.Wipe()
	}
}

// lightConfigs is the number of configs up to which a request needs little CPU time.
const lightConfigs = 8

// look decides about every reference of a request and gets the values of the allowed ones.
// It records nothing yet, so no value may leave. The caller recycles the items. It also
// returns the integration, nil if there is none.
func (r *Resolver) look(ctx context.Context, method string, who Caller, req *Request) (*[]item, *integration.Integration, error) {
	if err := req.awaitRead(ctx); err != nil {
		return nil, nil, r.reject(method, who, req, err)
	}
	if len(req.Configs) > lightConfigs {
		if err := who.takeTurn(ctx); err != nil {
			return nil, nil, err
		}
	}
	if err := req.validate(&r.cfg.Limits); err != nil {
		return nil, nil, r.reject(method, who, req, err)
	}
	refs, problems, err := references(method == MethodCheck, req.IntegrationID, req.Configs, r.cfg.Limits.MaxReferences)
	if err != nil {
		return nil, nil, r.reject(method, who, req, err)
	}
	if n, most := len(refs)+len(problems), r.cfg.Limits.MaxReferences; n > most {
		return nil, nil, r.reject(method, who, req, invalid("the request has %d references, the maximum is %d; split it", n, most))
	}
	lent := itemPool.Get().(*[]item)
	items := r.parse((*lent)[:0], refs, problems, secret.Kind(req.Configs[propKind]))
	*lent = items
	var few [64]int
	firsts := link(items, few[:0])
	if n, most := len(firsts), r.cfg.Limits.MaxSecrets; n > most {
		return nil, nil, r.reject(method, who, req, invalid("the request refers to %d different secrets, the maximum is %d; split it", n, most))
	}
	in, err := r.decide(who.Principal, req.IntegrationID, items)
	if err != nil {
		return nil, nil, r.reject(method, who, req, err)
	}
	if in != nil {
		req.revision = in.Revision
		req.Trace.Asked(in.ID, len(items))
	}
	r.fetch(ctx, who, in, req, items, firsts)
	return lent, in, nil
}

// parse appends the call's items, sorted by name. Each has a parsed reference or an error.
// If kind is set, a connector's configuration requires that kind of all references.
func (r *Resolver) parse(items []item, refs map[string]string, problems []ConfigError, kind secret.Kind) []item {
	items = slices.Grow(items, len(refs)+len(problems))
	// Sort the names and not the items, which are fifteen times as large.
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
	if len(problems) == 0 {
		return items
	}
	for _, f := range problems {
		items = append(items, item{name: f.Config, err: f.Err})
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.name, b.name) })
	return items
}

// parseItem parses the reference of an item, or sets the item's error.
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

// linkSeed prevents callers from choosing secrets whose hashes collide in link's table.
var linkSeed = maphash.MakeSeed()

// link chains the items of each secret by their next, and appends the index of each
// secret's first item to firsts.
func link(items []item, firsts []int) []int {
	var space [256]int32 // sufficient for the default limits
	table := space[:]    // index of a first item plus one, by a hash of its names; zero is free
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
	"the integration does not list the store; add it to the integration, or fix the reference")

var errNoMemory = secret.Errorf(secret.ReasonOverloaded,
	"the values need more of the broker's memory than this caller may use, or than is free; request fewer values at the same time, or retry later")

// unavailable returns the error for a caller if the registry failed. It does not depend on
// whether the integration exists.
func unavailable(err error) error {
	switch {
	case err == nil || errors.Is(err, registry.ErrNotFound):
		return nil
	case errors.Is(err, registry.ErrUnavailable):
		return secret.Errorf(secret.ReasonRegistryUnavailable,
			"the broker could not read its database or directory of integrations for so long that it no longer answers calls; retry later, and ask the operator to check it").WithCause(err)
	default:
		return err
	}
}

// decide asks the policy about every reference, in every call, before the call uses the
// cache or a store. An integration that does not exist has no policy, and no policy denies
// everything: a caller cannot distinguish that from a missing grant.
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
			it.grantID = policy.GrantID(it.decision)
		case authz.StoreNotAllowed:
			it.err = errStoreNotAllowed
		default:
			it.err = errDenied
		}
	}
	return in, nil
}
