package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// target is a broker process and connections to it.
type target struct {
	world  *testbed.World
	broker *testbed.Process
	req    *secretbrokerv1.ResolveRequest
	// clients has the connections of each principal.
	clients [][]secretbrokerv1.ResolverServiceClient
	closers []io.Closer
}

func startTarget(ctx context.Context, o options) (_ *target, err error) {
	t := &target{}
	defer func() {
		if err != nil {
			err = t.stop(err)
		}
	}()
	if t.world, err = testbed.NewWorld(ctx); err != nil {
		return nil, err
	}
	if o.broker == "" {
		if o.broker, err = testbed.Build(ctx, t.world.Dir(), "cmd/broker"); err != nil {
			return nil, err
		}
	}
	config, err := t.world.Config("overload.yaml", "limits: {"+o.limits+"}")
	if err != nil {
		return nil, err
	}
	t.broker, err = testbed.Start(o.pin, nil, o.broker, "serve", "--config", config, "--log-format", "json")
	if err != nil {
		return nil, err
	}
	t.req = &secretbrokerv1.ResolveRequest{IntegrationId: t.world.Env.IntegrationID, Configs: make(map[string]string)}
	for i := range o.refs {
		t.req.Configs[fmt.Sprintf("config.%d", i)] = devmode.VaultURL + "::sqlserver-db-secret::password"
	}
	return t, t.connect(o)
}

// connect makes the callers' connections.
func (t *target) connect(o options) error {
	for i := range o.principals {
		cert, err := t.world.Clients.Issue(fmt.Sprintf("/connect/overload-%d", i))
		if err != nil {
			return err
		}
		config, err := testbed.ClientTLS(t.world.Env.CAFile, cert)
		if err != nil {
			return err
		}
		var clients []secretbrokerv1.ResolverServiceClient
		for range o.connections {
			conn, err := grpc.NewClient("passthrough:///"+t.broker.Addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
			if err != nil {
				return err
			}
			t.closers = append(t.closers, conn)
			clients = append(clients, secretbrokerv1.NewResolverServiceClient(conn))
		}
		t.clients = append(t.clients, clients)
	}
	return nil
}

// warm makes every connection and fills the broker's cache.
func (t *target) warm(ctx context.Context) error {
	for _, clients := range t.clients {
		for _, c := range clients {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			_, err := c.Resolve(ctx, t.req)
			cancel()
			if err != nil && status.Code(err) != codes.ResourceExhausted { // the limits may be low
				return fmt.Errorf("a first call: %w", err)
			}
		}
	}
	return nil
}

// cpu returns the CPU time that the broker has used.
func (t *target) cpu() time.Duration { return testbed.UsageOf(t.broker.Pid()).CPU }

// stop takes everything down and returns err joined with what went wrong.
func (t *target) stop(err error) error {
	for _, c := range t.closers {
		_ = c.Close() // they are no longer needed
	}
	if t.broker != nil {
		err = errors.Join(err, t.broker.Stop())
	}
	if t.world != nil {
		err = errors.Join(err, t.world.Close())
	}
	return err
}
