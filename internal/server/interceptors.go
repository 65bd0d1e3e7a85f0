package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// rule determines which peers may call a method at all. The policy decides which secrets
// a caller may read.
type rule uint8

const (
	// refused is the zero rule: a method without a rule cannot be called.
	refused rule = iota
	// anyPeer admits every peer whose certificate a client CA has signed.
	anyPeer
	// identified admits peers that have a Principal.
	identified
)

// rules has a row for every method that the broker serves. A new method needs a new row;
// until it has one, New fails, and so does the authorization matrix test.
var rules = map[string]rule{
	"/secretbroker.v1.ResolverService/Resolve": identified,
	"/secretbroker.v1.ResolverService/Check":   identified,
	"/secretbroker.v1.PolicyService/Explain":   identified,
	"/secretbroker.v1.WatchService/Watch":      identified,
	"/secretbroker.v1.WatchService/Refresh":    identified,
	// A caller needs a role on an integration to manage it or to ask about it. Package
	// manage checks that.
	"/secretbroker.v1.IntegrationService/CreateIntegration":   identified,
	"/secretbroker.v1.IntegrationService/GetIntegration":      identified,
	"/secretbroker.v1.IntegrationService/ListIntegrations":    identified,
	"/secretbroker.v1.IntegrationService/UpdateIntegration":   identified,
	"/secretbroker.v1.IntegrationService/DeleteIntegration":   identified,
	"/secretbroker.v1.IntegrationService/ValidateIntegration": identified,
	"/secretbroker.v1.IntegrationService/GrantUse":            identified,
	"/secretbroker.v1.IntegrationService/RevokeUse":           identified,
	"/secretbroker.v1.IntegrationService/ListUsage":           identified,
	// Only roles for all integrations permit these.
	"/secretbroker.v1.DenialService/CreateDenial": identified,
	"/secretbroker.v1.DenialService/ListDenials":  identified,
	"/secretbroker.v1.DenialService/DeleteDenial": identified,
	// It tells a caller about its own certificate, also why that identifies no principal.
	"/secretbroker.v1.PolicyService/WhoAmI":                     anyPeer,
	"/grpc.health.v1.Health/Check":                              anyPeer,
	"/grpc.health.v1.Health/List":                               anyPeer,
	"/grpc.health.v1.Health/Watch":                              anyPeer,
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": anyPeer,
	// ghz and older tools still use v1alpha.
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": anyPeer,
}

// refusalsPerSecond and refusalBurst limit the log lines about refused calls.
const (
	refusalsPerSecond = 10
	refusalBurst      = 100
)

// interceptor is the chain around every call: identity, request id, admission, deadline,
// metrics, tracing, and recovery from panics.
//
// A unary call passes it before its request is decoded. Decoding is the largest cost of a
// refused call, and a request may be as large as 1 MiB: if the broker decoded first, a
// caller over its limits could still use all CPU time. So gRPC's usual unary interceptor,
// which runs after decoding, is not used, see guard.
//
//  1. handle identifies the caller from the connection.
//  2. admit applies the limits and the rule of the method.
//  3. If the connection has an incomplete request, the limits are checked twice, see wait:
//     a caller that sends requests slowly must not use the capacity of others.
//  4. The request is decoded. A large request waits for a CPU slot before that, see
//     callTurn; a management call waits for one afterwards.
//  5. The service's handler runs. It waits for a slot if it turns out that the call needs
//     much CPU time, see resolve.Turn.
type interceptor struct {
	log     *slog.Logger
	metrics *callMetrics
	rules   map[string]rule
	// closing ends at shutdown, after the health service has notified its watchers.
	closing context.Context
	// calls, management, watches, rotations and reflection admit calls independently of each other:
	// calls that manage integrations or ask about policies use no capacity of Resolve and
	// the other way round, and long-lived streams use no capacity of either.
	calls, management, watches, rotations, reflection *limiter
	// heavy gives slots to Resolve and Check calls that need much CPU time, and turns to
	// the calls of methods with takesTurn.
	heavy, turns *admission.Queue
	refusals     *refusalLog
	// watchMemory limits the memory of the streams of WatchService.
	watchMemory *budget.Budget
	tracer      *tracing.Tracer // nil if no call is traced
}

// managementLimits limit the calls that manage integrations or ask about policies. People
// and pipelines make them, some for every integration in turn, and no connector depends on
// them. A call that reads or changes integrations also waits for a slot: parsing a large
// integration takes CPU time that Resolve needs.
var managementLimits = admission.Limits{PerSecond: 50, PerCaller: 8, Total: 128}

// reflectionLimits limit the streams of reflection, which people's tools use, and the
// calls of methods that the broker does not have.
var reflectionLimits = admission.Limits{PerSecond: 50, PerCaller: 8, Total: 256}

// watchLimits limit the streams of the health service. A client that checks the health of
// each connection, as package client does, has one stream on each, and all processes with
// the same identity are one principal.
func watchLimits(connections int) admission.Limits {
	return admission.Limits{PerSecond: 1000, PerCaller: connections, Total: 16_384}
}

// checkRules returns an error if a method has no rule, or a streaming method has a rule
// that the stream interceptor cannot enforce.
func (ic *interceptor) checkRules(services map[string]grpc.ServiceInfo) error {
	for service, info := range services {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			if ic.rules[full] == refused {
				return fmt.Errorf("server: %s has no rule that determines who may call it", full)
			}
		}
	}
	return nil
}

// guard returns the service desc with its unary methods wrapped in the interceptor chain,
// which runs before the requests are decoded.
func (ic *interceptor) guard(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		name := "/" + desc.ServiceName + "/" + m.MethodName
		g := &guarded{ic: ic, name: name, rule: ic.rules[name], limiter: ic.limiterOf(desc.ServiceName), turns: ic.heavy, metrics: ic.metrics.of(name), next: m.Handler}
		if g.inTurn = takesTurn(desc.ServiceName, m.MethodName); g.inTurn {
			g.turns = ic.turns
		}
		methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: g.handle}
	}
	desc.Methods = methods
	return &desc
}

// guarded is a unary method wrapped in the interceptor chain.
type guarded struct {
	ic      *interceptor
	name    string // "/SERVICE/METHOD"
	rule    rule
	limiter *limiter
	turns   *admission.Queue
	inTurn  bool // calls wait for a slot before they run
	metrics *methodMetrics
	next    grpc.MethodHandler // decodes the request and calls the service
}

func (g *guarded) handle(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (resp any, err error) { //nolint:revive // gRPC wants ctx second
	start := time.Now()
	cc := newCallContext(ctx, call{requestID: newRequestID()}, start)
	defer cc.end()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, g.ic.panicked(ctx, g.name, &cc.call, p)
		}
		g.metrics.observe(status.Code(err), time.Since(start))
		endTrace(cc.call.trace, err)
	}()
	var id peerIdentity
	if cc.call.who, err = identityOf(ctx, &id); err != nil {
		return nil, g.ic.refuse(ctx, g.name, &cc.call, err)
	}
	cc.turn.queue, cc.turn.caller, cc.turn.over = g.turns, string(id.principal), g.limiter.over[admission.CPU]
	cc.call.who.Turn = &cc.turn
	defer cc.turn.Leave()
	if id.conn != nil {
		if !g.inTurn {
			cc.turn.account = id.conn.traffic.account
		}
		id.conn.traffic.work(cc)
		defer id.conn.traffic.worked(cc, &resp, &err)
		if g.limiter != g.ic.calls {
			id.conn.traffic.apart.Add(1)
			defer id.conn.traffic.apart.Add(-1)
		}
	}
	if ctx.Err() != nil {
		return nil, errCallOver
	}
	if id.conn != nil && id.conn.traffic.incomplete.Load() > 0 {
		return g.wait(srv, cc, decode)
	}
	if err := g.ic.admit(&id, g.limiter, g.rule, start); err != nil {
		return nil, g.ic.refuse(ctx, g.name, &cc.call, err)
	}
	defer g.limiter.Release(string(id.principal))
	if !g.inTurn && id.conn != nil && id.conn.traffic.large.Load() {
		if err := cc.turn.Take(cc); err != nil {
			return nil, g.ic.refuse(ctx, g.name, &cc.call, err)
		}
	}
	return g.answer(srv, cc, decode, start)
}

// wait handles a call on a connection that has an incomplete request, which may be the
// call's own. It checks the limits without counting the call, then decodes, which waits for
// the request, and admits the call when the request is complete.
func (g *guarded) wait(srv any, cc *callContext, decode func(any) error) (any, error) {
	ctx := cc.Context
	var id peerIdentity // a second one, so that handle's stays on the stack
	if _, err := identityOf(ctx, &id); err != nil {
		return nil, g.ic.refuse(ctx, g.name, &cc.call, err)
	}
	if err := g.ic.check(&id, g.limiter, g.rule, time.Now()); err != nil {
		return nil, g.ic.refuse(ctx, g.name, &cc.call, err)
	}
	entered := false
	defer func() {
		if entered {
			g.limiter.Release(string(id.principal))
		}
	}()
	return g.answer(srv, cc, func(req any) error {
		if err := decode(req); err != nil {
			return err
		}
		if err := g.ic.admit(&id, g.limiter, g.rule, time.Now()); err != nil {
			return g.ic.refuse(ctx, g.name, &cc.call, err)
		}
		entered = true
		return nil
	}, time.Now())
}

// answer decodes the request and calls the service.
func (g *guarded) answer(srv any, cc *callContext, decode func(any) error, start time.Time) (any, error) {
	cc.call.trace = g.trace(cc.Context, &cc.call, start)
	decode = g.known(cc, decode)
	if g.inTurn {
		decode = g.takeTurn(cc, decode)
	}
	return g.next(srv, cc, decode, nil)
}

// known decodes a request and refuses it if it has a field that the broker must not
// ignore.
func (g *guarded) known(cc *callContext, decode func(any) error) func(any) error {
	return func(req any) error {
		if err := decode(req); err != nil {
			return err
		}
		if err := checkKnown(req); err != nil {
			return g.ic.refuse(cc.Context, g.name, &cc.call, err)
		}
		return nil
	}
}

// takeTurn returns a decode function that waits for a slot after decoding, so that a request
// that arrives slowly occupies no slot.
func (g *guarded) takeTurn(cc *callContext, decode func(any) error) func(any) error {
	ctx := cc.Context
	return func(req any) error {
		if err := decode(req); err != nil {
			return err
		}
		err := cc.turn.Take(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return status.FromContextError(ctx.Err()).Err()
		}
		return g.ic.refuse(ctx, g.name, &cc.call, err)
	}
}

// refuse logs a call that was not admitted and returns its status.
func (ic *interceptor) refuse(ctx context.Context, method string, c *call, err error) error {
	ic.refusals.write(ctx, ic.log, method, c, err)
	if errors.Is(err, errNoSuchMethod) {
		return err
	}
	return statusOf(err, c.requestID).Err()
}

// refusalLog logs refused calls, as long as they are not so many that they would fill the
// log; secretbroker_grpc_calls_total counts all of them.
type refusalLog struct {
	limiter    *rate.Limiter
	suppressed atomic.Int64
}

func newRefusalLog() *refusalLog {
	return &refusalLog{limiter: rate.NewLimiter(refusalsPerSecond, refusalBurst)}
}

func (r *refusalLog) write(ctx context.Context, log *slog.Logger, method string, c *call, err error) {
	more, ok := r.next()
	if !ok {
		return
	}
	log.WarnContext(ctx, "call refused", "method", method, "request_id", c.requestID, "principal", string(c.who.Principal),
		"peer", c.who.PeerAddress, "error", err, "more_since_last", more)
}

// next reports whether another line may be logged, and how many were suppressed since the
// previous one.
func (r *refusalLog) next() (suppressed int64, ok bool) {
	if !r.limiter.Allow() {
		r.suppressed.Add(1)
		return 0, false
	}
	return r.suppressed.Swap(0), true
}

// panicked returns the status of a call whose handler panicked. It does not log the value
// of the panic, which may contain a secret.
func (ic *interceptor) panicked(ctx context.Context, method string, c *call, p any) error {
	ic.log.ErrorContext(ctx, "panic in a call", "method", method, "request_id", c.requestID,
		"panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return statusOf(errors.New("panic"), c.requestID).Err()
}
