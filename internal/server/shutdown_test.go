package server

import (
	"context"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
)

// TestShutdown: active calls finish, and the health service reports NOT_SERVING meanwhile.
func TestShutdown(t *testing.T) {
	ts := startServer(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		close(begun)
		<-finish
		return &resolve.Result{}, nil
	}
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health %v, %v", res, err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		answered <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the watcher must not use it up
	defer cancel()
	down := make(chan struct{})
	go func() { ts.Shutdown(ctx); close(down) }()
	if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health %v, %v", res, err)
	}
	close(finish)
	if err := <-answered; err != nil {
		t.Errorf("an active call failed: %v", err)
	}
	<-down
}
