package resolve

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// MaxWatched is the maximum number of references that one WatchRequest may have.
const MaxWatched = 1000

// WatchRequest is a call of Watch as the caller sent it.
type WatchRequest struct {
	// ID identifies the call in the audit log and other logs.
	ID   string
	Sets []WatchSet
}

// WatchSet is the configs to watch through one integration, as in a Request.
type WatchSet struct {
	IntegrationID string
	Configs       map[string]string
	// Known has the versions that the caller has, by config.
	Known     map[string]string
	Connector string
}

// WatchNotice is a notice about one config of a set.
type WatchNotice struct {
	Set    int
	Config string
	watch.Notice
}

// Watching is an open call of Watch. Only one goroutine may use it.
type Watching struct {
	resolver *Resolver
	who      Caller
	id       string
	sets     []watchedSet
	items    []watched
	stream   *watch.Stream
	// invalid are notices about configs that are not references; Next returns them first.
	invalid []WatchNotice
}

// watchedSet is what records of a set have in common.
type watchedSet struct{ integrationID, connector string }

// watched is one item of the stream.
type watched struct {
	set    int
	config string
	// allowed is the decision that was recorded last.
	allowed bool
}

// Watch begins to watch secrets for a caller. The decisions about all of them are recorded
// before it returns. The caller closes the Watching. The error is as in Resolve.
func (r *Resolver) Watch(ctx context.Context, who Caller, req WatchRequest) (*Watching, error) {
	w := &Watching{resolver: r, who: who, id: req.ID}
	if err := who.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer who.leaveTurn()
	items, err := w.parse(&req)
	if err != nil {
		return nil, err
	}
	if err := w.open(items); err != nil {
		return nil, err
	}
	if w.stream, err = r.cfg.Hub.Open(who.Principal, items); err != nil {
		return nil, overWatched(err)
	}
	return w, nil
}

// overWatched returns the error of a call that exceeds a limit of the Hub.
func overWatched(err error) error {
	var over *watch.LimitError
	if !errors.As(err, &over) {
		return err
	}
	return &secret.Error{
		Reason:     secret.ReasonOverloaded,
		Message:    "the call would exceed " + over.Setting + "; watch fewer secrets, close streams that are not needed, or ask the operator to raise the limit",
		RetryAfter: 30 * time.Second,
	}
}

// parse returns the items of all sets in the order of sets and names.
func (w *Watching) parse(req *WatchRequest) ([]watch.Item, error) {
	reject := func(set *WatchSet, err error) error {
		return w.resolver.reject(MethodWatch, w.who, &Request{ID: req.ID, IntegrationID: set.IntegrationID, Connector: set.Connector}, err)
	}
	if len(req.Sets) == 0 || len(req.Sets) > MaxWatched {
		return nil, reject(&WatchSet{}, invalid("sets has %d elements; expected 1 to %d", len(req.Sets), MaxWatched))
	}
	var items []watch.Item
	for i := range req.Sets {
		set := &req.Sets[i]
		more, err := w.parseSet(i, set, MaxWatched-len(w.items)-len(w.invalid))
		if err != nil {
			return nil, reject(set, err)
		}
		items = append(items, more...)
	}
	return items, nil
}

// parseSet returns the items of one set, of which there may be at most most.
func (w *Watching) parseSet(i int, set *WatchSet, most int) ([]watch.Item, error) {
	limits := &w.resolver.cfg.Limits
	one := Request{IntegrationID: set.IntegrationID, Configs: set.Configs, Connector: set.Connector}
	if err := one.validate(limits); err != nil {
		return nil, err
	}
	for config, version := range set.Known {
		if _, ok := set.Configs[config]; !ok || version == "" || len(version) > MaxNameLen || !printable(version) {
			return nil, invalid("known_versions has a name that is not in configs, or a version that the broker did not give")
		}
	}
	refs, problems, err := references(false, set.IntegrationID, set.Configs, MaxWatched)
	if err != nil {
		return nil, err
	}
	if len(refs)+len(problems) > most {
		return nil, invalid("the sets have more than %d references; open several streams", MaxWatched)
	}
	w.sets = append(w.sets, watchedSet{set.IntegrationID, set.Connector})
	var items []watch.Item
	for _, it := range w.resolver.parse(nil, refs, problems, secret.Kind(set.Configs[propKind])) {
		if it.err != nil {
			w.invalid = append(w.invalid, WatchNotice{Set: i, Config: it.name, Notice: watch.Notice{State: watch.Unreadable, Err: it.err}})
			continue
		}
		items = append(items, watch.Item{IntegrationID: set.IntegrationID, Ref: it.ref, Known: set.Known[it.name]})
		w.items = append(w.items, watched{set: i, config: it.name})
	}
	return items, nil
}

// open decides about all items and records the decisions: one record for each set with the
// secrets that may be watched, and one for each config that is refused.
func (w *Watching) open(items []watch.Item) error {
	r := w.resolver
	var events, refused []audit.Event
	secrets := make([][]string, len(w.sets))
	revisions := make([]string, len(w.sets))
	for i := range items {
		it := &w.items[i]
		d := r.Decide(w.who.Principal, items[i].IntegrationID, items[i].Ref)
		if d.Temporary {
			return r.reject(MethodWatch, w.who, &Request{ID: w.id, IntegrationID: items[i].IntegrationID}, d.Unreadable)
		}
		revisions[it.set] = d.IntegrationRevision
		if it.allowed = d.Denied == nil; it.allowed {
			secrets[it.set] = append(secrets[it.set], items[i].Ref.Secret().String())
			r.cfg.Observe(MethodWatch, "")
		} else {
			refused = append(refused, w.event(it, items[i].Ref, d))
			r.cfg.Observe(MethodWatch, d.Denied.Reason)
		}
	}
	for i := range w.invalid {
		n := &w.invalid[i]
		e := w.setEvent(n.Set)
		e.Config, e.Outcome, e.Reason = n.Config, audit.Rejected, n.Err.Reason
		refused = append(refused, e)
	}
	for i, names := range secrets {
		if len(names) > 0 {
			e := w.setEvent(i)
			e.Outcome, e.IntegrationRevision, e.Watched = audit.Watched, revisions[i], audit.NewWatchedSet(len(names), names)
			events = append(events, e)
		}
	}
	for _, some := range [][]audit.Event{events, refused} {
		if len(some) > 0 {
			if _, err := r.record(MethodWatch, w.who, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// setEvent returns what the records of one set have in common.
func (w *Watching) setEvent(set int) audit.Event {
	return newEvent(MethodWatch, w.who, &Request{ID: w.id, IntegrationID: w.sets[set].integrationID, Connector: w.sets[set].connector})
}

// event returns the record of a decision about one item.
func (w *Watching) event(it *watched, ref secret.Ref, d watch.Decision) audit.Event {
	e := w.setEvent(it.set)
	e.IntegrationRevision, e.Config, e.GrantID = d.IntegrationRevision, it.config, d.GrantID
	e.Reference, e.Store, e.Secret, e.JSONKey = ref.String(), ref.Store, ref.Name, ref.Key
	e.Outcome = audit.Watched
	if d.Denied != nil {
		e.Outcome, e.Reason = audit.Denied, d.Denied.Reason
	}
	return e
}

// Next waits until there is something to tell the caller. complete is true once, when the
// caller was told about every config. The caller sends the notices before the next call.
func (w *Watching) Next(ctx context.Context) (notices []WatchNotice, complete bool, err error) {
	if len(w.invalid) > 0 {
		notices, w.invalid = w.invalid, nil
		return notices, len(w.items) == 0 && w.told(), nil
	}
	said, complete, err := w.stream.Next(ctx)
	if err != nil {
		return nil, false, err
	}
	var events []audit.Event
	notices = make([]WatchNotice, len(said))
	for i, n := range said {
		it := &w.items[n.Item]
		notices[i] = WatchNotice{Set: it.set, Config: it.config, Notice: n}
		if allowed := n.Decision.Denied == nil; allowed != it.allowed {
			it.allowed = allowed
			events = append(events, w.event(it, n.Ref, n.Decision))
		}
	}
	if len(events) > 0 {
		if _, err := w.resolver.record(MethodWatch, w.who, events); err != nil {
			return nil, false, err
		}
	}
	return notices, complete, nil
}

// told makes the stream without items report that it is complete only once.
func (w *Watching) told() bool {
	_, complete, err := w.stream.Next(context.Background())
	return err == nil && complete
}

// Close ends the call.
func (w *Watching) Close() { w.stream.Close() }

var errNoVersions = secret.Errorf(secret.ReasonSecretNotWatchable,
	"the store has no versions, and the broker has no key to compute them with; ask the operator to set registry.seal.key_file if integrations are in a database, or watch.version_key_file")

var errGenerated = secret.Errorf(secret.ReasonSecretNotWatchable,
	"every read of this secret generates a credential, and the caller may watch it by a role, which must not create any; watch it with a grant")

// Decide implements watch.Reader.
func (r *Resolver) Decide(who authz.Principal, id string, ref secret.Ref) watch.Decision {
	in, err := r.cfg.Integrations.Get(id)
	if err := unavailable(err); err != nil {
		return watch.Decision{Unreadable: secret.AsError(err), Temporary: true}
	}
	return r.decideWatch(who, in, ref)
}

// decideWatch is Decide with the integration, nil if there is none.
func (r *Resolver) decideWatch(who authz.Principal, in *integration.Integration, ref secret.Ref) watch.Decision {
	if in == nil {
		return watch.Decision{Denied: errDenied}
	}
	d := watch.Decision{IntegrationRevision: in.Revision}
	decided := in.Policy.Decide(who, ref)
	role := decided.Effect != authz.Allowed && r.cfg.MayWatch(who, in)
	switch {
	case decided.Effect == authz.Allowed:
		d.GrantID = in.Policy.GrantID(decided)
	case role && in.Policy.HasStore(ref.Store):
	case role, decided.Effect == authz.StoreNotAllowed:
		d.Denied = errStoreNotAllowed
		return d
	default:
		d.Denied = errDenied
		return d
	}
	if why := r.cfg.Admit(who, in); why != "" {
		d.GrantID, d.Denied = "", secret.Errorf(secret.ReasonPlacementDenied, "%s", why)
		return d
	}
	versions, interval := r.cfg.Versions(in, ref)
	switch {
	case versions == secret.GeneratedVersions && role:
		d.Unreadable = errGenerated
	case versions == secret.GeneratedVersions:
		d.Generated = true
	case versions == secret.NoVersions && !r.cfg.ComputesVersions:
		d.Unreadable = errNoVersions
	}
	d.ReadRevision, d.Store, d.Scheme = in.ReadRevision, in.CanonicalStore(ref.Store), r.scheme(in, versions)
	if d.Interval = interval; interval == 0 {
		d.Interval = r.ttl(in)
	}
	if s, ok := in.Settings.(integration.PollSettings); ok && r.cfg.Peek != nil && versions == secret.StoreVersions {
		d.Poll = s.PollInterval(ref)
	}
	return d
}

// Read implements watch.Reader.
func (r *Resolver) Read(ctx context.Context, caller authz.Principal, id string, ref secret.Ref, now bool) (load cache.Load, ok bool) {
	began := time.Now()
	in, err := r.cfg.Integrations.Get(id)
	if err := unavailable(err); err != nil {
		return cache.Load{ReadAt: began, Err: secret.AsError(err)}, true
	}
	if in == nil {
		return cache.Load{}, false
	}
	var maxAge *time.Duration
	if versions, _ := r.cfg.Versions(in, ref); now && versions != secret.GeneratedVersions {
		maxAge = new(time.Duration)
	}
	return r.readVersion(ctx, caller, in, ref, maxAge, began)
}

// Peek implements watch.Peeker.
func (r *Resolver) Peek(ctx context.Context, id string, ref secret.Ref) (state string, can bool, err error) {
	in, err := r.cfg.Integrations.Get(id)
	if err != nil || r.cfg.Peek == nil {
		return "", false, err
	}
	state, err = r.cfg.Peek(provider.WithCallers(ctx, provider.NewCallers("")), in, ref)
	return state, !errors.Is(err, provider.ErrCannotPeek), err
}

// readVersion gets a secret for what is known of it without its value. ok is false if only a
// stale value is available.
func (r *Resolver) readVersion(ctx context.Context, caller authz.Principal, in *integration.Integration, ref secret.Ref, maxAge *time.Duration, began time.Time) (load cache.Load, ok bool) {
	callers := provider.NewCallers(string(caller))
	req := r.cacheRequest(in, maxAge, ref)
	req.Account = callers
	got, err := r.cfg.Cache.Get(ctx, req, func(ctx context.Context) (*secret.Secret, error) {
		return r.load(ctx, callers, in, ref)
	})
	if err != nil {
		return cache.Load{Key: req.Key, ReadAt: began, Err: secret.AsError(err)}, true
	}
	defer got.Secret.Release()
	if got.Source == cache.Stale {
		return cache.Load{}, false // the Hub was told of the failure
	}
	return cache.Load{Key: req.Key, Version: got.Secret.Version, ExpiresAt: got.Secret.ExpiresAt, ReadAt: got.Secret.FetchedAt}, true
}

// Lost drops a generated credential that its store has revoked from the cache, and tells
// those that watch it of another one. It is a provider.Config.Lost.
func (r *Resolver) Lost(in *integration.Integration, ref secret.Ref, version string) {
	key := r.cacheRequest(in, nil, ref).Key
	r.cfg.Cache.Drop(key, func(v string, _ time.Time) bool { return v == version })
	r.cfg.Hub.Lost(key, version)
}
