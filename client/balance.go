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
)

// Balance is how calls are spread over a broker's replicas.
type Balance string

const (
	// BalanceNone sends all calls to one replica, the first that answers, until
	// its connection ends.
	BalanceNone Balance = ""
	// BalanceRoundRobin sends each call to the next replica: even load, and every
	// replica reads every secret of its own.
	BalanceRoundRobin Balance = "round_robin"
	// BalanceIntegration sends the calls of one integration to one replica, another
	// one while that is away: each secret is read by one replica. The load is as
	// even as the integrations are many.
	BalanceIntegration Balance = "integration"
)

// integrationHeader carries the integration of a call for a load balancer. The
// broker itself does not look at it.
const integrationHeader = "x-secretbroker-integration"

// The configurations of gRPC by Balance. With the health check a replica that is
// about to stop is left before it refuses.
var serviceConfigs = map[Balance]string{
	BalanceNone: "",
	BalanceRoundRobin: `{"loadBalancingConfig":[{"round_robin":{}}],
		"healthCheckConfig":{"serviceName":""}}`,
	BalanceIntegration: `{"loadBalancingConfig":[{"ring_hash_experimental":{"requestHashHeader":"` + integrationHeader + `"}}],
		"healthCheckConfig":{"serviceName":""}}`,
}

// balanceOptions are the dial options for spreading calls.
func (cfg *Config) balanceOptions() []grpc.DialOption {
	text := serviceConfigs[cfg.Balance]
	if text == "" {
		return nil
	}
	return []grpc.DialOption{grpc.WithDefaultServiceConfig(text)}
}

// target is what to give to grpc.NewClient, and the options that go with it.
func (cfg *Config) target() (string, []grpc.DialOption) {
	if len(cfg.Addrs) == 0 {
		return "dns:///" + cfg.Addr, nil
	}
	all := cfg.addrs()
	state := resolver.State{}
	for _, addr := range all {
		host, _, _ := net.SplitHostPort(addr) // validate has seen to it
		// Each replica has to prove its own name, unless ServerName says another.
		a := resolver.Address{Addr: addr, ServerName: host}
		if cfg.ServerName != "" {
			a.ServerName = cfg.ServerName
		}
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{a}})
	}
	replicas := manual.NewBuilderWithScheme("replicas")
	replicas.InitialState(state)
	// The endpoint names the channel; the state has the addresses to connect to.
	return "replicas:///" + all[0], []grpc.DialOption{grpc.WithResolvers(replicas)}
}

// addrs are all addresses that the broker is said to have.
func (cfg *Config) addrs() []string {
	if cfg.Addr == "" {
		return cfg.Addrs
	}
	return append([]string{cfg.Addr}, cfg.Addrs...)
}

// balanced tells a load balancer which integration a call is about.
func (c *Client) balanced(ctx context.Context, in any) context.Context {
	of, ok := in.(interface{ GetIntegrationId() string })
	if c.balance != BalanceIntegration || !ok || of.GetIntegrationId() == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, integrationHeader, of.GetIntegrationId())
}
