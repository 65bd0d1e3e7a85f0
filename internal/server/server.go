// Package server implements the broker's network interface: the gRPC services and their
// interceptors, mutual TLS and the identity of callers, the table that maps errors to gRPC
// statuses, and the admin HTTP endpoint.
//
// A call passes these stages, from the socket inwards:
//
//  1. Listen and handshakes accept connections and limit what unauthenticated peers can
//     use. identifyingCredentials determine the caller from its verified client certificate,
//     and connections tracks the connection from then on.
//  2. traffic parses the frame headers of HTTP/2 and charges the memory of open calls to
//     the caller. It closes connections that exceed a bound, before gRPC sees the bytes.
//  3. interceptor admits the call, before gRPC decodes its request: see its documentation
//     for the reason. guarded wraps one unary method.
//  4. The handlers translate between the wire format and the use cases (packages resolve
//     and manage).
//  5. statusOf maps an error to a status; statusTable has the mapping.
//  6. commitBarrier delays the writes of a connection until the audit log has recorded the
//     answers in them. traffic releases the memory of the answer.
//
// The package determines who the caller is and whether it may call a method at all. The
// use cases decide what a caller may read. The package knows neither stores nor the cache.
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
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/tracing"
	"github.com/secretbroker/secretbroker/internal/trust"
	"github.com/secretbroker/secretbroker/internal/wirecodec"
)

// Limits of the public listener. gRPC's own defaults are mostly "unlimited".
const (
	maxHeaderListSize = 16 << 10 // bytes
	handshakeTimeout  = 10 * time.Second
	maxConnectionIdle = 30 * time.Minute
	// maxConnectionAge makes clients reconnect regularly, so that they spread over
	// replicas and present a current certificate. A certificate that is renewed at half
	// of its lifetime, an hour by default in SPIRE, never expires during a connection.
	maxConnectionAge      = 10 * time.Minute
	maxConnectionAgeGrace = time.Minute
	minClientPing         = 10 * time.Second
	serverPing            = time.Minute
	serverPingTimeout     = 20 * time.Second
	// recheckInterval is the maximum time between two checks of the peers of open
	// connections.
	recheckInterval = 5 * time.Second
	// trafficInterval is the interval of the checks for connections that keep the broker
	// waiting.
	trafficInterval = time.Second
	// defaultMemory is the default of Config.Memory, in bytes.
	defaultMemory = 512 << 20
	// streamWorkers is the number of goroutines that gRPC keeps for calls. A new
	// goroutine for each call would have to grow its stack each time, which takes a fifth
	// of the CPU time of a call. Calls beyond the workers, which may all wait for the
	// audit log or a store, get a new goroutine.
	streamWorkers = 256
	// watcherTime is the time for which streams continue after the start of a shutdown.
	watcherTime = 100 * time.Millisecond
)

// Config configures a Server. All fields are required except Identity, Denials, Version,
// Limits, Memory, WatchMemory and Tracer.
type Config struct {
	Resolver Resolver
	// Manager may be nil: the server then has none of the services that it implements.
	Manager Manager
	// Watcher may be nil: the server then has no WatchService.
	Watcher Watcher
	// Trust has the server's certificate and the authorities of client certificates. The
	// caller of New runs it.
	Trust *trust.Store
	// Identity determines which client certificates identify a caller; the zero value is
	// valid.
	Identity IdentityRules
	// Denials is the deny list. Nil means an empty list.
	Denials *denial.Set
	// Version is the broker's version, for WhoAmI.
	Version string
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// Limits limits the callers; a field that is zero has its default.
	Limits Limits
	// Memory limits the memory that callers make the broker use; 512 MiB if nil.
	Memory *budget.Budget
	// WatchMemory limits the memory of the streams of WatchService. If it is nil, they use
	// at most half of Memory.
	WatchMemory *budget.Budget
	// Tracer, if not nil, traces the calls whose callers request it. The caller of New
	// runs it.
	Tracer *tracing.Tracer

	timeouts      timeouts      // defaultTimeouts except in tests
	connectionAge time.Duration // maxConnectionAge except in tests
}

// Limits limits what callers may send and keep open. A field that is zero has its default.
type Limits struct {
	// MaxRequestBytes is the maximum size of a request: 1 MiB by default. A complete
	// connector configuration has about 10 KiB.
	MaxRequestBytes int
	// MaxStreamsPerConnection is the maximum number of active calls of one connection:
	// 256 by default. Further calls wait at the client.
	MaxStreamsPerConnection int
	// MaxConnectionsPerPrincipal is the maximum number of connections of one principal
	// that serve calls: 256 by default.
	MaxConnectionsPerPrincipal int
	// MaxHandshakes is the maximum number of concurrent handshakes: 1,000 by default. One
	// more ends the oldest handshake of the address that has the most.
	MaxHandshakes int
	// Calls limits the calls per second and the active calls.
	Calls admission.Limits
	// ManagementRunning is the number of calls that manage integrations or ask about
	// policies that run at the same time: by default one for each CPU. At most half of
	// them are of one principal. Further calls wait in a queue.
	ManagementRunning int
	// Watch limits the streams of WatchService.
	Watch WatchLimits
}

func (l Limits) withDefaults() Limits {
	return Limits{
		MaxRequestBytes:            cmp.Or(l.MaxRequestBytes, 1<<20),
		MaxStreamsPerConnection:    cmp.Or(l.MaxStreamsPerConnection, 256),
		MaxConnectionsPerPrincipal: cmp.Or(l.MaxConnectionsPerPrincipal, 256),
		MaxHandshakes:              cmp.Or(l.MaxHandshakes, 1000),
		Calls:                      l.Calls,
		ManagementRunning:          l.ManagementRunning,
		Watch:                      l.Watch,
	}
}

// Server is the gRPC listener.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
	// endStreams ends the streaming calls, and drain asks those of WatchService to end.
	endStreams, drain context.CancelFunc
	handshakes        prometheus.Counter // failed handshakes
	calls             *limiter           // the limiter that SetCallLimits changes

	trust       *trust.Store
	connections *connections
	greetings   *handshakes
	// recheck and traffic are recheckInterval and trafficInterval except in tests.
	recheck, traffic time.Duration
}

// New returns a Server with every service registered.
func New(cfg Config) (*Server, error) {
	if cfg.Trust == nil {
		return nil, errors.New("server: Config.Trust is required: the server's certificate and the client CAs")
	}
	limits, memory := cfg.Limits.withDefaults(), cmp.Or(cfg.Memory, budget.New(defaultMemory))
	closing, endStreams := context.WithCancel(context.Background())
	draining, drain := context.WithCancel(context.Background())
	measured := newCallMetrics(cfg.Metrics)
	ic := &interceptor{
		log: cfg.Logger, metrics: measured, rules: rules, closing: closing,
		calls: measured.limiter("", limits.Calls), management: measured.limiter("management_", managementLimits),
		watches: measured.streamLimiter("health", watchLimits(limits.MaxConnectionsPerPrincipal)), reflection: measured.streamLimiter("reflection", reflectionLimits), rotations: watchLimiter(measured, limits.Watch),
		heavy: admission.NewQueue(0), turns: admission.NewQueue(cmp.Or(limits.ManagementRunning, cpulimit.CPUs())), refusals: newRefusalLog(), tracer: cfg.Tracer, watchMemory: cmp.Or(cfg.WatchMemory, budget.New(memory.Stats().Total/watchShare)),
	}
	greetings := &handshakes{limit: limits.MaxHandshakes, perSource: handshakesPerSource(limits.MaxHandshakes)}
	ended := newConnectionMetrics(cfg.Metrics, greetings.count)
	greetings.displaced, greetings.displacedBySource = ended.displaced.WithLabelValues("all"), ended.displaced.WithLabelValues("address")
	refusals := &handshakeLog{log: cfg.Logger, count: ic.metrics.handshakes.Inc}
	known := newConnections(limits.MaxConnectionsPerPrincipal, cfg.Logger, ended, memory, cmp.Or(cfg.timeouts, defaultTimeouts), cmp.Or(cfg.Denials, denial.NewSet()))
	g := grpc.NewServer(
		grpc.Creds(identifyingCredentials{
			TransportCredentials: credentials.NewTLS(cfg.Trust.TLSConfig()),
			trust:                cfg.Trust,
			rules:                cfg.Identity,
			handshakes:           greetings,
			connections:          known,
			refused:              refusals.refused,
		}),
		grpc.StreamInterceptor(ic.stream), // guard wraps unary methods below
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
			MaxConnectionAge:      cmp.Or(cfg.connectionAge, maxConnectionAge),
			MaxConnectionAgeGrace: maxConnectionAgeGrace,
			Time:                  serverPing,
			Timeout:               serverPingTimeout,
		}),
	)
	s := &Server{grpc: g, health: health.NewServer(), endStreams: endStreams, drain: drain, handshakes: ic.metrics.handshakes, calls: ic.calls, trust: cfg.Trust, connections: known, greetings: greetings, recheck: recheckInterval, traffic: trafficInterval}
	type service struct {
		desc grpc.ServiceDesc
		impl any
	}
	services := []service{{secretbrokerv1.ResolverService_ServiceDesc, &resolverService{resolver: cfg.Resolver, log: cfg.Logger, failures: newRefusalLog()}}}
	if cfg.Manager != nil {
		services = append(services,
			service{secretbrokerv1.PolicyService_ServiceDesc, &policyService{manager: cfg.Manager, log: cfg.Logger, version: cfg.Version}},
			service{secretbrokerv1.DenialService_ServiceDesc, &denialService{manager: cfg.Manager, log: cfg.Logger}},
			service{secretbrokerv1.IntegrationService_ServiceDesc, &integrationService{manager: cfg.Manager, log: cfg.Logger}})
	}
	if cfg.Watcher != nil {
		services = append(services, service{secretbrokerv1.WatchService_ServiceDesc, &watchService{
			watcher: cfg.Watcher, log: cfg.Logger, draining: draining, limiter: ic.rotations, memory: ic.watchMemory, own: cfg.WatchMemory != nil, sendTimeout: cmp.Or(cfg.timeouts, defaultTimeouts).answer,
		}})
	}
	for _, service := range services {
		g.RegisterService(ic.guard(service.desc), service.impl)
		s.health.SetServingStatus(service.desc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	g.RegisterService(ic.guard(healthpb.Health_ServiceDesc), s.health)
	reflection.Register(g) // v1 and v1alpha
	if err := ic.checkRules(g.GetServiceInfo()); err != nil {
		drain()
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
	return nil // Shutdown was called before Serve
}

// SetCallLimits replaces the limits for future calls. The limits on streams and on calls
// that manage integrations are fixed.
func (s *Server) SetCallLimits(l admission.Limits) { s.calls.SetLimits(l, time.Now()) }

// Drain makes the health service report NOT_SERVING, so that load balancers and clients
// use other replicas, and ends the streams of WatchService. The Server still serves calls
// until Shutdown.
func (s *Server) Drain() {
	s.health.Shutdown()
	s.drain()
}

// Shutdown tells clients to reconnect elsewhere, lets active calls finish until ctx ends,
// and then closes the remaining connections.
func (s *Server) Shutdown(ctx context.Context) {
	s.Drain()
	s.greetings.close()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	// The watchers of the health service have received the change by now.
	notified := time.NewTimer(watcherTime)
	defer notified.Stop()
	select {
	case <-done:
		s.endStreams()
		return
	case <-notified.C:
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
