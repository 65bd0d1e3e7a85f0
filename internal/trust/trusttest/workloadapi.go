package trusttest

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// WorkloadAPI is a fake SPIFFE agent with a Workload API.
type WorkloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	// Socket is the address of the Workload API.
	Socket string

	t      testing.TB
	path   string
	server *grpc.Server

	mu      sync.Mutex
	answer  *workload.X509SVIDResponse
	fault   error
	changed chan struct{}
	watches int
}

// NewWorkloadAPI starts an agent that has no identity yet. The agent stops with the test.
func NewWorkloadAPI(t testing.TB) *WorkloadAPI {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // t.TempDir can be too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	a := &WorkloadAPI{t: t, path: filepath.Join(dir, "agent.sock"), changed: make(chan struct{}), fault: status.Error(codes.PermissionDenied, "no identity issued")}
	a.Socket = "unix://" + a.path
	a.Start()
	t.Cleanup(func() {
		a.Stop()
		_ = os.RemoveAll(dir)
	})
	return a
}

// Start starts the agent again after Stop.
func (a *WorkloadAPI) Start() {
	a.t.Helper()
	l, err := net.Listen("unix", a.path)
	if err != nil {
		a.t.Fatal(err)
	}
	a.server = grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(a.server, a)
	server := a.server
	go func() { _ = server.Serve(l) }() // Stop ends it
}

// Stop ends the agent and its connections.
func (a *WorkloadAPI) Stop() { a.server.Stop() }

// Identity returns the agent's answer with an identity for the workload.
func Identity(t testing.TB, ca *CA, svid *tls.Certificate) *workload.X509SVIDResponse {
	t.Helper()
	var chain []byte
	for _, der := range svid.Certificate {
		chain = append(chain, der...)
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: svid.Leaf.URIs[0].String(), X509Svid: chain, X509SvidKey: keyDER(t, svid), Bundle: ca.Cert.Raw,
	}}}
}

// Set makes the agent return answer from now on, and sends it to all current watches.
func (a *WorkloadAPI) Set(answer *workload.X509SVIDResponse) { a.set(answer, nil) }

// Fail makes the agent refuse requests, and ends all watches with this code.
func (a *WorkloadAPI) Fail(code codes.Code) {
	a.set(nil, status.Error(code, "the test made the agent fail"))
}

func (a *WorkloadAPI) set(answer *workload.X509SVIDResponse, fault error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer, a.fault = answer, fault
	close(a.changed)
	a.changed = make(chan struct{})
}

// Watches returns the number of watches so far.
func (a *WorkloadAPI) Watches() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.watches
}

// FetchX509SVID implements the Workload API.
func (a *WorkloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(stream.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return errors.New("the security header is missing")
	}
	a.mu.Lock()
	a.watches++
	a.mu.Unlock()
	for {
		a.mu.Lock()
		answer, fault, changed := a.answer, a.fault, a.changed
		a.mu.Unlock()
		if fault != nil {
			return fault
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}
