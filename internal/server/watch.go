package server

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// Watcher is the use case behind WatchService; resolve.Resolver is one.
type Watcher interface {
	Watch(ctx context.Context, who resolve.Caller, req resolve.WatchRequest) (*resolve.Watching, error)
	Refresh(ctx context.Context, who resolve.Caller, req resolve.Request) (*resolve.Refreshed, error)
}

// WatchLimits limits the streams of WatchService. A field that is zero has its default.
type WatchLimits struct {
	// MaxStreamsPerPrincipal and MaxStreams are the maximum numbers of open streams of one
	// principal and of all: 1,000 and 10,000 by default.
	MaxStreamsPerPrincipal, MaxStreams int
}

const (
	defaultWatchStreams    = 1000
	defaultAllWatchStreams = 10_000
	// watchBeginsPerSecond is the maximum number of streams that one principal opens in a
	// second.
	watchBeginsPerSecond = 200
	// watchStreamBytes is roughly the memory of a stream in addition to streamBytes,
	// handlerBytes and its request, mostly its stack, and watchedBytes that of one item.
	watchStreamBytes = 32 << 10
	watchedBytes     = 512
	// watchShare: streams may use 1/watchShare of the memory for calls. They stay open, so
	// callers that open many must leave room for calls.
	watchShare = 2
	// reopenCost is how much reconnect_after grows with each open stream: what opening a
	// stream costs the broker that gets all of them.
	reopenCost = time.Millisecond
	// minReopen and maxReopen bound the time over which streams are opened again.
	minReopen = 100 * time.Millisecond
	maxReopen = 30 * time.Second
	// drainPause is the least reconnect_after while the broker drains: until then load
	// balancers have noticed.
	drainPause = time.Second
)

// watchService translates between the wire format and the use case, and ends streams.
type watchService struct {
	secretbrokerv1.UnimplementedWatchServiceServer
	watcher Watcher
	log     *slog.Logger
	// draining ends when the broker begins to shut down.
	draining context.Context
	// limiter counts the open streams.
	limiter *limiter
	// memory limits what all streams use. Unless it is memory of its own, the accounts of
	// their connections are charged too.
	memory *budget.Budget
	own    bool
	// sendTimeout is how long the caller may take to read a message.
	sendTimeout time.Duration
}

func (s *watchService) Watch(req *secretbrokerv1.WatchRequest, stream grpc.ServerStreamingServer[secretbrokerv1.WatchResponse]) error {
	c, conn := callOf(stream.Context()), connectionOf(stream.Context())
	if err := checkKnown(req); err != nil {
		return statusOf(err, c.requestID).Err()
	}
	if s.draining.Err() != nil {
		return s.goodbye(stream, c)
	}
	release, ok := s.reserve(c, conn, watchStreamBytes+countConfigs(req)*watchedBytes)
	if !ok {
		return statusOf(s.limiter.refusal(&admission.Refusal{Limit: admission.Memory, RetryAfter: maxReopen}), c.requestID).Err()
	}
	defer release()
	w, err := s.watcher.Watch(stream.Context(), c.who, watchRequestOf(req, c.requestID))
	if err != nil {
		return s.failed(stream.Context(), c, err)
	}
	defer w.Close()
	ctx, end := context.WithCancel(stream.Context())
	defer end()
	defer context.AfterFunc(s.draining, end)()
	if conn != nil {
		defer context.AfterFunc(conn.traffic.goingAway, end)()
	}
	for first := true; ; first = false {
		notices, complete, err := w.Next(ctx)
		switch {
		case stream.Context().Err() != nil:
			return status.FromContextError(stream.Context().Err()).Err()
		case ctx.Err() != nil:
			return s.goodbye(stream, c)
		case err != nil:
			return s.failed(stream.Context(), c, err)
		}
		m := &secretbrokerv1.WatchResponse{Complete: complete, Notices: make([]*secretbrokerv1.Notice, len(notices))}
		if first {
			m.RequestId = c.requestID
		}
		for i := range notices {
			m.Notices[i] = noticeOf(&notices[i])
		}
		if err := s.send(stream, c, m); err != nil {
			return err
		}
	}
}

// reserve reserves the memory of a stream. The caller releases it.
func (s *watchService) reserve(c *call, conn *connection, n int64) (release func(), ok bool) {
	streams := s.memory.Account(string(c.who.Principal))
	if !streams.Reserve(n) {
		streams.Close()
		return nil, false
	}
	charged := conn != nil && !s.own
	if charged && !conn.traffic.account.Reserve(n) {
		streams.Release(n)
		streams.Close()
		return nil, false
	}
	return func() {
		if charged {
			conn.traffic.account.Release(n)
		}
		streams.Release(n)
		streams.Close()
	}, true
}

// countConfigs returns the number of configs of a request.
func countConfigs(req *secretbrokerv1.WatchRequest) (n int64) {
	for _, set := range req.GetSets() {
		n += int64(len(set.GetConfigs()))
	}
	return n
}

// failed returns the status of a failed call, and logs its cause.
func (s *watchService) failed(ctx context.Context, c *call, err error) error {
	if e := secret.AsError(err); e.Cause != nil {
		s.log.ErrorContext(ctx, "a Watch call failed", "request_id", c.requestID, "reason", string(e.Reason), "cause", e.Cause)
	}
	return statusOf(err, c.requestID).Err()
}

// goodbye sends the last message of a stream that the broker ends.
func (s *watchService) goodbye(stream grpc.ServerStreamingServer[secretbrokerv1.WatchResponse], c *call) error {
	least := time.Duration(0)
	if s.draining.Err() != nil {
		least = drainPause
	}
	spread := min(minReopen+time.Duration(s.limiter.Active())*reopenCost, maxReopen)
	after := least + time.Duration(rand.Int64N(int64(spread))) //nolint:gosec // spreads load
	return s.send(stream, c, &secretbrokerv1.WatchResponse{ReconnectAfter: durationpb.New(after)})
}

// errNotRead ends the stream of a caller that does not read its messages.
var errNotRead = secret.Errorf(secret.ReasonOverloaded, "the caller does not read the messages of this stream; read them as they arrive, or watch fewer secrets")

// send sends a message. If the caller does not read for too long, it returns an error, and
// the end of the call then ends the goroutine that still sends: gRPC cancels the stream. The
// caller of send must not send another message after an error.
func (s *watchService) send(stream grpc.ServerStreamingServer[secretbrokerv1.WatchResponse], c *call, m *secretbrokerv1.WatchResponse) error {
	m.AsOfTime = timestamppb.Now()
	sent := make(chan error, 1)
	go func() { sent <- stream.Send(m) }()
	timeout := time.NewTimer(s.sendTimeout)
	defer timeout.Stop()
	select {
	case err := <-sent:
		return err
	case <-timeout.C:
		return statusOf(errNotRead, c.requestID).Err()
	}
}

func watchRequestOf(req *secretbrokerv1.WatchRequest, requestID string) resolve.WatchRequest {
	out := resolve.WatchRequest{ID: requestID, Sets: make([]resolve.WatchSet, len(req.GetSets()))}
	for i, set := range req.GetSets() {
		out.Sets[i] = resolve.WatchSet{IntegrationID: set.GetIntegrationId(), Configs: set.GetConfigs(), Known: set.GetKnownVersions(), Connector: set.GetConnector()}
	}
	return out
}

// noticeStates are the states on the wire.
var noticeStates = map[watch.State]secretbrokerv1.Notice_State{
	watch.Current:    secretbrokerv1.Notice_STATE_CURRENT,
	watch.Changed:    secretbrokerv1.Notice_STATE_CHANGED,
	watch.Denied:     secretbrokerv1.Notice_STATE_DENIED,
	watch.Unreadable: secretbrokerv1.Notice_STATE_UNREADABLE,
	watch.Expiring:   secretbrokerv1.Notice_STATE_EXPIRING,
}

func noticeOf(n *resolve.WatchNotice) *secretbrokerv1.Notice {
	m := &secretbrokerv1.Notice{
		Set:    int32(n.Set), //nolint:gosec // at most resolve.MaxWatched
		Config: n.Config, State: noticeStates[n.State], Version: n.Version, FetchTime: timeOf(n.ReadAt), SecretExpireTime: timeOf(n.ExpiresAt),
	}
	if n.Err != nil {
		m.Error = configErrorOf(n.Err)
	}
	if n.Decision.Generated && n.Err == nil {
		// The time means nothing to another replica, which would create a credential for it.
		m.Generated, m.FetchTime = true, nil
	}
	return m
}

// watchLimiter returns the limiter of the streams of WatchService.
func watchLimiter(m *callMetrics, l WatchLimits) *limiter {
	limits := admission.Limits{PerSecond: watchBeginsPerSecond, PerCaller: defaultWatchStreams, Total: defaultAllWatchStreams}
	if l.MaxStreamsPerPrincipal > 0 {
		limits.PerCaller = l.MaxStreamsPerPrincipal
	}
	if l.MaxStreams > 0 {
		limits.Total = l.MaxStreams
	}
	lim := m.streamLimiter("watch", limits)
	lim.refusals = map[admission.Limit]string{
		admission.PerCaller: "this caller has more open Watch streams than watch.max_streams_per_principal allows; watch many secrets with one stream, or ask the operator to raise the limit",
		admission.Memory:    "the Watch streams of this caller, or of all callers, use as much of the broker's memory as they may; watch fewer secrets, close streams that are not needed, or ask the operator to raise the memory limit",
		admission.Total:     "the broker has more open Watch streams than watch.max_streams allows; retry later, or call another broker",
	}
	return lim
}

// connectionKey is the key of a stream's *connection in its context.
type connectionKey struct{}

// connectionOf returns the connection of a stream, nil if it is not known.
func connectionOf(ctx context.Context) *connection {
	conn, _ := ctx.Value(connectionKey{}).(*connection)
	return conn
}
