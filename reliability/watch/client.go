package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// The names of the states in records and results.
const (
	stateCurrent    = "CURRENT"
	stateChanged    = "CHANGED"
	stateDenied     = "DENIED"
	stateUnreadable = "UNREADABLE"
)

var states = map[secretbrokerv1.Notice_State]string{
	secretbrokerv1.Notice_STATE_CURRENT:    stateCurrent,
	secretbrokerv1.Notice_STATE_CHANGED:    stateChanged,
	secretbrokerv1.Notice_STATE_DENIED:     stateDenied,
	secretbrokerv1.Notice_STATE_UNREADABLE: stateUnreadable,
	secretbrokerv1.Notice_STATE_EXPIRING:   "EXPIRING",
}

// habit is how a client behaves.
type habit string

const (
	steady    habit = "steady"    // reads every message at once
	slow      habit = "slow"      // pauses after each message
	stuck     habit = "stuck"     // stops to read for some seconds
	forgetful habit = "forgetful" // forgets what it knows, as a process that restarts
	moving    habit = "moving"    // opens a second stream and then ends the first
)

// watcher is a client with one stream at a time.
type watcher struct {
	name, who string
	habit     habit
	items     []item
	// services are the replicas.
	services []secretbrokerv1.WatchServiceClient
	// calmed means that the client behaves like a steady one from now on.
	calmed atomic.Bool

	mu       sync.Mutex
	known    map[item]string
	records  map[item][]record
	troubles []span
	findings []finding
	ends     map[string]int // by how streams ended
	notices  map[string]int // by state
}

func newWatcher(name, who string, h habit, items []item, services []secretbrokerv1.WatchServiceClient) *watcher {
	return &watcher{
		name: name, who: who, habit: h, items: items, services: services,
		known: make(map[item]string), records: make(map[item][]record), ends: make(map[string]int), notices: make(map[string]int),
	}
}

// calm makes the client behave like a steady one.
func (c *watcher) calm() { c.calmed.Store(true) }

// is reports whether the client has a habit now.
func (c *watcher) is(h habit) bool { return c.habit == h && !c.calmed.Load() }

// right reports whether the client's picture is right now.
func (c *watcher) right(t *truth) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range c.items {
		is := c.records[it]
		if len(is) == 0 || is[len(is)-1].forgot || is[len(is)-1].picture() != t.is(c.who, it) {
			return false
		}
	}
	return true
}

// run keeps a stream open until ctx ends.
func (c *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		s := c.open(ctx)
		for s != nil {
			s = c.follow(ctx, s)
		}
		pause(ctx, time.Duration(50+rand.IntN(450))*time.Millisecond)
	}
}

// call is an open stream, with what the broker has said on it.
type call struct {
	stream   grpc.ServerStreamingClient[secretbrokerv1.WatchResponse]
	ctx      context.Context // of the stream
	end      context.CancelFunc
	sets     [][]item
	known    map[item]string
	said     map[item]record
	first    bool // a message has arrived
	complete bool
	over     bool // reconnect_after has arrived
}

// open opens a stream to one of the replicas, nil if that fails.
func (c *watcher) open(ctx context.Context) *call {
	c.mu.Lock()
	s := &call{known: maps.Clone(c.known), said: make(map[item]record)}
	c.mu.Unlock()
	req := &secretbrokerv1.WatchRequest{}
	of := make(map[string]int) // the set of an integration
	for _, it := range c.items {
		i, ok := of[it.integration]
		if !ok {
			i = len(req.Sets)
			of[it.integration] = i
			req.Sets = append(req.Sets, &secretbrokerv1.WatchSet{IntegrationId: it.integration, Configs: make(map[string]string), KnownVersions: make(map[string]string), Connector: c.name})
			s.sets = append(s.sets, nil)
		}
		req.Sets[i].Configs[it.secret] = referenceOf(it)
		if v := s.known[it]; v != "" {
			req.Sets[i].KnownVersions[it.secret] = v
		}
		s.sets[i] = append(s.sets[i], it)
	}
	s.ctx, s.end = context.WithCancel(ctx)
	var err error
	s.stream, err = c.services[rand.IntN(len(c.services))].Watch(s.ctx, req)
	if err != nil {
		s.end()
		c.ended(ctx, err)
		return nil
	}
	return s
}

// follow reads a stream to its end, or to the beginning of another one, which it returns.
func (c *watcher) follow(ctx context.Context, s *call) *call {
	defer s.end()
	misbehave := time.Now().Add(time.Duration(4+rand.IntN(8)) * time.Second)
	type received struct {
		m   *secretbrokerv1.WatchResponse
		err error
	}
	messages := make(chan received)
	go func() { // ends with the stream
		for {
			m, err := s.stream.Recv()
			select {
			case messages <- received{m, err}:
			case <-s.ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		var got received
		select {
		case <-ctx.Done():
			return nil
		case got = <-messages:
		case <-time.After(time.Until(misbehave)):
			if next, done := c.misbehave(ctx, s); done {
				return next
			}
			misbehave = time.Now().Add(time.Duration(4+rand.IntN(8)) * time.Second)
			continue
		}
		if got.err != nil {
			c.ended(ctx, got.err)
			return nil
		}
		c.took(s, got.m, time.Now())
		switch {
		case got.m.GetReconnectAfter() != nil:
			s.over = true
			select {
			case end := <-messages:
				if !errors.Is(end.err, io.EOF) && ctx.Err() == nil {
					c.found("protocol", "%s: after reconnect_after the stream ended with %v", c.name, end.err)
				}
			case <-ctx.Done():
			}
			c.ended(ctx, io.EOF)
			pause(ctx, got.m.GetReconnectAfter().AsDuration())
			return nil
		case c.is(slow):
			pause(ctx, time.Duration(rand.IntN(300))*time.Millisecond)
		}
	}
}

// misbehave does what the client's habit is. If done is true, the stream is at its end, and
// next is the following one, if there is one already.
func (c *watcher) misbehave(ctx context.Context, s *call) (next *call, done bool) {
	began := time.Now()
	switch {
	case c.is(stuck):
		for until := began.Add(time.Duration(3+rand.IntN(6)) * time.Second); time.Now().Before(until) && c.is(stuck) && ctx.Err() == nil; {
			pause(ctx, 50*time.Millisecond)
		}
		c.trouble(span{began, time.Now()})
		return nil, false
	case c.is(forgetful):
		c.mu.Lock()
		defer c.mu.Unlock()
		clear(c.known)
		for _, it := range c.items {
			c.records[it] = append(c.records[it], record{at: began, forgot: true})
		}
		c.troubles = append(c.troubles, span{began, began})
		return nil, true
	case c.is(moving) && s.complete:
		next := c.open(ctx)
		if next == nil {
			return nil, false
		}
		for !next.complete {
			m, err := next.stream.Recv()
			if err != nil {
				c.ended(ctx, err)
				next.end()
				c.trouble(span{began, time.Now()}) // the first stream was not read
				return nil, false
			}
			c.took(next, m, time.Now())
		}
		c.trouble(span{began, time.Now()})
		return next, true
	}
	return nil, false
}

func (c *watcher) trouble(s span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubles = append(c.troubles, s)
}

func (c *watcher) found(what, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.findings = append(c.findings, finding{what, fmt.Sprintf(format, args...)})
}

// ended counts the end of a stream that ctx did not end.
func (c *watcher) ended(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	how := "OK"
	if !errors.Is(err, io.EOF) {
		how = status.Code(err).String()
	}
	switch code := status.Code(err); {
	case how == "OK", code == codes.Unavailable, code == codes.Canceled:
	case code == codes.ResourceExhausted && c.habit == stuck:
	default:
		c.found("protocol", "%s: a stream ended with %v", c.name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends[how]++
}

// took records a message and checks that it follows the protocol.
func (c *watcher) took(s *call, m *secretbrokerv1.WatchResponse, at time.Time) {
	switch {
	case s.over:
		c.found("protocol", "%s: a message after the last one", c.name)
	case m.GetAsOfTime() == nil:
		c.found("protocol", "%s: a message without a time", c.name)
	case !s.first && m.GetRequestId() == "" && m.GetReconnectAfter() == nil:
		c.found("protocol", "%s: the first message has no request_id", c.name)
	case m.GetComplete() && s.complete:
		c.found("protocol", "%s: complete twice", c.name)
	}
	s.first = true
	for _, n := range m.GetNotices() {
		it := item{s.integration(n), n.GetConfig()}
		if it.integration == "" || !slices.Contains(s.sets[n.GetSet()], it) {
			c.found("protocol", "%s: a notice about set %d, %q", c.name, n.GetSet(), n.GetConfig())
			continue
		}
		r := record{at: at, asOf: m.GetAsOfTime().AsTime(), fetch: n.GetFetchTime().AsTime(), state: states[n.GetState()], version: n.GetVersion()}
		if problem := s.check(it, &r, n.GetError().GetReason()); problem != "" {
			c.found("protocol", "%s: %s: %v is %s", c.name, problem, it, &r)
		}
		s.said[it] = r
		c.mu.Lock()
		c.records[it] = append(c.records[it], r)
		c.notices[r.state]++
		if r.version != "" {
			c.known[it] = r.version
		}
		c.mu.Unlock()
	}
	if s.complete = s.complete || m.GetComplete(); m.GetComplete() && len(s.said) != len(c.items) {
		c.found("protocol", "%s: complete with %d of %d items", c.name, len(s.said), len(c.items))
	}
}

func (s *call) integration(n *secretbrokerv1.Notice) string {
	if i := int(n.GetSet()); i >= 0 && i < len(s.sets) && len(s.sets[i]) > 0 {
		return s.sets[i][0].integration
	}
	return ""
}

// check returns why a notice must not follow what the stream has said before, "" if it may.
func (s *call) check(it item, r *record, reason string) string {
	before, again := s.said[it]
	switch r.state {
	case stateDenied, stateUnreadable:
		switch {
		case r.version != "":
			return "a version without access or a read"
		case reason == "":
			return "no reason"
		case r.state == stateDenied && again && before.state == stateDenied:
			return "the same state twice"
		}
	case stateCurrent:
		switch {
		case r.version == "" || r.fetch.IsZero():
			return "no version, or no time"
		case again && before.state != stateUnreadable:
			return "CURRENT is not the first"
		case s.known[it] != "" && s.known[it] != r.version:
			return "CURRENT with another version than the known one"
		}
	case stateChanged:
		switch {
		case r.version == "" || r.fetch.IsZero():
			return "no version, or no time"
		case before.state != stateDenied && s.known[it] == r.version:
			return "CHANGED with the known version"
		case !again && s.known[it] == "":
			return "CHANGED, although no version was known"
		}
	default:
		return "an unexpected state"
	}
	if r.version != "" {
		s.known[it] = r.version
	}
	return ""
}
