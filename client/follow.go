package client

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
)

// maxWatched is the maximum number of references that one stream may watch.
const maxWatched = 1000

// FollowRequest names the values to follow: at most 1,000 references altogether.
type FollowRequest struct {
	// Sets are what to follow, by names that the program chooses for Follower.Get, such as
	// the names of its connectors.
	Sets map[string]FollowSet
	// Changed, if not nil, is called after values have changed, not for the first ones. The
	// calls are serialized, and values that change during a call are in the next one, with
	// the latest value only. ctx ends with the Follower. Changed must not call Close or
	// Update.
	Changed func(ctx context.Context, changes []Change)
}

// FollowSet is values to follow through one integration.
type FollowSet struct {
	// IntegrationID, Configs and Connector are as in ResolveRequest.
	IntegrationID string
	Configs       map[string]string
	Connector     string
}

func (s FollowSet) equal(other FollowSet) bool {
	return s.IntegrationID == other.IntegrationID && s.Connector == other.Connector && maps.Equal(s.Configs, other.Configs)
}

// Change is what Follower.Get returns from now on.
type Change struct {
	// Set and Config are the arguments of Get.
	Set, Config string
	// Value is the new value, a copy for the callee.
	Value Value
	// Err, if not nil, is why there is no value any more.
	Err *Error
}

// Follower keeps values current. It is safe for concurrent use.
//
// It watches the references of its sets and resolves those that change. A value that cannot
// be watched, with ReasonSecretNotWatchable, is resolved again when the broker's copy expires.
//
// While the broker is unreachable, or cannot read a secret, Get returns the last value. If the
// caller loses its access, the value is wiped, and Get fails until the access is back. Err and
// Config.Logger tell of these.
type Follower struct {
	client  *Client
	changed func(context.Context, []Change)
	ctx     context.Context // ends when the Follower does
	cancel  context.CancelFunc
	running sync.WaitGroup
	ended   chan struct{}

	updating sync.Mutex    // is held by Update
	news     chan struct{} // capacity 1; wakes report

	mu     sync.Mutex
	sets   map[string]*followedSet
	stream *followStream
	dirty  map[*followed]struct{} // not reported yet
}

// Follow resolves the values of req and keeps them current until ctx ends or Close is called.
// It fails if it cannot get all values now; the error is that of Resolve.
func (c *Client) Follow(ctx context.Context, req FollowRequest) (*Follower, error) {
	f := &Follower{client: c, changed: req.Changed, ended: make(chan struct{}), news: make(chan struct{}, 1), dirty: make(map[*followed]struct{})}
	f.ctx, f.cancel = context.WithCancel(ctx)
	sets, err := f.load(ctx, req.Sets)
	if err != nil {
		f.cancel()
		return nil, err
	}
	f.mu.Lock()
	f.begin(sets)
	f.sets, f.stream = sets, f.open(sets)
	f.mu.Unlock()
	if f.changed != nil {
		f.running.Go(f.report)
	}
	go f.finish()
	return f, nil
}

// finish wipes the values when the Follower has ended.
func (f *Follower) finish() {
	defer close(f.ended)
	stop := context.AfterFunc(f.client.closed, f.cancel)
	defer stop()
	<-f.ctx.Done()
	f.updating.Lock() // no Update begins goroutines any more
	defer f.updating.Unlock()
	f.running.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, set := range f.sets {
		set.wipe()
	}
}

// Close ends the Follower, waits for a running call of Changed, and wipes the values.
func (f *Follower) Close() {
	f.cancel()
	<-f.ended
}

// Get returns the current value of a config. It does not call the broker. The value is a copy
// that belongs to the caller: it stays readable when the secret changes. The error is an
// *Error: the caller has no access any more, the config is not followed, or the Follower has
// ended.
func (f *Follower) Get(set, config string) (Value, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	it, err := f.find(set, config)
	if err != nil {
		return Value{}, err
	}
	if it.denied != nil {
		return Value{}, it.denied
	}
	return it.value.clone(), nil
}

// Values returns the current values of all configs of a set, as they were at one moment. It
// fails if one of them has no value. The values belong to the caller, as those of Get.
func (f *Follower) Values(set string) (map[string]Value, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(set, ""); err != nil {
		return nil, err
	}
	values := f.sets[set].values
	for _, config := range slices.Sorted(maps.Keys(values)) {
		if e := values[config].denied; e != nil {
			return nil, e
		}
	}
	all := make(map[string]Value, len(values))
	for config, it := range values {
		all[config] = it.value.clone()
	}
	return all, nil
}

// find returns a config of a set, or nil if config is empty. It requires the lock.
func (f *Follower) find(set, config string) (*followed, error) {
	if f.ctx.Err() != nil {
		return nil, f.over()
	}
	s := f.sets[set]
	if s == nil {
		return nil, &Error{Code: codes.InvalidArgument, Reason: ReasonInvalidRequest, Message: fmt.Sprintf("there is no set %q; name it in FollowRequest.Sets", set)}
	}
	if it := s.values[config]; it != nil || config == "" {
		return it, nil
	}
	return nil, &Error{Code: codes.InvalidArgument, Reason: ReasonInvalidRequest, Message: fmt.Sprintf("the set %q has no reference with the name %q", set, config)}
}

// over returns the error of a Follower that has ended.
func (f *Follower) over() *Error {
	return &Error{Code: codes.Canceled, Message: "the Follower has ended", cause: f.ctx.Err()}
}

// Err returns why values may be out of date or missing, nil if the Follower knows of no
// reason: the interruption of the stream, or an error with the failing configs of all sets in
// Error.Configs, as SET/CONFIG.
func (f *Follower) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return f.over()
	}
	if f.stream.problem != nil {
		return f.stream.problem
	}
	var failed []ConfigError
	for _, name := range slices.Sorted(maps.Keys(f.sets)) {
		values := f.sets[name].values
		for _, config := range slices.Sorted(maps.Keys(values)) {
			if p := values[config].problem; p != nil {
				e := *p
				e.Config = name + "/" + config
				failed = append(failed, e)
			}
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &Error{Code: codes.FailedPrecondition, Reason: failed[0].Reason, Message: "values may be out of date or missing", Configs: failed}
}

// Update changes the sets that are followed, without a gap: sets that stay are followed by a
// second stream before the first one ends, and their values stay available. It returns when
// the broker has told the state of every config. If it fails, nothing has changed; the error
// is that of Resolve, or of ctx.
func (f *Follower) Update(ctx context.Context, sets map[string]FollowSet) error {
	f.updating.Lock()
	defer f.updating.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.ctx, cancel)()
	next, err := f.load(ctx, sets)
	if err != nil {
		return err
	}
	f.mu.Lock()
	before := f.stream
	if f.ctx.Err() != nil {
		f.mu.Unlock()
		return f.over()
	}
	f.begin(next)
	stream := f.open(next)
	f.mu.Unlock()
	select {
	case <-stream.completed:
	case <-stream.refused:
		err = stream.refusal
	case <-ctx.Done():
		err = endOfWatch(ctx)
	}
	f.replace(before, stream, next, err == nil)
	return err
}

// replace ends the first stream if the second one has taken over, or the second one otherwise.
func (f *Follower) replace(first, second *followStream, next map[string]*followedSet, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep, end, gone := first, second, next
	if done {
		keep, end, gone = second, first, f.sets
		f.sets = next
	}
	f.stream = keep
	end.replaced = true
	end.cancel()
	for name, set := range gone {
		if f.sets[name] != set {
			set.end()
			set.wipe()
		}
	}
	// The streams may be of replicas that disagreed for a moment. What counts is the last
	// notice of the one that goes on.
	for it, n := range keep.last {
		f.apply(it, &n)
	}
}

// load resolves the values of sets that are not followed yet, and returns them together with
// those that are.
func (f *Follower) load(ctx context.Context, sets map[string]FollowSet) (map[string]*followedSet, error) {
	all, fresh := make(map[string]*followedSet, len(sets)), []*followedSet(nil)
	n := 0
	failed := func(err error) (map[string]*followedSet, error) {
		for _, set := range fresh {
			set.wipe()
		}
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		set := f.followed(name)
		if set == nil || !set.what.equal(sets[name]) {
			var err error
			if set, err = f.resolveSet(ctx, name, sets[name]); err != nil {
				return failed(err)
			}
			fresh = append(fresh, set)
		}
		all[name] = set
		n += len(set.values)
	}
	if n == 0 || n > maxWatched {
		return failed(&Error{Code: codes.InvalidArgument, Reason: ReasonInvalidRequest, Message: fmt.Sprintf("the sets have %d references; a Follower follows 1 to %d", n, maxWatched)})
	}
	return all, nil
}

// followed returns the set with a name, nil if there is none.
func (f *Follower) followed(name string) *followedSet {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sets[name]
}

// report calls Changed for what has changed, until the Follower ends.
func (f *Follower) report() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.news:
		}
		if changes := f.take(); len(changes) > 0 && f.ctx.Err() == nil {
			f.changed(f.ctx, changes)
		}
	}
}

// take returns the changes that were not reported yet, sorted.
func (f *Follower) take() []Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	var changes []Change
	for it := range f.dirty {
		delete(f.dirty, it)
		if f.sets[it.set.name] != it.set {
			continue // Update has ended or not begun to follow it
		}
		c := Change{Set: it.set.name, Config: it.config, Err: it.denied}
		if it.denied == nil {
			c.Value = it.value.clone()
		}
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Config, b.Config))
	})
	return changes
}
