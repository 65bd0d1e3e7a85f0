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
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// floor is a gRPC server that only returns constant answers.
func floor(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("perf floor", flag.ExitOnError)
	cert := flags.String("cert", "", "the server's certificate")
	key := flags.String("key", "", "its key")
	clientCA := flags.String("client-ca", "", "the clients' authority")
	tuned := flags.Bool("tuned", false, "use the broker's gRPC settings and codec")
	plain := flags.Bool("plain", false, "disable TLS")
	configs := flags.Int("configs", 2, "values in the answer")
	size := flags.Int("value-bytes", len(password), "size of the values but the first")
	_ = flags.Parse(args) // ends the process

	var options []grpc.ServerOption
	if !*plain {
		creds, err := mutualTLS(*cert, *key, *clientCA)
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(creds))
	}
	if *tuned {
		options = append(options, tuning()...)
	}
	server := grpc.NewServer(options...)
	secretbrokerv1.RegisterResolverServiceServer(server, &nothing{answer: answer(*configs, *size)})

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

func mutualTLS(cert, key, clientCA string) (credentials.TransportCredentials, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(clientCA)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(data)
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}), nil
}

// nothing returns the same answer to every call.
type nothing struct {
	secretbrokerv1.UnimplementedResolverServiceServer
	answer *secretbrokerv1.ResolveResponse
}

func (n *nothing) Resolve(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	return n.answer, nil
}

// The default values of the calls.
const (
	user     = "dbadmin"
	password = "correct-horse-battery-staple"
)

// configName returns the name of the i-th config of a call.
func configName(i int) string {
	switch i {
	case 0:
		return "connection.user"
	case 1:
		return "connection.password"
	default:
		return "connection.password" + strconv.Itoa(i)
	}
}

// answer returns an answer like the broker's to a call with so many configs.
func answer(configs, size int) *secretbrokerv1.ResolveResponse {
	resp := &secretbrokerv1.ResolveResponse{RequestId: "0123456789abcdef0123456789abcdef", Configs: make(map[string]*secretbrokerv1.ResolvedConfig)}
	value := user
	for i := range configs {
		now := time.Now()
		resp.Configs[configName(i)] = &secretbrokerv1.ResolvedConfig{
			Value: value, Version: "0123456789abcdef0123456789abcdef",
			FetchTime: timestamppb.New(now), CacheExpireTime: timestamppb.New(now.Add(5 * time.Minute)),
		}
		value = strings.Repeat("x", size)
	}
	return resp
}
