// Package server owns the wire: the gRPC services and their interceptors, mutual
// TLS and the caller's identity, the table that turns errors into statuses, and
// the admin HTTP endpoint.
//
// It decides who somebody is and whether a method may be called at all. What a
// caller may read is decided beneath it; it knows no stores and no cache.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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
)

// Limits of the public listener. gRPC's own defaults are mostly "unlimited".
const (
	maxMessageSize       = 1 << 20  // a whole connector configuration is some 10 KiB
	maxHeaderListSize    = 16 << 10 // bytes
	maxConcurrentStreams = 256      // per connection
	handshakeTimeout     = 10 * time.Second
	maxConnectionIdle    = 30 * time.Minute
	// maxConnectionAge makes clients come back now and then, so that they spread
	// over replicas and show a current certificate.
	maxConnectionAge      = 30 * time.Minute
	maxConnectionAgeGrace = time.Minute
	minClientPing         = 10 * time.Second
	serverPing            = time.Minute
	serverPingTimeout     = 20 * time.Second
)

// Config is what a Server is made of. All fields are required.
type Config struct {
	Resolver Resolver
	TLS      *tls.Config // as made by LoadTLS
	Logger   *slog.Logger
	Metrics  prometheus.Registerer
}

// Server is the gRPC listener.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a Server with every service registered. It refuses a TLS
// configuration that would let anyone in without a verified certificate.
func New(cfg Config) (*Server, error) {
	if cfg.TLS == nil || cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert || cfg.TLS.ClientCAs == nil || cfg.TLS.MinVersion < tls.VersionTLS13 {
		return nil, errors.New("server: the TLS configuration does not require TLS 1.3 and a verified client certificate")
	}
	ic := &interceptor{log: cfg.Logger, metrics: newCallMetrics(cfg.Metrics), rules: rules}
	g := grpc.NewServer(
		grpc.Creds(newCredentials(cfg.TLS)),
		grpc.UnaryInterceptor(ic.unary),
		grpc.StreamInterceptor(ic.stream),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errNoSuchMethod }),
		grpc.MaxRecvMsgSize(maxMessageSize),
		grpc.MaxHeaderListSize(maxHeaderListSize),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
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
	s := &Server{grpc: g, health: health.NewServer()}
	secretbrokerv1.RegisterResolverServiceServer(g, &resolverService{resolver: cfg.Resolver, log: cfg.Logger})
	healthpb.RegisterHealthServer(g, s.health)
	s.health.SetServingStatus(secretbrokerv1.ResolverService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	reflection.Register(g) // v1, and v1alpha beside it
	for service, info := range g.GetServiceInfo() {
		for _, m := range info.Methods {
			if full := "/" + service + "/" + m.Name; ic.rules[full] == refused {
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
	if leaf := cert.Leaf; time.Now().After(leaf.NotAfter) {
		return nil, fmt.Errorf("the server certificate %s expired on %s; renew it", certFile, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	pem, err := os.ReadFile(clientCAFile)
	if err != nil {
		return nil, fmt.Errorf("read the client CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the client CA file %s holds no PEM certificate", clientCAFile)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}, nil
}
