// Package server owns the wire: the gRPC services and their interceptors, mutual
// TLS and the caller's identity, the table that turns errors into statuses, and
// the admin HTTP endpoint.
//
// It decides who somebody is and whether a method may be called at all. What a
// caller may read is decided beneath it; it knows no stores and no cache.
package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/cpulimit"
	"github.com/secretbroker/secretbroker/internal/tracing"
	"github.com/secretbroker/secretbroker/internal/trust"
	"github.com/secretbroker/secretbroker/internal/wirecodec"
)

// Limits of the public listener. gRPC's own defaults are mostly "unlimited".
const (
	maxHeaderListSize = 16 << 10 // bytes
	handshakeTimeout  = 10 * time.Second
	maxConnectionIdle = 30 * time.Minute
	// maxConnectionAge makes clients come back now and then, so that they spread
	// over replicas and show a current certificate: one that is renewed at half of
	// its life, as SPIRE's are, of an hour by default, is never cut off for its age.
	maxConnectionAge      = 10 * time.Minute
	maxConnectionAgeGrace = time.Minute
	minClientPing         = 10 * time.Second
	serverPing            = time.Minute
	serverPingTimeout     = 20 * time.Second
	// recheckInterval is how often the peers of open connections are judged anew,
	// at least.
	recheckInterval = 5 * time.Second
	// trafficInterval is how often it is looked whether a connection keeps the broker
	// waiting.
	trafficInterval = time.Second
	// defaultMemory is the Config's default, in bytes.
	defaultMemory = 512 << 20
	// streamWorkers is how many goroutines gRPC keeps for calls. A new one for each
	// call would have to grow its stack each time, which takes a fifth of the CPU
	// of a call; calls beyond the workers, which may all wait for the audit or a
	// store, do get one.
	streamWorkers = 256
	// watcherTime is how long streams last into a shutdown.
	watcherTime = 100 * time.Millisecond
)

// Config is what a Server is made of. All fields are required but Identity, Limits
// and Tracer.
type Config struct {
	Resolver Resolver
	Manager  Manager
	// Trust is the server's certificate and the trust in clients. The Server does
	// not run it.
	Trust *trust.Store
	// Identity says which client certificates name a caller; the zero value will
	// do.
	Identity IdentityRules
	Logger   *slog.Logger
	Metrics  prometheus.Registerer
	// Limits bound the callers; zero ones take their defaults.
	Limits Limits
	// Memory bounds the memory that callers make the broker keep; 512 MiB if nil.
	Memory *budget.Budget
	// Tracer, if not nil, traces the calls whose callers ask for it. The Server does
	// not run it.
	Tracer *tracing.Tracer

	patience patience // defaultPatience, but in tests
}

// Limits bound what callers may send and keep open. The zero value of each
// stands for its default.
type Limits struct {
	// MaxRequestBytes is the largest request: 1 MiB. A whole connector
	// configuration has some 10 KiB.
	MaxRequestBytes int
	// MaxStreamsPerConnection is how many calls of one connection may be under
	// way: 256. Further ones wait at the client.
	MaxStreamsPerConnection int
	// MaxConnectionsPerPrincipal is how many connections of one principal serve
	// calls: 256.
	MaxConnectionsPerPrincipal int
	// MaxHandshakes is how many handshakes may be under way: 1,000. One more ends
	// the oldest of the address that has the most.
	MaxHandshakes int
	// Calls bounds the calls per second and at the same time.
	Calls admission.Limits
	// ManagementRunning is how many calls that manage integrations or ask about
	// policies run at the same time, of one principal half as many: one for each CPU.
	// Further ones wait for their turn.
	ManagementRunning int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		MaxRequestBytes:            cmp.Or(l.MaxRequestBytes, 1<<20),
		MaxStreamsPerConnection:    cmp.Or(l.MaxStreamsPerConnection, 256),
		MaxConnectionsPerPrincipal: cmp.Or(l.MaxConnectionsPerPrincipal, 256),
		MaxHandshakes:              cmp.Or(l.MaxHandshakes, 1000),
		Calls:                      l.Calls,
		ManagementRunning:          l.ManagementRunning,
	}
}

// Server is the gRPC listener.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
	// endStreams ends the streaming calls.
	endStreams context.CancelFunc
	handshakes prometheus.Counter // that failed
	limiters   []*limiter         // that SetCallLimits is for

	trust       *trust.Store
	connections *connections
	greetings   *handshakes
	// recheck and traffic are recheckInterval and trafficInterval, but in tests.
	recheck, traffic time.Duration
}

// New makes a Server with every service registered.
func New(cfg Config) (*Server, error) {
	if cfg.Trust == nil {
		return nil, errors.New("server: there is no certificate and no trust in clients")
	}
	limits := cfg.Limits.withDefaults()
	closing, endStreams := context.WithCancel(context.Background())
	measured := newCallMetrics(cfg.Metrics)
	ic := &interceptor{
		log: cfg.Logger, metrics: measured, rules: rules, closing: closing,
		calls: measured.limiter("", limits.Calls), management: measured.limiter("management_", managementLimits), streams: measured.limiter("", limits.Calls),
		heavy: admission.NewQueue(0), turns: admission.NewQueue(cmp.Or(limits.ManagementRunning, cpulimit.CPUs())), refusals: newRefusalLog(), tracer: cfg.Tracer,
	}
	greetings := &handshakes{limit: limits.MaxHandshakes}
	ended := newConnectionMetrics(cfg.Metrics, greetings.count)
	greetings.displaced = ended.displaced
	refusals := &handshakeLog{log: cfg.Logger, count: ic.metrics.handshakes.Inc}
	known := newConnections(limits.MaxConnectionsPerPrincipal, cfg.Logger, ended, cmp.Or(cfg.Memory, budget.New(defaultMemory)), cmp.Or(cfg.patience, defaultPatience))
	g := grpc.NewServer(
		grpc.Creds(identifyingCredentials{
			TransportCredentials: credentials.NewTLS(cfg.Trust.TLSConfig()),
			trust:                cfg.Trust,
			rules:                cfg.Identity,
			handshakes:           greetings,
			connections:          known,
			refused:              refusals.refused,
		}),
		grpc.StreamInterceptor(ic.stream), // unary methods are guarded below
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errNoSuchMethod }),
		grpc.MaxRecvMsgSize(limits.MaxRequestBytes),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(wirecodec.New()),
		grpc.MaxHeaderListSize(maxHeaderListSize),
		grpc.MaxConcurrentStreams(uint32(limits.MaxStreamsPerConnection)), //nolint:gosec // the configuration allows 10,000 at most
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     maxConnectionIdle,
			MaxConnectionAge:      maxConnectionAge,
			MaxConnectionAgeGrace: maxConnectionAgeGrace,
			Time:                  serverPing,
			Timeout:               serverPingTimeout,
		}),
	)
	s := &Server{grpc: g, health: health.NewServer(), endStreams: endStreams, handshakes: ic.metrics.handshakes, limiters: []*limiter{ic.calls, ic.streams}, trust: cfg.Trust, connections: known, greetings: greetings, recheck: recheckInterval, traffic: trafficInterval}
	for _, service := range []struct {
		desc grpc.ServiceDesc
		impl any
	}{
		{secretbrokerv1.ResolverService_ServiceDesc, &resolverService{resolver: cfg.Resolver, log: cfg.Logger, failures: newRefusalLog()}},
		{secretbrokerv1.PolicyService_ServiceDesc, &policyService{manager: cfg.Manager, log: cfg.Logger}},
		{secretbrokerv1.IntegrationService_ServiceDesc, &integrationService{manager: cfg.Manager, log: cfg.Logger}},
		{healthpb.Health_ServiceDesc, s.health},
	} {
		g.RegisterService(ic.guard(service.desc), service.impl)
	}
	for _, service := range []string{secretbrokerv1.ResolverService_ServiceDesc.ServiceName, secretbrokerv1.PolicyService_ServiceDesc.ServiceName, secretbrokerv1.IntegrationService_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	}
	reflection.Register(g) // v1, and v1alpha beside it
	if err := ic.checkRules(g.GetServiceInfo()); err != nil {
		endStreams()
		return nil, err
	}
	return s, nil
}

// Serve answers calls on l until Shutdown. It owns l.
func (s *Server) Serve(l net.Listener) error {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { s.connections.watch(ctx, s.trust, s.recheck) })
	watching.Go(func() { s.connections.checkTraffic(ctx, s.traffic) })
	defer watching.Wait()
	defer cancel()
	if err := s.grpc.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil // shut down before it had begun
}

// SetCallLimits puts other limits in force for the calls to come. Those on calls
// that manage integrations are fixed.
func (s *Server) SetCallLimits(l admission.Limits) {
	for _, g := range s.limiters {
		g.SetLimits(l, time.Now())
	}
}

// Drain tells who asks for the broker's health to go elsewhere. Calls are
// answered as ever, until Shutdown.
func (s *Server) Drain() { s.health.Shutdown() }

// Shutdown tells clients to go elsewhere, lets the calls under way finish until
// ctx ends, and then cuts off what is left.
func (s *Server) Shutdown(ctx context.Context) {
	s.health.Shutdown()
	s.greetings.close()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	// Watchers of the health service have been told by now, or will not listen.
	told := time.NewTimer(watcherTime)
	defer told.Stop()
	select {
	case <-done:
		s.endStreams()
		return
	case <-told.C:
	case <-ctx.Done():
	}
	s.endStreams()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}
