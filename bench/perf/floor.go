package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// floor is a gRPC server that does nothing but answer.
func floor(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("perf floor", flag.ExitOnError)
	cert := flags.String("cert", "", "the server's certificate")
	key := flags.String("key", "", "its key")
	clientCA := flags.String("client-ca", "", "the clients' authority")
	tuned := flags.Bool("tuned", false, "use the broker's gRPC settings and codec")
	_ = flags.Parse(args) // ends the process

	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(*clientCA)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(data)
	options := []grpc.ServerOption{grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}))}
	if *tuned {
		options = append(options, tuning()...)
	}
	server := grpc.NewServer(options...)
	secretbrokerv1.RegisterResolverServiceServer(server, &nothing{answer: answer()})

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	adminListener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	admin := &http.Server{Handler: promhttp.Handler(), ReadHeaderTimeout: time.Second}
	go func() { _ = admin.Serve(adminListener) }() // until Close
	defer admin.Close()
	context.AfterFunc(ctx, server.Stop)
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("ready", "listen", listener.Addr().String(), "admin_listen", adminListener.Addr().String())
	return server.Serve(listener)
}

// nothing answers every call alike.
type nothing struct {
	secretbrokerv1.UnimplementedResolverServiceServer
	answer *secretbrokerv1.ResolveResponse
}

func (n *nothing) Resolve(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	return n.answer, nil
}

// answer has the shape of the broker's to the load's request.
func answer() *secretbrokerv1.ResolveResponse {
	config := func(value string) *secretbrokerv1.ResolvedConfig {
		now := time.Now()
		return &secretbrokerv1.ResolvedConfig{
			Value: value, Version: "0123456789abcdef0123456789abcdef",
			FetchTime: timestamppb.New(now), ExpireTime: timestamppb.New(now.Add(5 * time.Minute)),
		}
	}
	return &secretbrokerv1.ResolveResponse{
		RequestId: "0123456789abcdef0123456789abcdef",
		Configs: map[string]*secretbrokerv1.ResolvedConfig{
			"connection.user":     config("connect"),
			"connection.password": config("correct-horse-battery-staple"),
		},
	}
}
