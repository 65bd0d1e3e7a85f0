package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

const (
	// maxStreamBackoff limits the wait before the next stream after failures.
	maxStreamBackoff = 15 * time.Second
	// steadyTime is how long a stream must last before the next failure counts as the first.
	steadyTime = 10 * time.Second
	// maxReconnectAfter limits the wait that a broker may request.
	maxReconnectAfter = 5 * time.Minute
)

// WatchRequest names the secrets to watch: at most 1,000 references altogether.
type WatchRequest struct {
	// Sets are the configs to watch, each set through one integration. Watch does not
	// change them; they must not be changed before the iteration has ended.
	Sets []WatchSet
}

// WatchSet is the configs to watch through one integration.
type WatchSet struct {
	// IntegrationID, Configs and Connector are as in ResolveRequest.
	IntegrationID string
	Configs       map[string]string
	Connector     string
	// KnownVersions has the versions that the caller has, by config name, from a Value or a
	// Notice. The first notice of such a config is NoticeCurrent or NoticeChanged depending
	// on it. Configs without a version begin with NoticeCurrent.
	KnownVersions map[string]string
}

// WatchResponse is what Watch has to tell: notices, that they are complete, or that the
// stream was interrupted.
type WatchResponse struct {
	// Notices are the configs whose state is new.
	Notices []Notice
	// Complete reports that the broker has now told the state of every config. It is set once
	// for each stream: at the beginning, and after each interruption.
	Complete bool
	// AsOfTime is when the broker made the message, by its clock.
	AsOfTime time.Time
	// RequestID identifies the stream in the broker's audit log and other logs. It is set in
	// its first message.
	RequestID string
	// Interrupted, if not nil, is why the stream has ended. Watch opens another one after
	// ReconnectAfter. Streams that the broker ends in an orderly way are not reported.
	Interrupted    *Error
	ReconnectAfter time.Duration
}

// Notice is the state of one config.
type Notice struct {
	// Set is the index in WatchRequest.Sets, and Config the name in WatchSet.Configs.
	Set    int
	Config string
	State  NoticeState
	// Version is the store's identifier of the version, as in Value. Compare it for equality
	// only.
	Version string
	// FetchTime is when the broker began the read that found this state, by its clock. Use it
	// as ResolveRequest.NotReadBefore: then every replica returns this version or a later one.
	// Zero if Generated.
	FetchTime time.Time
	// SecretExpireTime is the end of the secret's own validity. Zero if it has none.
	SecretExpireTime time.Time
	// Generated reports that the secret is a credential that a read generated for one replica
	// of the broker. Another replica has another one, which Resolve may return.
	Generated bool
	// Err is why the config is denied or unreadable.
	Err *ConfigError
}

// NoticeState is the state of a config. Later versions may add states.
type NoticeState string

// The states.
const (
	// NoticeCurrent: the version is the known one, or the first one that Watch tells of.
	NoticeCurrent NoticeState = "CURRENT"
	// NoticeChanged: the version is another one, or access is back after NoticeDenied.
	// Resolve the reference.
	NoticeChanged NoticeState = "CHANGED"
	// NoticeDenied: the caller may not read the secret, or there is no such integration.
	// Stop using the value.
	NoticeDenied NoticeState = "DENIED"
	// NoticeUnreadable: the broker cannot read the secret, or cannot tell when it changes.
	// The value that the caller has may still be valid.
	NoticeUnreadable NoticeState = "UNREADABLE"
	// NoticeExpiring: the validity of this version ends soon, at SecretExpireTime. If the
	// secret is Generated, resolve the reference.
	NoticeExpiring NoticeState = "EXPIRING"
)

// The states that this version of the package knows. Watch ignores notices with others.
var noticeStates = map[secretbrokerv1.Notice_State]NoticeState{
	secretbrokerv1.Notice_STATE_CURRENT:    NoticeCurrent,
	secretbrokerv1.Notice_STATE_CHANGED:    NoticeChanged,
	secretbrokerv1.Notice_STATE_DENIED:     NoticeDenied,
	secretbrokerv1.Notice_STATE_UNREADABLE: NoticeUnreadable,
	secretbrokerv1.Notice_STATE_EXPIRING:   NoticeExpiring,
}

// Watch tells when secrets change: the state of every config at the beginning, and then each
// change of a state, until ctx ends. It transfers no values; for NoticeChanged call Resolve
// with the notice's FetchTime as NotReadBefore. A Follower does all of this.
//
// Watch opens another stream when one ends: after the time that the broker requests, or with
// exponential backoff. It states the versions that it has told of, so changes in between are
// not lost, also with another replica, and configs without a change are not told again.
// Messages that the caller has not read do not accumulate: there is at most one notice for
// each config, with its latest state.
//
// An error ends the iteration: that of ctx, or one that only a change of the request or of the
// caller's rights can resolve, such as ReasonInvalidRequest or ReasonCertificateDenied. Denied
// and unreadable configs are notices, and an unreachable broker is
// WatchResponse.Interrupted. The error is an *Error.
func (c *Client) Watch(ctx context.Context, req WatchRequest) iter.Seq2[*WatchResponse, error] {
	return func(yield func(*WatchResponse, error) bool) {
		w := newWatcher(&req)
		open, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.closed, cancel)()
		for attempt := 0; ; {
			began := time.Now()
			end := w.stream(open, c, yield)
			if end.stopped {
				return
			}
			switch {
			case open.Err() != nil:
				yield(nil, endOfWatch(ctx))
				return
			case end.err != nil && end.err.final():
				yield(nil, end.err)
				return
			}
			delay := min(end.after, maxReconnectAfter)
			steady := time.Since(began) >= steadyTime
			if steady {
				attempt = 0
			}
			if !steady || end.err != nil {
				attempt++
				delay += backoffDelay(attempt, minBackoff, maxStreamBackoff)
			}
			if end.err != nil && !yield(&WatchResponse{Interrupted: end.err, ReconnectAfter: delay}, nil) {
				return
			}
			if c.wait(open, delay) != nil {
				yield(nil, endOfWatch(ctx))
				return
			}
		}
	}
}

// endOfWatch returns the error of a Watch that ctx or Client.Close ended.
func endOfWatch(ctx context.Context) *Error {
	if err := ctx.Err(); err != nil {
		return &Error{Code: status.FromContextError(err).Code(), Message: err.Error(), cause: err}
	}
	return errClosed
}

var errClosed = &Error{Code: codes.Canceled, Message: "the client was closed"}

// final reports whether the broker has refused a stream for a reason that it would repeat.
// Statuses without a reason are of a proxy, or of a replica of an older release.
func (e *Error) final() bool {
	switch e.Code {
	case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied, codes.NotFound, codes.AlreadyExists,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.DataLoss:
		return e.Reason != ""
	default:
		return false
	}
}

// backoffDelay returns the wait after the given number of failures, with jitter: at most
// first, then twice as long each time, up to longest.
func backoffDelay(failures int, first, longest time.Duration) time.Duration {
	step := longest
	if shift := failures - 1; shift < 16 { // larger shifts exceed longest
		step = min(first<<shift, longest)
	}
	return step/2 + rand.N(step/2) //nolint:gosec // not used for security
}

// watcher is the state of a Watch.
type watcher struct {
	sets []WatchSet
	told []map[string]told // by set and config
}

// told is what Watch has told about a config.
type told struct {
	state    NoticeState // but not NoticeExpiring
	version  string      // that the caller has or was told of; "" after NoticeDenied
	reason   Reason
	expiring string    // the version for which NoticeExpiring was told
	ends     time.Time // the end that it told of
}

func newWatcher(req *WatchRequest) *watcher {
	w := &watcher{sets: req.Sets, told: make([]map[string]told, len(req.Sets))}
	for i, set := range req.Sets {
		w.told[i] = make(map[string]told, len(set.Configs))
		for config, version := range set.KnownVersions {
			w.told[i][config] = told{version: version}
		}
	}
	return w
}

// message returns the request for the next stream.
func (w *watcher) message() *secretbrokerv1.WatchRequest {
	m := &secretbrokerv1.WatchRequest{}
	for i, set := range w.sets {
		s := &secretbrokerv1.WatchSet{IntegrationId: set.IntegrationID, Configs: set.Configs, Connector: set.Connector, KnownVersions: make(map[string]string)}
		for config, t := range w.told[i] {
			if t.version != "" {
				s.KnownVersions[config] = t.version
			}
		}
		m.Sets = append(m.Sets, s)
	}
	return m
}

// streamEnd is how a stream ended.
type streamEnd struct {
	stopped bool          // by the caller of Watch
	err     *Error        // nil if the broker ended it in an orderly way
	after   time.Duration // the wait that the broker requests
}

// stream opens one stream and yields its messages.
func (w *watcher) stream(ctx context.Context, c *Client, yield func(*WatchResponse, error) bool) (end streamEnd) {
	failed := func(err error) streamEnd {
		e := newError(c.addr, err)
		return streamEnd{err: e, after: e.RetryAfter}
	}
	m := w.message()
	stream, err := c.watches.Watch(c.balanced(ctx, m), m)
	if err != nil {
		return failed(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return end
		case err != nil:
			return failed(err)
		}
		if m.GetReconnectAfter() != nil {
			end.after = positive(m.GetReconnectAfter())
		}
		res := &WatchResponse{Notices: w.news(m.GetNotices()), Complete: m.GetComplete(), AsOfTime: timeOf(m.GetAsOfTime()), RequestID: m.GetRequestId()}
		if (len(res.Notices) > 0 || res.Complete) && !yield(res, nil) {
			return streamEnd{stopped: true}
		}
	}
}

// news returns the notices that differ from what was told.
func (w *watcher) news(notices []*secretbrokerv1.Notice) []Notice {
	var all []Notice
	for _, m := range notices {
		n := Notice{
			Set: int(m.GetSet()), Config: m.GetConfig(), State: noticeStates[m.GetState()], Version: m.GetVersion(),
			FetchTime: timeOf(m.GetFetchTime()), SecretExpireTime: timeOf(m.GetSecretExpireTime()), Generated: m.GetGenerated(),
		}
		if m.GetError() != nil {
			e := newConfigError(n.Config, m.GetError())
			n.Err = &e
		}
		if n.State == "" || n.Set < 0 || n.Set >= len(w.sets) {
			continue
		}
		if _, ok := w.sets[n.Set].Configs[n.Config]; !ok {
			continue
		}
		if n.Err == nil && (n.State == NoticeDenied || n.State == NoticeUnreadable) {
			n.Err = &ConfigError{Config: n.Config, Message: "the broker gave no reason"}
		}
		if t := w.told[n.Set][n.Config]; t.tell(&n) {
			w.told[n.Set][n.Config] = t
			all = append(all, n)
		}
	}
	return all
}

// tell reports whether a notice is new, and takes it over. A stream begins with the state of
// every config, so the first notices of the second stream may not be.
func (t *told) tell(n *Notice) bool {
	before := *t
	switch n.State {
	case NoticeDenied, NoticeUnreadable:
		t.state, t.reason = n.State, n.Err.Reason
		if n.State == NoticeDenied {
			t.version = ""
		}
		return *t != before
	case NoticeExpiring:
		t.expiring, t.ends, t.version = n.Version, n.SecretExpireTime, n.Version
		return *t != before
	}
	if before.state == NoticeDenied || before.version != "" && before.version != n.Version {
		n.State = NoticeChanged
	}
	if t.expiring != "" && (t.expiring != n.Version || t.ends.Before(n.SecretExpireTime)) {
		t.expiring, t.ends = "", time.Time{}
	}
	t.state, t.reason, t.version = NoticeCurrent, "", n.Version
	return *t != before || n.State == NoticeChanged
}
