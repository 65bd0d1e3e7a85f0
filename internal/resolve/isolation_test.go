package resolve_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestIsolation: no sequence of calls gives a caller a value that the grants do not allow.
// Callers resolve and check at random and concurrently, while grants are added and removed,
// integrations are created and deleted, secrets are rotated and stores fail. Every answer
// must be correct for some state of the policy that was in force during the call, according
// to an oracle. Afterwards the test requests everything that is denied once more, with
// different states of the stores and the cache: the answers must not reveal any state.
func TestIsolation(t *testing.T) {
	seeds, calls := 6, 150
	if testing.Short() {
		seeds, calls = 2, 50
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var callers, changes sync.WaitGroup
				done := make(chan struct{})
				w.changeBehind(rand.New(rand.NewPCG(seed, 98)))
				changes.Go(func() { w.change(rand.New(rand.NewPCG(seed, 0)), done) })
				for n := range 12 {
					callers.Go(func() { w.call(rand.New(rand.NewPCG(seed, uint64(n)+1)), n, calls) })
				}
				callers.Wait()
				close(done)
				changes.Wait()
				w.quiet(rand.New(rand.NewPCG(seed, 99)))
				if w.served.Load() == 0 || w.refused.Load() == 0 || w.stores.reads.Load() == 0 {
					t.Errorf("nothing was tested: %d values served, %d refused, %d reads", w.served.Load(), w.refused.Load(), w.stores.reads.Load())
				}
			})
		})
	}
}

func newWorld(t *testing.T) *world {
	values, err := cache.New(cache.Config{MaxBytes: 128 << 10}) // small, so that the cache also evicts entries
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(values.Close)
	w := &world{
		t:        t,
		registry: &history{eras: make(map[string][]era), byIn: make(map[*integration.Integration]*facts)},
		audit:    &memoryAudit{events: make(map[string]map[string]audit.Event)},
	}
	w.stores = &tellingStores{w: w, generation: make(map[ask]int), fault: make(map[string]string), asked: make(map[string]map[ask]map[asker]bool)}
	w.Resolver = resolve.New(resolve.Config{
		Integrations: w.registry, Stores: w.stores, Cache: values, Audit: w.audit, CacheTTL: time.Second,
	})
	var failure *resolve.Failure
	_, err = w.Resolve(t.Context(), resolve.Caller{Principal: "spiffe://td/stranger"},
		resolve.Request{IntegrationID: "none", Configs: map[string]string{"p": isoStores[0] + "::db"}})
	if !errors.As(err, &failure) || failure.Configs[0].Err.Reason != secret.ReasonAccessDenied {
		t.Fatalf("an unknown caller got %v", err)
	}
	w.denied = failure.Configs[0].Err
	for _, id := range isoIDs {
		w.registry.put(id, nil)
	}
	return w
}

// change changes the world around the callers.
func (w *world) change(rng *rand.Rand, done <-chan struct{}) {
	revisions := make(map[string]int) // integrations may have equal revisions
	for {
		id := pick(rng, isoIDs)
		switch rng.IntN(10) {
		case 0:
			w.registry.put(id, nil)
		case 1:
			w.registry.revert(rng, id)
		case 2, 3:
			w.stores.rotate(pick(rng, isoStores), pick(rng, isoNames))
		case 4:
			w.stores.fail(pick(rng, isoStores), pick(rng, []string{"", "", "slow", "slow", "panic", "unforeseen",
				string(secret.ReasonStoreUnavailable), string(secret.ReasonStoreThrottled), string(secret.ReasonSecretDisabled), string(secret.ReasonStoreAccessDenied)}))
		case 5:
			w.audit.broken.Store(rng.IntN(4) == 0)
		default:
			revisions[id]++
			f, err := randomFacts(rng, id, fmt.Sprint("r", revisions[id]))
			if err != nil {
				w.errorf("%v", err)
				return
			}
			w.registry.put(id, f)
		}
		select {
		case <-done:
			w.audit.broken.Store(false)
			return
		case <-time.After(time.Duration(rng.IntN(1000)) * time.Millisecond):
		}
	}
}

// changeBehind makes integrations change while a call reads them.
func (w *world) changeBehind(rng *rand.Rand) {
	var mu sync.Mutex // guards rng
	w.registry.behind = func(id string) {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(100) == 0 {
			w.registry.revert(rng, id)
		}
	}
}

// call makes random calls and checks the answers.
func (w *world) call(rng *rand.Rand, caller, calls int) {
	for n := range calls {
		who := pick(rng, isoPrincipals)
		id := pick(rng, slices.Concat(isoIDs, isoIDs, isoIDs, isoUnknownIDs))
		asks := make(map[string]ask)
		for i := range 1 + rng.IntN(5) {
			a := randomAsk(rng)
			for try := range 40 { // most references are denied: look for some that are allowed
				if i%2 == 1 || w.registry.since(id, w.registry.now())[0].effect(who, a) == authz.Allowed {
					break
				}
				if a = randomAsk(rng); try%10 == 9 {
					who = pick(rng, isoPrincipals)
				}
			}
			asks[fmt.Sprint("c", i)] = a
		}
		req := resolve.Request{
			ID: fmt.Sprint(caller, "-", n), IntegrationID: id,
			Configs: configsOf(rng, asks), AllowPartial: rng.IntN(3) > 0,
		}
		if rng.IntN(4) == 0 {
			req.Configs = connectorOf(rng, req.IntegrationID, req.Configs)
		}
		if rng.IntN(3) == 0 {
			req.MaxAge = ptr(time.Duration(rng.IntN(3)) * time.Second)
		}
		w.ask(rng, who, req, asks)
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
	}
}

// outcome is the outcome of one reference.
type outcome struct {
	err   *secret.Error
	value *secret.Value // nil for a check and if err is set
	at    string        // version
}

// ask makes one call, Resolve or Check, and checks it.
func (w *world) ask(rng *rand.Rand, who authz.Principal, req resolve.Request, asks map[string]ask) {
	ctx := context.Background()
	if rng.IntN(4) == 0 { // the caller cancels, perhaps before the call starts
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
		defer cancel()
		if rng.IntN(4) == 0 {
			cancel()
		}
	}
	w.stores.expect(who, req.IntegrationID, asks)
	start, changes := time.Now(), w.registry.now()
	outcomes := make(map[string]outcome)
	var err error
	caller := resolve.Caller{Principal: who}
	if rng.IntN(3) == 0 {
		var reports []resolve.Report
		reports, err = w.Check(ctx, caller, req)
		w.noteReports(reports, outcomes)
	} else {
		var res *resolve.Result
		res, err = w.Resolve(ctx, caller, req)
		w.noteResult(res, err, &req, start, outcomes)
	}
	events := w.audit.take(req.ID)
	var failure *resolve.Failure
	if err != nil && !errors.As(err, &failure) {
		if e := secret.AsError(err); e.Reason != secret.ReasonAuditUnavailable || len(outcomes) > 0 {
			w.errorf("%s: %v with %d answers", req.ID, err, len(outcomes))
		}
		return
	}
	// A failed call lists the failed configs: the others were allowed.
	for name := range asks {
		if _, named := outcomes[name]; failure != nil && !named {
			outcomes[name] = outcome{}
		}
	}
	w.checkAnswers(who, &req, asks, outcomes, events, changes)
	if !slices.ContainsFunc(slices.Collect(maps.Values(outcomes)), func(o outcome) bool { return !isDenial(o) }) {
		if took := time.Since(start); took != 0 {
			w.errorf("%s: everything was denied, but only after %v: the call waited for something", req.ID, took)
		}
	}
}

func isDenial(o outcome) bool {
	return o.err != nil && (o.err.Reason == secret.ReasonAccessDenied || o.err.Reason == secret.ReasonStoreNotAllowed)
}

func (w *world) noteResult(res *resolve.Result, err error, req *resolve.Request, start time.Time, outcomes map[string]outcome) {
	var failure *resolve.Failure
	if errors.As(err, &failure) {
		if res != nil {
			w.errorf("%s: a failure with an answer", req.ID)
		}
		for _, c := range failure.Configs {
			outcomes[c.Config] = outcome{err: c.Err}
		}
		return
	}
	if res == nil {
		return
	}
	for _, c := range res.Errors {
		outcomes[c.Config] = outcome{err: c.Err}
	}
	for i := range res.Configs {
		c := &res.Configs[i]
		outcomes[c.Config] = outcome{value: &c.Value, at: c.Version}
		if req.MaxAge != nil && c.FetchedAt.Before(start.Add(-*req.MaxAge)) {
			w.errorf("%s %s: read %v before the call, max_age %v", req.ID, c.Config, start.Sub(c.FetchedAt), *req.MaxAge)
		}
	}
}

func (w *world) noteReports(reports []resolve.Report, outcomes map[string]outcome) {
	for _, r := range reports {
		o := outcome{err: r.Err, at: r.Version}
		outcomes[r.Config] = o
		if isDenial(o) && (r.Version != "" || !r.FetchedAt.IsZero() || !r.ExpiresAt.IsZero() || r.HasKey || r.Length != -1) {
			w.errorf("a denied caller got %+v", r)
		}
		if err := r.Err; err != nil {
			r.Err = &secret.Error{Reason: err.Reason, Message: err.Message} // the caller does not get the cause
		}
		if text := fmt.Sprintf("%+v %v", r, r.Err); strings.Contains(text, isoCanary) {
			w.errorf("a report contains a value: %s", text)
		}
	}
}

// checkAnswers looks for a state of the policy during the call that explains all of its
// outcomes.
func (w *world) checkAnswers(who authz.Principal, req *resolve.Request, asks map[string]ask, outcomes map[string]outcome, events map[string]audit.Event, changes int) {
	var why []string
	for _, f := range w.registry.since(req.IntegrationID, changes) {
		fault := ""
		for _, name := range slices.Sorted(maps.Keys(asks)) {
			o, answered := outcomes[name]
			if fault = w.unexplained(f, who, asks[name], o, answered, events[name]); fault != "" {
				why = append(why, fmt.Sprintf("%s %+v: %s", name, asks[name], fault))
				break
			}
		}
		if fault == "" {
			why = nil
			break
		}
	}
	if why != nil {
		w.errorf("%s: %s through %s got a value that no policy in force allows:\n%s", req.ID, who, req.IntegrationID, strings.Join(why, "\n"))
	}
	for name := range outcomes {
		if _, ok := asks[name]; !ok {
			w.errorf("%s: an answer for %s, which is not a reference", req.ID, name)
		}
	}
	if text, err := json.Marshal(events); err != nil || strings.Contains(string(text), isoCanary) {
		w.errorf("%s: the audit log contains a value: %s %v", req.ID, text, err)
	}
}

// unexplained returns what is wrong with an outcome if the policy is f, or "".
func (w *world) unexplained(f *facts, who authz.Principal, a ask, o outcome, answered bool, e audit.Event) (fault string) {
	effect := f.effect(who, a)
	switch {
	case !answered:
		return "no answer"
	case effect == authz.Allowed && isDenial(o), effect != authz.Allowed && !isDenial(o):
		return fmt.Sprintf("%v, but the outcome is %v with a value: %v", effect, o.err, o.value != nil)
	case effect == authz.StoreNotAllowed && o.err.Reason != secret.ReasonStoreNotAllowed:
		return "got the error " + o.err.Error()
	case effect == authz.Denied && *o.err != *w.denied:
		return fmt.Sprintf("a denied caller got %v instead of %v", o.err, w.denied)
	case effect != authz.Allowed && (e.Outcome != audit.Denied || e.Version != "" || e.Source != "" || e.GrantID != ""):
		return fmt.Sprintf("denied, and recorded as %+v", e)
	case effect != authz.Allowed:
		w.refused.Add(1)
		return ""
	case !f.gives(e.GrantID, who, a):
		return fmt.Sprintf("recorded with a grant that does not allow it: %+v", e)
	case o.err != nil && strings.Contains(o.err.Message, isoCanary):
		return "an error contains a value: " + o.err.Message
	case o.err != nil && strings.Contains(o.err.Message, "complains") && o.err.Message != complaint(f.in, a.whole()):
		return "the error names another secret: " + o.err.Message
	case o.value == nil:
		return ""
	case e.Outcome != audit.Served || e.Version != o.at || e.IntegrationRevision != f.in.Revision:
		return fmt.Sprintf("version %s served, and recorded as %+v", o.at, e)
	}
	w.served.Add(1)
	return wrongValue(f.in, a, o)
}

// quiet requests everything that is denied, for existing integrations and others, with a warm
// and a cold cache, while the stores answer, fail and hang. The answers must be equal, no
// store may be read, and no time may pass.
func (w *world) quiet(rng *rand.Rand) {
	w.registry.behind = nil
	time.Sleep(time.Minute) // reads whose callers have canceled end
	reads := w.stores.reads.Load()
	for _, fault := range []string{"", string(secret.ReasonStoreUnavailable), "slow"} {
		for _, store := range isoStores {
			w.stores.fail(store, fault)
		}
		for n, id := range slices.Concat(isoIDs, isoUnknownIDs) {
			for m, who := range isoPrincipals {
				asks := make(map[string]ask)
				for i := range 15 {
					if a := randomAsk(rng); w.registry.since(id, w.registry.now())[0].effect(who, a) != authz.Allowed {
						asks[fmt.Sprint("c", i)] = a
					}
				}
				if len(asks) > 0 {
					w.ask(rng, who, resolve.Request{ID: fmt.Sprint("quiet", fault, n, m), IntegrationID: id, Configs: configsOf(rng, asks)}, asks)
				}
			}
		}
	}
	if n := w.stores.reads.Load(); n != reads {
		w.errorf("denied callers caused %d reads", n-reads)
	}
}
