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
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/certfile"
)

// Limits of the public listener. gRPC's own defaults are mostly "unlimited".
const (
	maxHeaderListSize = 16 << 10 // bytes
	handshakeTimeout  = 10 * time.Second
	maxConnectionIdle = 30 * time.Minute
	// maxConnectionAge makes clients come back now and then, so that they spread
	// over replicas and show a current certificate.
	maxConnectionAge      = 30 * time.Minute
	maxConnectionAgeGrace = time.Minute
	minClientPing         = 10 * time.Second
	serverPing            = time.Minute
	serverPingTimeout     = 20 * time.Second
	// watcherTime is how long streams last into a shutdown.
	watcherTime = 100 * time.Millisecond
)

// Config is what a Server is made of. All fields are required but Limits.
type Config struct {
	Resolver  Resolver
	Explainer Explainer
	// IsAuditor says whether a principal is one of the auditors.
	IsAuditor func(authz.Principal) bool
	TLS       *tls.Config // as made by LoadTLS
	Logger    *slog.Logger
	Metrics   prometheus.Registerer
	// Limits bound the callers; zero ones take their defaults.
	Limits Limits
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
}

func (l Limits) withDefaults() Limits {
	return Limits{
		MaxRequestBytes:            cmp.Or(l.MaxRequestBytes, 1<<20),
		MaxStreamsPerConnection:    cmp.Or(l.MaxStreamsPerConnection, 256),
		MaxConnectionsPerPrincipal: cmp.Or(l.MaxConnectionsPerPrincipal, 256),
	}
}

// Server is the gRPC listener.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
	// endStreams ends the streaming calls.
	endStreams context.CancelFunc
	handshakes prometheus.Counter // that failed
}

// New makes a Server with every service registered. It refuses a TLS
// configuration that would let anyone in without a verified certificate.
func New(cfg Config) (*Server, error) {
	if cfg.TLS == nil || cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert || cfg.TLS.ClientCAs == nil || cfg.TLS.MinVersion < tls.VersionTLS13 {
		return nil, errors.New("server: the TLS configuration does not require TLS 1.3 and a verified client certificate")
	}
	limits := cfg.Limits.withDefaults()
	closing, endStreams := context.WithCancel(context.Background())
	ic := &interceptor{log: cfg.Logger, metrics: newCallMetrics(cfg.Metrics), rules: rules, closing: closing, isAuditor: cfg.IsAuditor}
	handshakes := &handshakeLog{log: cfg.Logger, total: ic.metrics.handshakes}
	g := grpc.NewServer(
		grpc.Creds(newCredentials(cfg.TLS, limits.MaxConnectionsPerPrincipal, handshakes.refused)),
		grpc.UnaryInterceptor(ic.unary),
		grpc.StreamInterceptor(ic.stream),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errNoSuchMethod }),
		grpc.MaxRecvMsgSize(limits.MaxRequestBytes),
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
	s := &Server{grpc: g, health: health.NewServer(), endStreams: endStreams, handshakes: ic.metrics.handshakes}
	secretbrokerv1.RegisterResolverServiceServer(g, &resolverService{resolver: cfg.Resolver, log: cfg.Logger})
	secretbrokerv1.RegisterPolicyServiceServer(g, &policyService{explainer: cfg.Explainer, log: cfg.Logger})
	healthpb.RegisterHealthServer(g, s.health)
	for _, service := range []string{secretbrokerv1.ResolverService_ServiceDesc.ServiceName, secretbrokerv1.PolicyService_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	}
	reflection.Register(g) // v1, and v1alpha beside it
	for service, info := range g.GetServiceInfo() {
		for _, m := range info.Methods {
			if full := "/" + service + "/" + m.Name; ic.rules[full] == refused {
				endStreams()
				return nil, fmt.Errorf("server: no rule says who may call %s", full)
			}
		}
	}
	return s, nil
}

// Serve answers calls on l until Shutdown. It owns l.
func (s *Server) Serve(l net.Listener) error {
	return s.grpc.Serve(l)
}

// Shutdown tells clients to go elsewhere, lets the calls under way finish until
// ctx ends, and then cuts off what is left.
func (s *Server) Shutdown(ctx context.Context) {
	s.health.Shutdown()
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

// LoadTLS reads the listener's certificate, key and client CAs. All three are
// required: there is no mode without client certificates.
func LoadTLS(certFile, keyFile, clientCAFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load the server certificate %s with key %s: %w", certFile, keyFile, err)
	}
	switch leaf, now := cert.Leaf, time.Now(); {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("the server certificate %s expired on %s; renew it", certFile, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("the server certificate %s is not valid before %s; check the clock", certFile, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	pem, err := os.ReadFile(clientCAFile)
	if err != nil {
		return nil, fmt.Errorf("read the client CA file: %w", err)
	}
	pool, err := certfile.Pool(pem)
	if err != nil {
		return nil, fmt.Errorf("the client CA file %s: %w", clientCAFile, err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}, nil
}
