package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// The names of the integrations that attackers use.
const (
	largeIntegration   = "large" // in one case, attackers are assigners of it
	missingIntegration = "there-is-none"
	fillerIntegration  = "filler-%03d"
	fillers            = 800
)

// dial makes a gRPC connection, or counts the failure.
func (a *attacker) dial() *grpc.ClientConn {
	config, err := a.tlsConfig(a.CAFile)
	if err == nil {
		var conn *grpc.ClientConn
		if conn, err = grpc.NewClient("passthrough:///"+a.Addr, grpc.WithTransportCredentials(credentials.NewTLS(config))); err == nil {
			return conn
		}
	}
	panic(err) // the suite wrote the files
}

// call runs do in several goroutines until ctx ends, and counts the results.
func (a *attacker) call(ctx context.Context, goroutines int, do func(ctx context.Context, conn *grpc.ClientConn) error) {
	conn := a.dial()
	defer conn.Close()
	each(goroutines, func(int) {
		for ctx.Err() == nil {
			called, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := do(called, conn)
			cancel()
			if reason := reasonOf(err); reason == "" {
				a.counts.add("answered", 1)
			} else if ctx.Err() == nil {
				a.counts.add(reason, 1)
				if reason == "Unavailable" { // the connection is down
					pause(ctx, 10*time.Millisecond)
				}
			}
		}
	})
}

// attackAudit makes calls that are refused and whose names grow in the audit log: a control
// character has six bytes there, and so has "<". Some of the calls use new integration ids.
func attackAudit(ctx context.Context, a *attacker) {
	named := func(with string) map[string]string {
		configs := make(map[string]string)
		for i := range 128 {
			configs[fmt.Sprintf("%03d", i)+strings.Repeat(with, 253)] = a.Reference
		}
		return configs
	}
	forms := []map[string]string{named("\x01"), named("<"), named("a")}
	a.call(ctx, 2, func(ctx context.Context, conn *grpc.ClientConn) error {
		n := rand.IntN(2 * len(forms))
		req := &secretbrokerv1.ResolveRequest{IntegrationId: a.Integration, Connector: strings.Repeat("<", 256), Configs: forms[n/2]}
		if n%2 == 0 {
			req.IntegrationId = fmt.Sprint("invented-", rand.Uint64())
		}
		_, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req)
		return err
	})
}

// attackUsage uses the secrets that it may read under ever new connector names.
func attackUsage(ctx context.Context, a *attacker) {
	configs := make(map[string]string)
	for i := range 64 {
		configs[fmt.Sprint("config.", i)] = fmt.Sprintf("%s%d", a.Reference, i)
	}
	a.call(ctx, 4, func(ctx context.Context, conn *grpc.ClientConn) error {
		req := &secretbrokerv1.ResolveRequest{IntegrationId: a.Integration, Connector: fmt.Sprint("invented-", rand.Uint64()), Configs: configs}
		_, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req)
		return err
	})
}

// attackQueue requests 64 secrets that do not exist in each call.
func attackQueue(ctx context.Context, a *attacker) {
	a.call(ctx, 8, func(ctx context.Context, conn *grpc.ClientConn) error {
		req := &secretbrokerv1.ResolveRequest{IntegrationId: a.Integration, Connector: "hog", Configs: make(map[string]string)}
		for i := range 64 {
			req.Configs[fmt.Sprint("config.", i)] = fmt.Sprintf("%s%d", a.Reference, rand.Uint64())
		}
		_, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req)
		return err
	})
}

// attackList lists integrations without any role.
func attackList(ctx context.Context, a *attacker) {
	a.call(ctx, 8, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		service := secretbrokerv1.NewIntegrationServiceClient(conn)
		if rand.IntN(2) == 0 {
			_, err = service.ListIntegrations(ctx, &secretbrokerv1.ListIntegrationsRequest{})
		} else {
			_, err = service.GetIntegration(ctx, &secretbrokerv1.GetIntegrationRequest{IntegrationId: fmt.Sprintf(fillerIntegration, rand.IntN(fillers))})
		}
		return err
	})
}

// attackValidate makes the broker check grants, without adding them, on a large integration
// of which the attackers are assigners.
func attackValidate(ctx context.Context, a *attacker) {
	a.call(ctx, 8, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := secretbrokerv1.NewIntegrationServiceClient(conn).GrantUse(ctx, &secretbrokerv1.GrantUseRequest{
			IntegrationId: largeIntegration, ValidateOnly: true,
			Grant: &secretbrokerv1.Grant{Principals: []string{fmt.Sprint("spiffe://example.org/invented/", rand.Uint64())}, Secrets: []string{"s-*"}},
		})
		return err
	})
}

// attackGet requests integrations that it may not see, one after the other, and reports how
// much longer the answer takes for one that exists. Only one attacker does it, so that
// attackers do not delay each other.
func attackGet(ctx context.Context, a *attacker) {
	if a.number > 0 {
		return
	}
	conn := a.dial()
	defer conn.Close()
	service := secretbrokerv1.NewIntegrationServiceClient(conn)
	took := make(map[string][]float64)
	ids := []string{missingIntegration, fmt.Sprintf(fillerIntegration, 7), largeIntegration}
	for n := 0; ctx.Err() == nil; n++ {
		rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		for _, id := range ids {
			begin := time.Now()
			_, err := service.GetIntegration(ctx, &secretbrokerv1.GetIntegrationRequest{IntegrationId: id})
			if ctx.Err() != nil {
				break
			}
			reason := reasonOf(err)
			a.counts.add(reason, 1)
			if reason != "ACCESS_DENIED" { // the time of other answers does not count
				pause(ctx, 20*time.Millisecond)
			} else if n > 5 { // after a warm-up
				took[id] = append(took[id], float64(time.Since(begin).Microseconds()))
			}
		}
	}
	for _, id := range ids {
		if slices.Sort(took[id]); len(took[id]) == 0 {
			return // the suite reports the missing figure
		}
	}
	median := func(id string) float64 { return took[id][len(took[id])/2] }
	a.counts.add("median of a missing one in us", median(missingIntegration))
	a.counts.add("existing to missing", median(fmt.Sprintf(fillerIntegration, 7))/median(missingIntegration))
	a.counts.add("large to missing", median(largeIntegration)/median(missingIntegration))
}

// attackConnects opens connections without certificates from one address and sends nothing.
// It keeps up to 1,500 connections and resets the oldest for each further one.
func attackConnects(ctx context.Context, a *attacker) {
	if a.number > 0 {
		return // the attack needs no certificates, and one process saturates a core
	}
	const most = 1500
	open := make([]interface{ Close() error }, most)
	for n := 0; ctx.Err() == nil; n++ {
		conn, err := dialFrom(ctx, "127.0.0.2", a.Addr)
		if err != nil {
			a.counts.add("connects failed", 1)
			continue
		}
		reset(conn)
		if old := open[n%most]; old != nil {
			_ = old.Close()
		}
		open[n%most] = conn
		a.counts.add("connects", 1)
	}
	for _, conn := range open {
		if conn != nil {
			_ = conn.Close()
		}
	}
}

// reset makes Close reset the connection, which leaves no port in TIME_WAIT.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// attackHandshakes makes the broker sign handshakes and disconnects.
func attackHandshakes(ctx context.Context, a *attacker) {
	config, err := a.tlsConfig(a.CAFile)
	if err != nil {
		panic(err) // the suite wrote the files
	}
	config.ServerName, config.Certificates = "localhost", nil
	for ctx.Err() == nil {
		conn, err := dialFrom(ctx, "127.0.0.2", a.Addr)
		if err != nil {
			a.counts.add("connects failed", 1)
			continue
		}
		reset(conn)
		handshake, cancel := context.WithTimeout(ctx, 5*time.Second)
		if tls.Client(conn, config).HandshakeContext(handshake) == nil { // from the client's point of view
			a.counts.add("handshakes", 1)
		} else {
			a.counts.add("handshakes failed", 1)
		}
		cancel()
		_ = conn.Close() // the attack needs only the handshake
	}
}
