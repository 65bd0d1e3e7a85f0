package client

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
)

// stub is the broker of a client in tests with synctest: Resolve answers with the values that
// the test sets, and the test sends the messages of Watch.
type stub struct {
	secretbrokerv1.ResolverServiceClient // nil: the other methods are not called
	secretbrokerv1.WatchServiceClient    // nil

	api *Client
	log asynctest.Buffer

	mu       sync.Mutex
	values   map[string]*secretbrokerv1.ResolvedConfig // by reference
	errors   map[string]*secretbrokerv1.ConfigError
	failure  error  // of the whole call
	hanging  bool   // calls wait for the end of their context
	answered func() // is called once, before the next answer arrives; nil for none
	resolved []*secretbrokerv1.ResolveRequest
	streams  []*stubStream
	// opened, if not nil, is called for every stream that is opened.
	opened func(n int, s *stubStream)
}

func newStub(t *testing.T) *stub {
	b := &stub{values: make(map[string]*secretbrokerv1.ResolvedConfig), errors: make(map[string]*secretbrokerv1.ConfigError)}
	closed, end := context.WithCancel(t.Context())
	b.api = &Client{
		addr: "broker:8443", timeout: defaultTimeout, maxAttempts: 1, log: slog.New(slog.NewTextHandler(&b.log, nil)),
		rpc: b, watches: b, closed: closed, end: end, wait: sleep,
	}
	return b
}

func (b *stub) set(reference, version, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.values[reference] = &secretbrokerv1.ResolvedConfig{
		Version: version, Value: value, FetchTime: timestamppb.Now(), CacheExpireTime: timestamppb.New(time.Now().Add(5 * time.Minute)),
	}
}

// fail makes whole calls of Resolve fail; nil ends that.
func (b *stub) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure = err
}

// refuse makes a reference fail; "" ends that.
func (b *stub) refuse(reference string, reason Reason, retry time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.errors, reference)
	if reason != "" {
		b.errors[reference] = &secretbrokerv1.ConfigError{Reason: string(reason), Message: "a message"}
		if retry > 0 {
			b.errors[reference].RetryDelay = durationpb.New(retry)
		}
	}
}

// hang makes Resolve wait until its context ends.
func (b *stub) hang() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hanging = true
}

func (b *stub) Resolve(ctx context.Context, in *secretbrokerv1.ResolveRequest, _ ...grpc.CallOption) (*secretbrokerv1.ResolveResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resolved = append(b.resolved, in)
	if b.hanging {
		b.mu.Unlock()
		<-ctx.Done()
		b.mu.Lock()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if b.failure != nil {
		return nil, b.failure
	}
	out := &secretbrokerv1.ResolveResponse{Configs: make(map[string]*secretbrokerv1.ResolvedConfig), Errors: make(map[string]*secretbrokerv1.ConfigError)}
	for config, reference := range in.GetConfigs() {
		e, refused := b.errors[reference]
		switch {
		case refused && !in.GetAllowPartial():
			return nil, withReason(codes.PermissionDenied, Reason(e.GetReason()))
		case refused:
			out.Errors[config] = e
		case b.values[reference] != nil:
			out.Configs[config] = proto.CloneOf(b.values[reference])
		}
	}
	if meanwhile := b.answered; meanwhile != nil {
		b.answered = nil
		b.mu.Unlock()
		meanwhile()
		b.mu.Lock()
	}
	return out, nil
}

// calls returns the number of calls of Resolve since the last call of it, and the last one.
func (b *stub) calls() (n int, last *secretbrokerv1.ResolveRequest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n = len(b.resolved); n > 0 {
		last = b.resolved[n-1]
	}
	b.resolved = nil
	return n, last
}

func (b *stub) Watch(ctx context.Context, in *secretbrokerv1.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[secretbrokerv1.WatchResponse], error) {
	s := &stubStream{ctx: ctx, request: proto.CloneOf(in), at: time.Now(), messages: make(chan any, 100)}
	b.mu.Lock()
	b.streams = append(b.streams, s)
	n, opened := len(b.streams)-1, b.opened
	b.mu.Unlock()
	if opened != nil {
		opened(n, s)
	}
	return s, nil
}

// onOpen sets opened.
func (b *stub) onOpen(f func(n int, s *stubStream)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened = f
}

// latest returns the latest stream and the number of streams.
func (b *stub) latest() (*stubStream, int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.streams[len(b.streams)-1], len(b.streams)
}

// stubStream is a stream of a stub.
type stubStream struct {
	grpc.ClientStream // nil: the other methods are not called

	ctx      context.Context
	request  *secretbrokerv1.WatchRequest
	at       time.Time
	messages chan any // *WatchResponse or error
}

func (s *stubStream) Recv() (*secretbrokerv1.WatchResponse, error) {
	select {
	case <-s.ctx.Done():
		return nil, status.FromContextError(s.ctx.Err()).Err()
	case m := <-s.messages:
		if err, ok := m.(error); ok {
			return nil, err
		}
		return m.(*secretbrokerv1.WatchResponse), nil
	}
}

// tell sends notices in one message.
func (s *stubStream) tell(complete bool, notices ...*secretbrokerv1.Notice) {
	s.messages <- &secretbrokerv1.WatchResponse{Complete: complete, Notices: notices}
}

// end ends the stream with an error, or as a broker does that asks for a delay.
func (s *stubStream) end(err error, after time.Duration) {
	if err == nil {
		s.messages <- &secretbrokerv1.WatchResponse{ReconnectAfter: durationpb.New(after)}
		err = io.EOF
	}
	s.messages <- err
}

// known returns the version that the request states for a config of the first set.
func (s *stubStream) known(config string) string {
	return s.request.GetSets()[0].GetKnownVersions()[config]
}

func noticeOf(config string, state secretbrokerv1.Notice_State, version string) *secretbrokerv1.Notice {
	return &secretbrokerv1.Notice{Config: config, State: state, Version: version, FetchTime: timestamppb.Now()}
}

func problemOf(config string, state secretbrokerv1.Notice_State, reason Reason) *secretbrokerv1.Notice {
	return &secretbrokerv1.Notice{Config: config, State: state, Error: &secretbrokerv1.ConfigError{Reason: string(reason), Message: "a message"}}
}

// withReason returns the error of a call with a reason of the broker.
func withReason(code codes.Code, reason Reason) error {
	st, err := status.New(code, "a message").WithDetails(&errdetails.ErrorInfo{Domain: errorDomain, Reason: string(reason)})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

var errAway = status.Error(codes.Unavailable, "away")

const (
	current    = secretbrokerv1.Notice_STATE_CURRENT
	changed    = secretbrokerv1.Notice_STATE_CHANGED
	denied     = secretbrokerv1.Notice_STATE_DENIED
	unreadable = secretbrokerv1.Notice_STATE_UNREADABLE
	expiring   = secretbrokerv1.Notice_STATE_EXPIRING
)

// reader collects what a Watch yields.
type reader struct {
	mu  sync.Mutex
	got []string
}

func (r *reader) add(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, text)
}

// take returns what was yielded since the last call.
func (r *reader) take() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// read reads a Watch in a goroutine until it ends.
func (b *stub) read(ctx context.Context, req WatchRequest) (r *reader, wait func()) {
	r = &reader{}
	var running sync.WaitGroup
	running.Go(func() {
		for res, err := range b.api.Watch(ctx, req) {
			if err != nil {
				r.add("error " + err.Error())
				continue
			}
			for _, n := range res.Notices {
				text := n.Config + " " + string(n.State) + " " + n.Version
				if n.Err != nil {
					text += string(n.Err.Reason)
				}
				r.add(text)
			}
			if res.Complete {
				r.add("complete")
			}
			if res.Interrupted != nil {
				r.add("interrupted")
			}
		}
	})
	return r, running.Wait
}

func watchOf(configs ...string) WatchRequest {
	set := WatchSet{IntegrationID: "prod", Configs: make(map[string]string)}
	for _, config := range configs {
		set.Configs[config] = "ref-" + config
	}
	return WatchRequest{Sets: []WatchSet{set}}
}

func withKnown(req WatchRequest, known map[string]string) WatchRequest {
	req.Sets[0].KnownVersions = maps.Clone(known)
	return req
}
