package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// must returns v. It is used for certificates, whose creation cannot fail in a correct test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// noTest is a testing.TB for code that an example runs. It panics if that code fails.
type noTest struct{ testing.TB }

func (noTest) Helper() {}

func newCA(name string) *trusttest.CA { return trusttest.NewCA(noTest{}, name) }

// issue issues a certificate for name, or for 127.0.0.1 if name is empty.
func issue(ca *trusttest.CA, name string, notAfter time.Time) (certPEM, keyPEM []byte) {
	cert := ca.Issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), notAfter
		if name == "" {
			c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		} else {
			c.DNSNames = []string{name}
		}
	})
	return trusttest.CertPEM(cert), trusttest.KeyPEM(noTest{}, cert)
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

// broker is a ResolverService with mutual TLS. Tests can change its answers and certificates
// while it runs.
type broker struct {
	secretbrokerv1.UnimplementedResolverServiceServer

	addr   string
	server *grpc.Server
	done   chan struct{}
	tls    atomic.Pointer[tls.Config]
	answer atomic.Pointer[answerFunc]
	check  atomic.Pointer[checkFunc] // answers Check; nil: unimplemented
	watchService
	calls  atomic.Int32
	policy policyService
	manage integrationService

	mu    sync.Mutex
	conns []net.Conn // all connections so far
}

// watchService answers Watch with one message, and keeps the stream open.
type watchService struct {
	secretbrokerv1.UnimplementedWatchServiceServer
	watched atomic.Value // func(context.Context, *WatchRequest) *WatchResponse
}

func (s *watchService) Watch(in *secretbrokerv1.WatchRequest, stream grpc.ServerStreamingServer[secretbrokerv1.WatchResponse]) error {
	answer := s.watched.Load().(func(context.Context, *secretbrokerv1.WatchRequest) *secretbrokerv1.WatchResponse)
	if err := stream.Send(answer(stream.Context(), in)); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

type answerFunc func(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error)

// startBroker starts a broker on 127.0.0.1 with a certificate of authority, which must also
// have issued the clients' certificates. The caller stops it.
func startBroker(authority *trusttest.CA, answer answerFunc) *broker {
	lis := must(net.Listen("tcp", "127.0.0.1:0"))
	b := &broker{addr: lis.Addr().String(), done: make(chan struct{})}
	b.setTLS(authority, authority, "", inAnHour())
	b.setAnswer(answer)
	b.server = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return b.tls.Load(), nil },
		})),
		grpc.MaxSendMsgSize(64<<20),
	)
	secretbrokerv1.RegisterResolverServiceServer(b.server, b)
	secretbrokerv1.RegisterWatchServiceServer(b.server, &b.watchService)
	secretbrokerv1.RegisterPolicyServiceServer(b.server, &b.policy)
	secretbrokerv1.RegisterIntegrationServiceServer(b.server, &b.manage)
	go func() {
		defer close(b.done)
		_ = b.server.Serve(&listener{Listener: lis, b: b})
	}()
	return b
}

func (b *broker) stop() {
	b.server.Stop()
	<-b.done
}

// setTLS changes the TLS configuration of new connections: the certificate is for name (see
// issue) and issued by own, and the client's must be issued by clients.
func (b *broker) setTLS(own, clients *trusttest.CA, name string, notAfter time.Time) {
	certPEM, keyPEM := issue(own, name, notAfter)
	b.tls.Store(&tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{must(tls.X509KeyPair(certPEM, keyPEM))},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients.Pool(),
	})
}

func (b *broker) setAnswer(f answerFunc) { b.answer.Store(&f) }

func (b *broker) Resolve(ctx context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	b.calls.Add(1)
	return (*b.answer.Load())(ctx, in)
}

// connections returns the number of connections so far.
func (b *broker) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// drop closes all connections.
func (b *broker) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.Close()
	}
}

type listener struct {
	net.Listener
	b *broker
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.b.mu.Lock()
		l.b.conns = append(l.b.conns, c)
		l.b.mu.Unlock()
	}
	return c, err
}

// setup is a broker, its CA and the files of a client.
type setup struct {
	*broker
	ca  *trusttest.CA
	cfg client.Config
	log *asynctest.Buffer // the client's log
}

func newSetup(t *testing.T, answer answerFunc) *setup {
	t.Helper()
	authority := newCA("test CA")
	b := startBroker(authority, answer)
	t.Cleanup(b.stop)
	s := &setup{broker: b, ca: authority, log: &asynctest.Buffer{}}
	s.cfg = writeConfig(t.TempDir(), b.addr, authority, "worker-1.test")
	s.cfg.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	return s
}

// writeConfig writes a client's files to dir.
func writeConfig(dir, addr string, authority *trusttest.CA, name string) client.Config {
	cfg := client.Config{
		Addrs:    []string{addr},
		CAFile:   filepath.Join(dir, "ca.pem"),
		CertFile: filepath.Join(dir, "tls.pem"),
		KeyFile:  filepath.Join(dir, "tls-key.pem"),
	}
	certPEM, keyPEM := issue(authority, name, inAnHour())
	write(cfg.CAFile, authority.PEM())
	write(cfg.CertFile, certPEM)
	write(cfg.KeyFile, keyPEM)
	return cfg
}

func write(path string, b []byte) {
	if err := os.WriteFile(path, b, 0o600); err != nil {
		panic(err)
	}
}

// client returns a client that does not wait between attempts, and the list of waits that it
// would have made.
func (s *setup) client(t *testing.T) (*client.Client, *[]time.Duration) {
	t.Helper()
	c := s.waitingClient(t)
	waits := &[]time.Duration{}
	c.SetWait(func(ctx context.Context, d time.Duration) error {
		*waits = append(*waits, d)
		return ctx.Err()
	})
	return c, waits
}

// waitingClient returns a client that waits between attempts.
func (s *setup) waitingClient(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// echo answers every config with its reference.
func echo(_ context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	out := &secretbrokerv1.ResolveResponse{RequestId: "req-1", Configs: map[string]*secretbrokerv1.ResolvedConfig{}}
	for name, ref := range in.GetConfigs() {
		out.Configs[name] = &secretbrokerv1.ResolvedConfig{Value: ref, Version: "v1"}
	}
	return out, nil
}

var request = client.ResolveRequest{IntegrationID: "prod", Configs: map[string]string{"database.password": "a reference"}}
