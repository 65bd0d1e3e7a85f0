package client

import (
	"context"
	"net"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/ringhash"   // ring_hash_experimental
	_ "google.golang.org/grpc/balancer/roundrobin" // round_robin
	_ "google.golang.org/grpc/health"              // healthCheckConfig
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Balance determines how calls are distributed over a broker's replicas.
type Balance string

const (
	// BalanceNone sends all calls to one replica, the first that answers, until its
	// connection ends.
	BalanceNone Balance = ""
	// BalanceRoundRobin sends each call to the next replica. The load is even, but every
	// replica reads every secret.
	BalanceRoundRobin Balance = "round_robin"
	// BalanceIntegration sends the calls of one integration to one replica, and to another
	// while that one is unavailable: only one replica reads each secret. The load is even
	// if there are many integrations. A Watch of one integration goes to that replica too.
	// One of several integrations goes to any replica, which then reads the watched secrets
	// as well; FetchTime in the notices keeps the order, see Notice.
	BalanceIntegration Balance = "integration"
)

// integrationHeader contains the integration of a call, for load balancers. The broker
// ignores it.
const integrationHeader = "x-secretbroker-integration"

// The service configurations of gRPC by Balance. The health check makes clients leave a
// replica that is about to stop, before it refuses calls.
var serviceConfigs = map[Balance]string{
	BalanceNone: "",
	BalanceRoundRobin: `{"loadBalancingConfig":[{"round_robin":{}}],
		"healthCheckConfig":{"serviceName":""}}`,
	BalanceIntegration: `{"loadBalancingConfig":[{"ring_hash_experimental":{"requestHashHeader":"` + integrationHeader + `"}}],
		"healthCheckConfig":{"serviceName":""}}`,
}

// balanceOptions returns the dial options that distribute calls.
func (cfg *Config) balanceOptions() []grpc.DialOption {
	text := serviceConfigs[cfg.Balance]
	if text == "" {
		return nil
	}
	return []grpc.DialOption{grpc.WithDefaultServiceConfig(text)}
}

// target returns the target for grpc.NewClient, and the options that belong to it.
func (cfg *Config) target() (string, []grpc.DialOption) {
	if len(cfg.Addrs) == 1 {
		return "dns:///" + cfg.Addrs[0], nil
	}
	state := resolver.State{}
	for _, addr := range cfg.Addrs {
		host, _, _ := net.SplitHostPort(addr) // validate has checked it
		// Each replica must prove its own name, unless ServerName is set.
		a := resolver.Address{Addr: addr, ServerName: host}
		if cfg.ServerName != "" {
			a.ServerName = cfg.ServerName
		}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{a}})
	}
	replicas := manual.NewBuilderWithScheme("replicas")
	replicas.InitialState(state)
	// The endpoint names the channel. The state contains the addresses to connect to.
	return "replicas:///" + cfg.Addrs[0], []grpc.DialOption{grpc.WithResolvers(replicas)}
}

// balanced adds the header with the integration of a call to ctx.
func (c *Client) balanced(ctx context.Context, in any) context.Context {
	if c.balance != BalanceIntegration {
		return ctx
	}
	id := ""
	switch in := in.(type) {
	case interface{ GetIntegrationId() string }:
		id = in.GetIntegrationId()
	case *secretbrokerv1.WatchRequest:
		id = onlyIntegration(in.GetSets())
	}
	if id == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, integrationHeader, id)
}

// onlyIntegration returns the integration of all sets, "" if they have several.
func onlyIntegration(sets []*secretbrokerv1.WatchSet) string {
	for _, set := range sets {
		if set.GetIntegrationId() != sets[0].GetIntegrationId() {
			return ""
		}
	}
	if len(sets) == 0 {
		return ""
	}
	return sets[0].GetIntegrationId()
}
