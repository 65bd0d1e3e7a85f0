package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// watchers are streams of Watch that this process has open.
type watchers struct {
	integration string
	conns       []*grpc.ClientConn // each of a principal of its own
	cancel      context.CancelFunc
	running     sync.WaitGroup

	mu       sync.Mutex
	complete int
	changed  []time.Time // when streams got the notice of the present rotation
	failure  error
	progress chan struct{} // capacity 1: something has changed
}

// openWatchers opens streams over connections and waits until all are complete. Each stream
// has items items: the secret s0, and others of the Key Vault's.
func openWatchers(ctx context.Context, w *testbed.World, addr string, conns, streams, items int) (_ *watchers, err error) {
	ws := &watchers{integration: w.Env.IntegrationID, progress: make(chan struct{}, 1)}
	streaming, cancel := context.WithCancel(ctx)
	ws.cancel = cancel
	defer func() {
		if err != nil {
			ws.close()
		}
	}()
	for i := range conns {
		cert, err := w.Clients.Issue(fmt.Sprint("/connect/watcher-", i))
		if err != nil {
			return nil, err
		}
		config, err := testbed.ClientTLS(w.Env.CAFile, cert)
		if err != nil {
			return nil, err
		}
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			return nil, err
		}
		ws.conns = append(ws.conns, conn)
	}
	for i := range streams {
		conn := ws.conns[i%conns]
		ws.running.Go(func() { ws.follow(streaming, conn, items) })
	}
	return ws, ws.await(ctx, func() bool { return ws.complete == streams })
}

// follow opens a stream, again while the broker is overloaded, and reads it to its end.
func (ws *watchers) follow(ctx context.Context, conn *grpc.ClientConn, items int) {
	set := &secretbrokerv1.WatchSet{IntegrationId: ws.integration, Connector: "sqlserver-orders-cdc", Configs: map[string]string{rotating: devmode.VaultURL + "::s0"}}
	for i := 1; i < items; i++ {
		set.Configs[configName(i)] = fmt.Sprintf("%s::s%d", devmode.VaultURL, 1+rand.IntN(stored-1)) //nolint:gosec // a sample
	}
	req := &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{set}}
	for ctx.Err() == nil {
		err := ws.read(ctx, conn, req)
		if status.Code(err) != codes.ResourceExhausted {
			if ctx.Err() == nil {
				ws.do(func() { ws.failure = err })
			}
			return
		}
		wait(ctx, time.Duration(100+rand.IntN(400))*time.Millisecond) //nolint:gosec // spreads load
	}
}

// read opens a stream and reads it to its end.
func (ws *watchers) read(ctx context.Context, conn *grpc.ClientConn, req *secretbrokerv1.WatchRequest) error {
	stream, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		ws.took(m, time.Now())
	}
}

// rotating is the config whose secret changes.
const rotating = "database.password"

func (ws *watchers) took(m *secretbrokerv1.WatchResponse, at time.Time) {
	for _, n := range m.GetNotices() {
		if n.GetState() == secretbrokerv1.Notice_STATE_CHANGED && n.GetConfig() == rotating {
			ws.do(func() { ws.changed = append(ws.changed, at) })
		}
	}
	if m.GetComplete() {
		ws.do(func() { ws.complete++ })
	}
}

func (ws *watchers) do(f func()) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	f()
	select {
	case ws.progress <- struct{}{}:
	default:
	}
}

// await waits until done, which is called with the lock, for at most a minute.
func (ws *watchers) await(ctx context.Context, done func() bool) error {
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		ws.mu.Lock()
		is, err := done(), ws.failure
		ws.mu.Unlock()
		if is || err != nil {
			return err
		}
		select {
		case <-ws.progress:
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("after a minute, %d streams are complete, and %d were told of the change", ws.complete, len(ws.changed))
		}
	}
}

// close ends all streams.
func (ws *watchers) close() {
	ws.cancel()
	ws.running.Wait()
	for _, c := range ws.conns {
		_ = c.Close() // the connections are no longer needed
	}
}
