package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	// firstRetry is the longest wait after the first failure to resolve a changed value. The
	// wait doubles up to longestRetry, or shortRetry if the broker says that a retry helps.
	firstRetry   = time.Second
	shortRetry   = 15 * time.Second
	longestRetry = 5 * time.Minute
	// minPoll and maxPoll bound the time after which a value that cannot be watched is
	// resolved again.
	minPoll = 10 * time.Second
	maxPoll = time.Hour
)

// enabledProperty is in the Configs of a whole connector, of which the broker selects the
// references.
const enabledProperty = "secret.manager.enabled"

// followedSet is a set of a Follower. Follower.mu guards it.
type followedSet struct {
	follower *Follower
	name     string
	what     FollowSet
	values   map[string]*followed // by config
	wake     chan struct{}        // capacity 1; wakes run
	end      context.CancelFunc   // ends run
	gone     bool                 // the values are wiped
}

// followed is one value of a Follower. Follower.mu guards it.
type followed struct {
	set    *followedSet
	config string
	value  Value  // zero if denied
	denied *Error // why there is no value

	// want is the version that the stream has told of last; "" if it told of none. It was
	// found by a read that began at readAt.
	want   string
	readAt time.Time
	// due is when to resolve the value again, zero for never, and failures the number of
	// attempts that did not return the wanted version.
	due      time.Time
	failures int
	poll     bool // the value cannot be watched
	// generated means that the value is a credential of one replica. It is resolved again
	// before it ends, whichever replica the stream is of.
	generated bool
	// news means that a notice has come since the last call of Resolve began.
	news    bool
	problem *ConfigError // why the value may be out of date, or is denied
}

// resolveSet returns a set with its values.
func (f *Follower) resolveSet(ctx context.Context, name string, what FollowSet) (*followedSet, error) {
	what.Configs = maps.Clone(what.Configs)
	res, err := f.client.Resolve(ctx, ResolveRequest{IntegrationID: what.IntegrationID, Configs: what.Configs, Connector: what.Connector})
	if err != nil {
		return nil, err
	}
	set := &followedSet{follower: f, name: name, what: what, values: make(map[string]*followed, len(res.Values)), wake: make(chan struct{}, 1), end: func() {}}
	for config, v := range res.Values {
		set.values[config] = &followed{set: set, config: config, value: v}
	}
	return set, nil
}

// begin starts the goroutines of the sets that have none.
func (f *Follower) begin(sets map[string]*followedSet) {
	for name, set := range sets {
		if f.sets[name] == set {
			continue
		}
		ctx, cancel := context.WithCancel(f.ctx)
		set.end = cancel
		f.running.Go(func() { set.run(ctx) })
	}
}

// wipe wipes the values. It requires the lock, or that no other goroutine uses the set.
func (s *followedSet) wipe() {
	s.gone = true
	for _, it := range s.values {
		it.value.Wipe()
		it.value = Value{}
	}
}

// apply takes over the latest notice about a value. Only a notice of another version than the
// value's, or of its coming end, makes the Follower resolve it. It requires the lock.
func (f *Follower) apply(it *followed, n *Notice) {
	switch n.State {
	case NoticeDenied:
		it.want, it.due, it.poll, it.generated = "", time.Time{}, false, false
		f.deny(it, n.Err)
	case NoticeUnreadable:
		it.want = ""
		if !it.generated {
			it.due = time.Time{}
		}
		if n.Err.Reason == ReasonSecretNotWatchable {
			it.poll, it.generated = true, false
			if it.pollLater(); it.denied != nil { // access is back
				it.due = time.Now()
			}
			it.set.signal()
			return
		}
		f.trouble(it, n.Err)
	default:
		it.want, it.readAt, it.poll, it.generated, it.news = n.Version, n.FetchTime, false, n.Generated, true
		if it.value.Version == n.Version && n.State != NoticeExpiring {
			it.done()
			if n.Generated {
				it.value.SecretExpireTime = n.SecretExpireTime // it may have been renewed
				it.renewLater()
				it.set.signal()
			}
			return
		}
		it.due, it.failures = time.Now(), 0
		it.set.signal()
	}
}

func (s *followedSet) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// deny wipes a value that the caller may not read any more. It requires the lock.
func (f *Follower) deny(it *followed, why *ConfigError) {
	f.trouble(it, why)
	if it.denied == nil {
		it.value.Wipe()
		it.value = Value{}
		f.mark(it)
	}
	it.denied = &Error{Code: codes.PermissionDenied, Reason: why.Reason, Message: why.Message, Configs: []ConfigError{*why}}
}

// mark lets report tell the program about a value. It requires the lock.
func (f *Follower) mark(it *followed) {
	f.dirty[it] = struct{}{}
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// trouble notes and logs why a value may be out of date. It requires the lock.
func (f *Follower) trouble(it *followed, why *ConfigError) {
	if it.problem == nil || it.problem.Reason != why.Reason {
		f.client.log.Warn("secretbroker: cannot keep a followed value current", "integration", it.set.what.IntegrationID, "set", it.set.name, "config", it.config,
			"reason", string(why.Reason), "error", why.Message)
	}
	it.problem = why
}

// done notes that the value is the wanted one. It requires the lock.
func (it *followed) done() {
	it.due, it.failures, it.problem = time.Time{}, 0, nil
}

// pollLater sets when to resolve a value that cannot be watched: when the broker's copy
// expires. The broker's clock may differ from this one's. It requires the lock.
func (it *followed) pollLater() {
	v := &it.value
	wait := maxPoll
	if !v.CacheExpireTime.IsZero() {
		if wait = time.Until(v.CacheExpireTime); wait <= 0 {
			wait = v.CacheExpireTime.Sub(v.FetchTime)
		}
	}
	wait = max(min(wait, maxPoll), minPoll)
	it.due, it.failures = time.Now().Add(wait+backoffDelay(1, wait/10, wait/10)), 0
}

// renewLater sets when to resolve a generated credential again: in the last third of its
// validity, in which the broker renews or replaces it, and then again and again until it has
// another end. The broker's clock may differ from this one's. It requires the lock.
func (it *followed) renewLater() {
	v := &it.value
	whole := v.SecretExpireTime.Sub(v.FetchTime)
	if v.SecretExpireTime.IsZero() || whole <= 0 {
		return
	}
	left := min(time.Until(v.SecretExpireTime), whole)
	wait := left - whole/3
	if wait <= 0 {
		wait = left / 2
	}
	it.due = time.Now().Add(max(wait, min(max(whole/20, firstRetry), minPoll)))
}

// run resolves the values that are due, until ctx ends.
func (s *followedSet) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		due, wait := s.due(time.Now())
		if len(due) > 0 {
			s.resolve(ctx, due)
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// due returns values that one call can resolve, or the time until there are any: those that
// were found by the same read, such as several JSON keys of one secret.
func (s *followedSet) due(now time.Time) (batch []*followed, wait time.Duration) {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	wait = maxPoll
	for _, config := range slices.Sorted(maps.Keys(s.values)) {
		it := s.values[config]
		switch {
		case it.due.IsZero():
		case it.due.After(now):
			wait = min(wait, it.due.Sub(now))
		case len(batch) == 0 || it.poll == batch[0].poll && it.readAt.Equal(batch[0].readAt):
			batch = append(batch, it)
		}
	}
	return s.complete(batch), wait
}

// complete adds the other configs of generated credentials, such as the user name that belongs
// to a password: they must not be of different credentials. It requires the lock.
func (s *followedSet) complete(batch []*followed) []*followed {
	for _, config := range slices.Sorted(maps.Keys(s.values)) {
		it := s.values[config]
		if it.generated && !slices.Contains(batch, it) && slices.ContainsFunc(batch, func(other *followed) bool {
			return other.generated && other.value.Version == it.value.Version
		}) {
			batch = append(batch, it)
		}
	}
	return batch
}

// resolve resolves values, and sets when to do it again for those that are not as wanted.
func (s *followedSet) resolve(ctx context.Context, batch []*followed) {
	req := ResolveRequest{IntegrationID: s.what.IntegrationID, Connector: s.what.Connector, Configs: s.what.Configs, AllowPartial: true}
	if _, whole := s.what.Configs[enabledProperty]; !whole {
		req.Configs = make(map[string]string, len(batch))
		for _, it := range batch {
			req.Configs[it.config] = s.what.Configs[it.config]
		}
	}
	f := s.follower
	f.mu.Lock()
	if !batch[0].poll {
		req.NotReadBefore = batch[0].readAt
	}
	for _, it := range batch {
		it.news = false
	}
	f.mu.Unlock()
	res, err := f.client.Resolve(ctx, req)
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || s.gone {
		if res != nil {
			res.wipe()
		}
		return
	}
	if err != nil {
		for _, it := range batch {
			f.failed(it, configErrorOf(it.config, err))
		}
		return
	}
	for _, it := range batch {
		if v, ok := res.Values[it.config]; ok {
			delete(res.Values, it.config)
			f.resolved(it, v, req.NotReadBefore)
		} else if e, ok := res.Errors[it.config]; ok {
			f.failed(it, &e)
		} else {
			f.failed(it, &ConfigError{Config: it.config, Reason: ReasonConfigMismatch, Message: "the broker returned no value for this config"})
		}
	}
	res.wipe()
}

// configErrorOf returns the error of a call as that of one config.
func configErrorOf(config string, err error) *ConfigError {
	var e *Error
	if !errors.As(err, &e) {
		return &ConfigError{Config: config, Message: err.Error()}
	}
	out := &ConfigError{Config: config, Reason: e.Reason, Message: e.Message, RetryAfter: e.RetryAfter}
	if e.retryable() || e.ended() {
		out.RetryAfter = max(e.RetryAfter, firstRetry)
	}
	return out
}

// denials are the reasons with which the broker refuses a caller, rather than a secret.
var denials = map[Reason]bool{
	ReasonAccessDenied: true, ReasonStoreNotAllowed: true, ReasonPlacementDenied: true, ReasonUnauthenticated: true, ReasonCertificateDenied: true,
}

// failed notes that a value was not resolved. It requires the lock.
func (f *Follower) failed(it *followed, why *ConfigError) {
	if denials[why.Reason] {
		f.deny(it, why)
	} else {
		f.trouble(it, why)
	}
	if it.due.IsZero() {
		return // a notice has come in the meantime
	}
	longest := longestRetry
	if why.RetryAfter > 0 {
		longest = shortRetry
	}
	it.retry(why.RetryAfter, longest)
}

// retry sets when to resolve a value again. It requires the lock.
func (it *followed) retry(atLeast, longest time.Duration) {
	it.failures++
	it.due = time.Now().Add(min(atLeast, maxReconnectAfter) + backoffDelay(it.failures, firstRetry, longest))
}

// resolved takes over a value, which was asked for because of the notice of a read at asked.
// It requires the lock.
func (f *Follower) resolved(it *followed, v Value, asked time.Time) {
	if it.denied != nil && it.want == "" && !it.poll {
		v.Wipe() // the stream has told that the access was lost
		return
	}
	if it.denied != nil || it.value.Version != v.Version || !it.value.same(v) {
		f.mark(it)
	}
	it.value.Wipe()
	it.value, it.denied, it.problem = v, nil, nil
	switch {
	case it.poll:
		it.pollLater()
	case it.generated && it.news && it.want != v.Version:
		it.due = time.Now()
	case it.generated:
		it.done()
		it.renewLater()
	case it.want == "" || it.want == v.Version:
		it.done()
	case !it.readAt.Equal(asked): // there is a later notice
		it.due = time.Now()
	default: // the store may still return an earlier version, or the stream soon tells of this one
		it.retry(0, longestRetry)
	}
}
