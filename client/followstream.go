package client

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
)

// followStream is a stream of a Follower. Follower.mu guards problem, last and replaced.
type followStream struct {
	follower *Follower
	sets     []*followedSet // in the order of the request
	cancel   context.CancelFunc
	// completed is closed when the broker has told the state of every value, and refused when
	// it has refused the stream, for the reason refusal.
	completed, refused chan struct{}
	refusal            *Error

	problem  *Error // the interruption, nil while the stream is complete
	last     map[*followed]Notice
	replaced bool // the stream has ended, and what it still tells does not count
}

// open starts to watch sets. It requires the lock, or that no other goroutine uses the Follower.
func (f *Follower) open(sets map[string]*followedSet) *followStream {
	ctx, cancel := context.WithCancel(f.ctx)
	s := &followStream{follower: f, cancel: cancel, completed: make(chan struct{}), refused: make(chan struct{}), last: make(map[*followed]Notice)}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		s.sets = append(s.sets, sets[name])
	}
	f.running.Go(func() { s.run(ctx) })
	return s
}

// run watches until ctx ends. It opens another stream, after a longer time, also when the
// broker has refused one: access may come back, and certificates are replaced.
func (s *followStream) run(ctx context.Context) {
	for refusals := 1; ; refusals++ {
		var refusal *Error
		steady := false
		for res, err := range s.follower.client.Watch(ctx, s.request()) {
			if err != nil {
				errors.As(err, &refusal)
				break
			}
			steady = steady || res.Complete
			s.take(res)
		}
		if steady {
			refusals = 1
		}
		if ctx.Err() != nil || refusal == nil || refusal == errClosed {
			return
		}
		s.refuse(refusal)
		if s.follower.client.wait(ctx, max(shortRetry, min(refusal.RetryAfter, maxReconnectAfter))+backoffDelay(refusals, firstRetry, longestRetry)) != nil {
			return
		}
	}
}

// request returns the request with the versions of the current values.
func (s *followStream) request() WatchRequest {
	s.follower.mu.Lock()
	defer s.follower.mu.Unlock()
	var req WatchRequest
	for _, set := range s.sets {
		w := WatchSet{IntegrationID: set.what.IntegrationID, Configs: set.what.Configs, Connector: set.what.Connector, KnownVersions: make(map[string]string)}
		for config, it := range set.values {
			if it.denied == nil {
				w.KnownVersions[config] = it.value.Version
			}
		}
		req.Sets = append(req.Sets, w)
	}
	return req
}

// take takes over a message.
func (s *followStream) take(res *WatchResponse) {
	f := s.follower
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.replaced {
		return
	}
	if res.Interrupted != nil {
		if s.problem == nil {
			f.client.log.Warn("secretbroker: cannot watch the followed values; continuing with the last ones", "error", res.Interrupted.Error())
		}
		s.problem = res.Interrupted
	}
	for _, n := range res.Notices {
		set := s.sets[n.Set]
		if it := set.values[n.Config]; it != nil && !set.gone {
			s.last[it] = n
			f.apply(it, &n)
		}
	}
	if !res.Complete {
		return
	}
	if s.problem != nil {
		s.problem = nil
		f.client.log.Info("secretbroker: watching the followed values again")
	}
	select {
	case <-s.completed:
	default:
		close(s.completed)
	}
}

// refuse takes over the refusal of a stream. A caller that is refused may not read anything.
func (s *followStream) refuse(e *Error) {
	f := s.follower
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.replaced {
		return
	}
	if s.problem == nil || s.problem.Reason != e.Reason {
		f.client.log.Warn("secretbroker: the broker refuses to let the followed values be watched", "error", e.Error())
	}
	s.problem = e
	if s.refusal == nil {
		s.refusal = e
		close(s.refused)
	}
	if !denials[e.Reason] {
		return
	}
	for _, set := range s.sets {
		for config, it := range set.values {
			n := Notice{State: NoticeDenied, Err: &ConfigError{Config: config, Reason: cmp.Or(e.Reason, ReasonAccessDenied), Message: e.Message}}
			s.last[it] = n
			f.apply(it, &n)
		}
	}
}
