package resolve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// facts are an integration with its grants as written: the oracle's own interpretation, by
// regular expressions. Nil facts mean that there is no integration.
type facts struct {
	in     *integration.Integration
	vaults []string
	grants []naiveGrant
}

type naiveGrant struct {
	id                        string
	principals, secrets, keys []*regexp.Regexp // nil secrets or keys match everything
	stores                    []string
}

// gives reports whether the grant with this id allows the request.
func (f *facts) gives(id string, who authz.Principal, a ask) bool {
	return slices.ContainsFunc(f.grants, func(g naiveGrant) bool { return g.id == id && g.gives(who, a) })
}

// effect implements the documentation of the policy literally.
func (f *facts) effect(who authz.Principal, a ask) authz.Effect {
	if f == nil {
		return authz.Denied
	}
	found := authz.Denied
	for i := range f.grants {
		if !f.grants[i].gives(who, a) {
			continue
		}
		if slices.Contains(f.vaults, a.store) {
			return authz.Allowed
		}
		found = authz.StoreNotAllowed
	}
	return found
}

func (g *naiveGrant) gives(who authz.Principal, a ask) bool {
	matches := func(list []*regexp.Regexp, s string) bool {
		return slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(s) })
	}
	return matches(g.principals, string(who)) &&
		(g.stores == nil || slices.Contains(g.stores, a.store)) &&
		(g.secrets == nil || matches(g.secrets, a.name)) &&
		(g.keys == nil || a.key != "" && matches(g.keys, a.key))
}

// naive converts patterns to regular expressions; open is the expression for a final "*".
func naive(patterns []string, open string) []*regexp.Regexp {
	var list []*regexp.Regexp
	for _, p := range patterns {
		var re string
		switch {
		case strings.HasPrefix(p, "dns:*."):
			re = `dns:[^.]+\.` + regexp.QuoteMeta(p[len("dns:*."):])
		case strings.HasSuffix(p, "/**"):
			re = regexp.QuoteMeta(p[:len(p)-2]) + ".+"
		case strings.HasSuffix(p, "*"):
			re = regexp.QuoteMeta(p[:len(p)-1]) + open
		default:
			re = regexp.QuoteMeta(p)
		}
		list = append(list, regexp.MustCompile("^(?:"+re+")$"))
	}
	return list
}

// randomFacts returns an integration with a few grants.
func randomFacts(rng *rand.Rand, id, revision string) (*facts, error) {
	f := &facts{vaults: slices.Compact(slices.Sorted(slices.Values(some(rng, isoStores, 3))))}
	grants := make([]authz.Grant, rng.IntN(6))
	for i := range grants {
		g := &grants[i]
		g.ID = fmt.Sprintf("%s-g%d", revision, i)
		g.Principals = some(rng, isoPrincipalPatterns, 3)
		n := naiveGrant{id: g.ID, principals: naive(g.Principals, "[^/]*")}
		if rng.IntN(3) == 0 {
			g.Stores = some(rng, f.vaults, 1)
			n.stores = g.Stores
		}
		if rng.IntN(3) > 0 {
			g.Secrets = some(rng, isoNamePatterns, 2)
			n.secrets = naive(strings.Split(strings.ToLower(strings.Join(g.Secrets, " ")), " "), ".*")
		}
		if rng.IntN(2) == 0 {
			g.Keys = some(rng, isoKeyPatterns, 2)
			n.keys = naive(g.Keys, ".*")
		}
		f.grants = append(f.grants, n)
	}
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, f.vaults, grants)
	f.in = &integration.Integration{
		ID: id, Revision: revision, ReadRevision: revision, Kind: secret.KindAzureKeyVault, Policy: policy,
		CacheTTL: time.Duration(1+rng.IntN(3)) * time.Second, CacheMaxStale: time.Duration(rng.IntN(2)) * 5 * time.Second,
	}
	return f, err
}

// history is a registry that records which integrations were in force at which time.
type history struct {
	resolve.Integrations // for List
	mu                   sync.Mutex
	changes              int
	eras                 map[string][]era
	byIn                 map[*integration.Integration]*facts
	// behind, if not nil, is called when a call has just read an integration: the
	// integration may change before the call uses it.
	behind func(id string)
}

// era is the state of an integration between two counts of changes.
type era struct {
	from, until int // until is exclusive; 0: still in force
	*facts
}

func (h *history) put(id string, f *facts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes++
	eras := h.eras[id]
	if len(eras) > 0 {
		eras[len(eras)-1].until = h.changes
	}
	h.eras[id] = append(eras, era{from: h.changes, facts: f})
	if f != nil {
		h.byIn[f.in] = f
	}
}

// revert restores an earlier state of an integration, with the revision of that state.
func (h *history) revert(rng *rand.Rand, id string) {
	h.mu.Lock()
	eras := slices.DeleteFunc(slices.Clone(h.eras[id]), func(e era) bool { return e.facts == nil })
	h.mu.Unlock()
	if len(eras) > 0 {
		h.put(id, pick(rng, eras).facts)
	}
}

func (h *history) Get(id string) (*integration.Integration, error) {
	if h.behind != nil {
		defer h.behind(id)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if eras := h.eras[id]; len(eras) > 0 && eras[len(eras)-1].facts != nil {
		return eras[len(eras)-1].in, nil
	}
	return nil, registry.ErrNotFound
}

func (h *history) now() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

// since returns every state of an integration since a count of changes, the latest first.
func (h *history) since(id string, changes int) []*facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*facts
	for _, e := range slices.Backward(h.eras[id]) {
		if e.until == 0 || e.until > changes {
			all = append(all, e.facts)
		}
	}
	if len(all) == 0 {
		all = []*facts{nil} // an id that never existed
	}
	return all
}

func (h *history) factsOf(in *integration.Integration) *facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byIn[in]
}

// world is a resolver with its environment, and the oracle.
type world struct {
	*resolve.Resolver
	t        *testing.T
	registry *history
	stores   *tellingStores
	audit    *memoryAudit
	denied   *secret.Error // the error that every denied caller gets
	faults   atomic.Int32
	served   atomic.Int32 // values that callers got
	refused  atomic.Int32
}

func (w *world) errorf(format string, args ...any) {
	w.t.Helper()
	if w.faults.Add(1) <= 10 { // one leak usually causes many errors
		w.t.Errorf(format, args...)
	}
}

// memoryAudit stores the events of calls until the test takes them.
type memoryAudit struct {
	broken atomic.Bool
	mu     sync.Mutex
	events map[string]map[string]audit.Event // request id -> config
}

func (a *memoryAudit) Begin(events []audit.Event) (receipt audit.Receipt, position audit.Position, err error) {
	if a.broken.Load() {
		return receipt, position, errors.New("disk full")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range events {
		if a.events[e.RequestID] == nil {
			a.events[e.RequestID] = make(map[string]audit.Event)
		}
		a.events[e.RequestID][e.Config] = e
	}
	return receipt, position, nil
}

func (a *memoryAudit) take(requestID string) map[string]audit.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer delete(a.events, requestID)
	return a.events[requestID]
}

// tellingStores return planted values, and know for which callers they may be read.
type tellingStores struct {
	w     *world
	reads atomic.Int64

	mu         sync.Mutex
	generation map[ask]int
	fault      map[string]string // by store
	// asked records who has requested what so far, by id and by ask without the key.
	asked map[string]map[ask]map[asker]bool
}

type asker struct {
	who authz.Principal
	key string
}

// whole returns the part of a that a store must be read for.
func (a ask) whole() ask { return ask{store: a.store, name: a.name, generation: a.generation} }

func (s *tellingStores) expect(who authz.Principal, id string, asks map[string]ask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked[id] == nil {
		s.asked[id] = make(map[ask]map[asker]bool)
	}
	for _, a := range asks {
		if s.asked[id][a.whole()] == nil {
			s.asked[id][a.whole()] = make(map[asker]bool)
		}
		s.asked[id][a.whole()][asker{who, a.key}] = true
	}
}

// wanted reports whether a caller with a grant has requested a.
func (s *tellingStores) wanted(f *facts, a ask) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for by := range s.asked[f.in.ID][a] {
		keyed := a
		keyed.key = by.key
		if f.effect(by.who, keyed) == authz.Allowed {
			return true
		}
	}
	return false
}

func (s *tellingStores) rotate(store, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation[ask{store: store, name: name}]++
}

func (s *tellingStores) fail(store, fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault[store] = fault
}

func (s *tellingStores) state(a ask) (generation int, fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation[ask{store: a.store, name: a.name}], s.fault[a.store]
}

func (s *tellingStores) Fetch(ctx context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	s.reads.Add(1)
	a, began := ask{store: ref.Store, name: ref.Name, generation: -1}, time.Now()
	if ref.Version != "" {
		n, err := strconv.ParseInt(ref.Version, 16, 32)
		if err != nil {
			s.w.errorf("a store was asked for version %q", ref.Version)
		}
		a.generation = int(n)
	}
	if f := s.w.registry.factsOf(in); f == nil || !s.wanted(f, a) {
		s.w.errorf("%s revision %s was read although no caller with a grant had requested it: %+v", in.ID, in.ReadRevision, a)
	}
	generation, fault := s.state(a)
	switch fault {
	case "":
	case "slow":
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		generation, _ = s.state(a)
	case "panic":
		panic(isoCanary)
	case "unforeseen":
		return nil, errors.New("something unforeseen: " + isoCanary)
	default:
		return nil, secret.Errorf(secret.Reason(fault), "%s", complaint(in, a)).WithCause(errors.New(isoCanary))
	}
	if a.name == isoAbsent || a.generation > generation {
		return nil, secret.Errorf(secret.ReasonSecretNotFound, "%s", complaint(in, a))
	}
	if a.generation >= 0 {
		generation = a.generation
	}
	doc, err := json.Marshal(isoDocument(in, a.store, a.name, generation))
	return secret.New(isoVersion(generation), began, time.Time{}, doc), err
}

// complaint is an error text that contains the origin of the secret, so that the test notices
// if the failure of one secret is reported for another.
func complaint(in *integration.Integration, a ask) string {
	return fmt.Sprintf("the store failed for %s %s %s %s %d", in.ID, in.ReadRevision, a.store, a.name, a.generation)
}
