package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
	"github.com/secretbroker/secretbroker/internal/watch"
)

const watchedStore = "https://my-vault.vault.azure.net"

// watchedWorld is the integrations and the store behind a real resolve.Resolver.
type watchedWorld struct {
	hub *watch.Hub

	mu      sync.Mutex
	in      *integration.Integration // nil: there is none
	version string
	hang    chan struct{} // closed unless reads hang
}

func (w *watchedWorld) Get(id string) (*integration.Integration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.in == nil || id != w.in.ID {
		return nil, registry.ErrNotFound
	}
	return w.in, nil
}

func (w *watchedWorld) List() []*integration.Integration { return nil }

func (w *watchedWorld) Fetch(ctx context.Context, _ *integration.Integration, _ secret.Ref) (*secret.Secret, error) {
	select {
	case <-w.hang:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return secret.New(w.version, time.Now(), time.Time{}, []byte("canary-value")), nil
}

func (w *watchedWorld) rotate(version string) {
	w.mu.Lock()
	w.version = version
	w.mu.Unlock()
	w.hub.Hint("it", watchedStore, "")
}

func (w *watchedWorld) grant(t *testing.T, principals ...string) {
	t.Helper()
	in := &integration.Integration{ID: "it", Kind: secret.KindAzureKeyVault, ReadRevision: "1"}
	if len(principals) > 0 {
		policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{watchedStore}, []authz.Grant{{ID: "g", Principals: principals}})
		if err != nil {
			t.Fatal(err)
		}
		in.Policy = policy
	}
	w.mu.Lock()
	w.in = in
	w.mu.Unlock()
	w.hub.IntegrationsChanged(nil, []*integration.Integration{in})
}

type noAudit struct{}

func (noAudit) Begin([]audit.Event) (audit.Receipt, audit.Position, error) {
	return audit.Receipt{}, audit.Position{}, nil
}

// watchedServer is a server whose WatchService is real.
type watchedServer struct {
	*testServer
	world   *watchedWorld
	watcher Watcher
}

func startWatched(t *testing.T, limits watch.Config, change ...func(*Config)) *watchedServer {
	t.Helper()
	w := &watchedWorld{hub: watch.New(limits), version: "v1", hang: make(chan struct{})}
	close(w.hang)
	values, err := cache.New(cache.Config{Loaded: w.hub.Loaded})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(values.Close)
	resolver := resolve.New(resolve.Config{Integrations: w, Stores: w, Cache: values, Audit: noAudit{}, CacheTTL: time.Hour, Hub: w.hub})
	w.hub.SetReader(resolver)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.hub.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if s := w.hub.Stats(); s.Items+s.Secrets+s.Principals != 0 {
			t.Errorf("streams are left: %+v", s)
		}
	})
	w.grant(t, string(granted), otherID)
	ts := startServer(t, append([]func(*Config){func(c *Config) { c.Watcher = resolver }}, change...)...)
	return &watchedServer{ts, w, resolver}
}

// connected waits until a connection is ready.
func connected(t *testing.T, conn *grpc.ClientConn) *grpc.ClientConn {
	t.Helper()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(t.Context(), s) {
			t.Fatal("no connection")
		}
	}
	return conn
}

type watchStream = grpc.ServerStreamingClient[secretbrokerv1.WatchResponse]

func items(n int) *secretbrokerv1.WatchRequest {
	set := &secretbrokerv1.WatchSet{IntegrationId: "it", Configs: map[string]string{}}
	for i := range n {
		set.Configs[fmt.Sprintf("p%d", i)] = fmt.Sprintf("%s::s%d", watchedStore, i)
	}
	return &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{set}}
}

func openWatch(t *testing.T, conn *grpc.ClientConn, req *secretbrokerv1.WatchRequest) watchStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// receive returns the notices of one message, or the last message.
func receive(t *testing.T, stream watchStream) (string, *secretbrokerv1.WatchResponse) {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, n := range m.GetNotices() {
		all = append(all, fmt.Sprintf("%d/%s %s %s%s", n.GetSet(), n.GetConfig(), strings.TrimPrefix(n.GetState().String(), "STATE_"), n.GetVersion(), n.GetError().GetReason()))
	}
	slices.Sort(all)
	return strings.Join(all, ", "), m
}

func expectNotice(t *testing.T, stream watchStream, want string) *secretbrokerv1.WatchResponse {
	t.Helper()
	got, m := receive(t, stream)
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	return m
}

func TestWatch(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	stream := openWatch(t, ts.dial(t, ts.ca.Client(string(granted))), items(1))
	first := expectNotice(t, stream, "0/p0 CURRENT v1")
	if !first.GetComplete() || len(first.GetRequestId()) != 32 || first.GetAsOfTime() == nil || first.GetNotices()[0].GetFetchTime() == nil {
		t.Errorf("the first message is %v", first)
	}
	ts.world.rotate("v2")
	second := expectNotice(t, stream, "0/p0 CHANGED v2")
	if second.GetComplete() || second.GetRequestId() != "" {
		t.Errorf("the second message is %v", second)
	}
	ts.world.grant(t, otherID)
	expectNotice(t, stream, "0/p0 DENIED ACCESS_DENIED")
	ts.world.grant(t, string(granted))
	expectNotice(t, stream, "0/p0 CHANGED v2")
	// Resuming: the version that the caller has decides.
	req := items(1)
	req.Sets[0].KnownVersions = map[string]string{"p0": "v1"}
	expectNotice(t, openWatch(t, ts.dial(t, ts.ca.Client(string(granted))), req), "0/p0 CHANGED v2")
}

// TestWatchAThousand: the largest request.
func TestWatchAThousand(t *testing.T) {
	ts := startWatched(t, watch.Config{MaxReadsPerSecond: 10_000})
	stream := openWatch(t, ts.dial(t, ts.ca.Client(string(granted))), items(1000))
	n := 0
	for done := false; !done; {
		_, m := receive(t, stream)
		n += len(m.GetNotices())
		done = m.GetComplete()
	}
	if n != 1000 {
		t.Errorf("%d notices", n)
	}
}

// TestWatchBadInput: malformed requests are refused.
func TestWatchBadInput(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	unknown := items(1)
	unknown.Sets[0].ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1500, protowire.VarintType), 1))
	for name, req := range map[string]*secretbrokerv1.WatchRequest{
		"empty": {}, "an empty set": {Sets: []*secretbrokerv1.WatchSet{{}}}, "1001 references": items(1001), "an unknown restriction": unknown,
	} {
		_, err := openWatch(t, conn, req).Recv()
		if status.Code(err) != codes.InvalidArgument || reasonOf(status.Convert(err)) != secret.ReasonInvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who has no identity may not call it.
	_, err := openWatch(t, ts.dial(t, ts.ca.Client()), items(1)).Recv()
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("without an identity: %v", err)
	}
}

// TestWatchLimits: each limit on streams and items holds for one principal and not for
// another, names its setting, and the end of a stream makes room.
func TestWatchLimits(t *testing.T) {
	ts := startWatched(t, watch.Config{MaxItemsPerPrincipal: 5}, func(c *Config) {
		c.Limits.Watch = WatchLimits{MaxStreamsPerPrincipal: 2, MaxStreams: 64}
	})
	conn, other := ts.dial(t, ts.ca.Client(string(granted))), ts.dial(t, ts.ca.Client(otherID))
	refused := func(err error, setting string) {
		t.Helper()
		expectOverloaded(t, err)
		if !strings.Contains(status.Convert(err).Message(), setting) {
			t.Errorf("the error does not name %s: %v", setting, err)
		}
	}
	expectNotice(t, openWatch(t, conn, items(1)), "0/p0 CURRENT v1")
	_, err := openWatch(t, conn, items(5)).Recv()
	refused(err, "watch.max_items_per_principal")
	ctx, cancel := context.WithCancel(t.Context())
	second, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(ctx, items(1))
	if err != nil {
		t.Fatal(err)
	}
	expectNotice(t, second, "0/p0 CURRENT v1")
	_, err = openWatch(t, conn, items(1)).Recv()
	refused(err, "watch.max_streams_per_principal")
	if n := ts.overLabel(t, "watch_max_concurrent_calls_per_principal"); n != 1 {
		t.Errorf("%v refusals were counted", n)
	}
	expectNotice(t, openWatch(t, other, items(1)), "0/p0 CURRENT v1")
	if n := ts.counter(t, "secretbroker_streams", "watch"); n != 3 {
		t.Errorf("%v open streams", n)
	}
	cancel()
	for {
		m, err := openWatch(t, conn, items(1)).Recv()
		if err == nil && len(m.GetNotices()) == 1 {
			break
		}
		refused(err, "watch.max_streams_per_principal") // until the server has noticed the end
	}
	// Streams do not count as calls.
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("a Resolve beside the streams: %v", err)
	}
}

// TestWatchDrain: streams end with OK and reconnect_after when the broker begins to shut
// down, also those that wait for their first answer and new ones.
func TestWatchDrain(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	idle := openWatch(t, conn, items(1))
	expectNotice(t, idle, "0/p0 CURRENT v1")
	ts.world.hang = make(chan struct{})
	waiting := openWatch(t, conn, &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{{IntegrationId: "it", Configs: map[string]string{"p": watchedStore + "::slow"}}}})
	for ts.world.hub.Stats().Items < 2 {
		time.Sleep(time.Millisecond)
	}
	ts.Drain()
	for name, stream := range map[string]watchStream{"idle": idle, "waiting": waiting, "new": openWatch(t, conn, items(1))} {
		m := expectNotice(t, stream, "")
		if after := m.GetReconnectAfter().AsDuration(); after < drainPause || after > drainPause+maxReopen {
			t.Errorf("%s: reconnect after %v", name, after)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s ended with %v", name, err)
		}
	}
	close(ts.world.hang)
}

// TestWatchConnectionAge: when the connection announces its end, streams end with OK and
// reconnect_after, and continue on another connection.
func TestWatchConnectionAge(t *testing.T) {
	ts := startWatched(t, watch.Config{}, func(c *Config) { c.connectionAge = 300 * time.Millisecond })
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	for range 3 {
		stream := openWatch(t, conn, items(1))
		expectNotice(t, stream, "0/p0 CURRENT v1")
		m := expectNotice(t, stream, "")
		if after := m.GetReconnectAfter(); after == nil || after.AsDuration() > time.Second {
			t.Errorf("reconnect after %v", after)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	}
}

// TestWatchRevoked: a revoked certificate ends the stream.
func TestWatchRevoked(t *testing.T) {
	w := startWatched(t, watch.Config{})
	s := startTrusted(t, Limits{MaxConnectionsPerPrincipal: 4}, IdentityRules{}, func(c *Config) { c.Watcher = w.watcher })
	cert := s.ca.Client(string(granted))
	stream := openWatch(t, s.dial(t, cert), items(1))
	expectNotice(t, stream, "0/p0 CURRENT v1")
	trusttest.Put(t, s.files.CRL, trusttest.PEM("X509 CRL", s.ca.CRL(nil, cert.Leaf)))
	s.trust.Reload()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// TestWatchStuck: a caller that never reads loses its connection, and its items are
// forgotten. Others are served meanwhile.
func TestWatchStuck(t *testing.T) {
	limits := defaultTimeouts
	limits.answer, limits.call = 300*time.Millisecond, 0
	ts := startWatched(t, watch.Config{MaxReadsPerSecond: 10_000}, func(c *Config) { c.timeouts = limits })
	good := openWatch(t, ts.dial(t, ts.ca.Client(string(granted))), items(1))
	expectNotice(t, good, "0/p0 CURRENT v1")
	// A fixed window prevents the client from accepting more than it has read.
	conn, err := grpc.NewClient("passthrough:///"+ts.addr, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithTransportCredentials(
		credentials.NewTLS(&tls.Config{RootCAs: ts.ca.Pool(), Certificates: []tls.Certificate{*ts.ca.Client(otherID)}})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := items(1000)
	long := make(map[string]string) // more than client and server buffer
	for name, ref := range req.GetSets()[0].GetConfigs() {
		long[name+strings.Repeat("x", 200)] = ref
	}
	req.Sets[0].Configs = long
	for range 3 {
		openWatch(t, conn, req)
	}
	ended(t, connected(t, conn))
	for ts.world.hub.Stats().Items > 1 {
		time.Sleep(time.Millisecond)
	}
	ts.world.rotate("v2")
	expectNotice(t, good, "0/p0 CHANGED v2")
}

// TestWatchIncompleteRequest: a caller that does not complete its request loses its
// connection, however many complete streams it has.
func TestWatchIncompleteRequest(t *testing.T) {
	limits := defaultTimeouts
	limits.request = 300 * time.Millisecond
	ts := startWatched(t, watch.Config{}, func(c *Config) { c.timeouts = limits })
	a := ts.attack(t, otherID, 1<<20)
	a.path = secretbrokerv1.WatchService_Watch_FullMethodName
	for range 3 {
		if _, err := a.call(items(1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.begin(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.drain():
	case <-time.After(20 * time.Second):
		t.Fatal("the connection is still open")
	}
}
