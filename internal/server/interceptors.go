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
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// rule says who may call a method at all. What a caller may then read is the
// policy's business.
type rule uint8

const (
	// refused is the zero rule: a method that nobody wrote a rule for is closed.
	refused rule = iota
	// anyPeer admits every peer whose certificate the client CA has signed.
	anyPeer
	// identified admits peers that are some Principal.
	identified
)

// rules has a row for every method that the broker serves. New adds a method by
// adding a row; the authorization matrix test fails until it does.
var rules = map[string]rule{
	"/secretbroker.v1.ResolverService/Resolve": identified,
	"/secretbroker.v1.ResolverService/Check":   identified,
	"/secretbroker.v1.PolicyService/Explain":   identified,
	// What a principal may do with which integration, or ask about it, takes a role on
	// that very integration, which package manage decides.
	"/secretbroker.v1.IntegrationService/CreateIntegration":     identified,
	"/secretbroker.v1.IntegrationService/GetIntegration":        identified,
	"/secretbroker.v1.IntegrationService/ListIntegrations":      identified,
	"/secretbroker.v1.IntegrationService/UpdateIntegration":     identified,
	"/secretbroker.v1.IntegrationService/DeleteIntegration":     identified,
	"/secretbroker.v1.IntegrationService/ValidateIntegration":   identified,
	"/secretbroker.v1.IntegrationService/GrantUse":              identified,
	"/secretbroker.v1.IntegrationService/RevokeUse":             identified,
	"/secretbroker.v1.IntegrationService/ListUsage":             identified,
	"/grpc.health.v1.Health/Check":                              anyPeer,
	"/grpc.health.v1.Health/List":                               anyPeer,
	"/grpc.health.v1.Health/Watch":                              anyPeer,
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": anyPeer,
	// ghz and older tools still ask for v1alpha.
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": anyPeer,
}

// So many lines about refused calls are logged per second, and so many at once.
const (
	refusalsPerSecond = 10
	refusalBurst      = 100
)

// interceptor is the one chain around every call: request id, metrics, panics,
// admission, deadline.
type interceptor struct {
	log     *slog.Logger
	metrics *callMetrics
	rules   map[string]rule
	// closing ends at shutdown, when the health service has told its watchers.
	closing context.Context
	// calls, management and streams let calls in, each without regard to the others:
	// calls that manage integrations or ask about policies take no Resolve's place, nor
	// the other way round, and neither do streams, which last.
	calls, management, streams *limiter
	// heavy are the turns of Resolve and Check calls that need much CPU time, and turns
	// those of the calls for which takesTurn.
	heavy, turns *admission.Queue
	refusals     *refusalLog
	tracer       *tracing.Tracer // nil if no call is traced
}

// managementLimits bound the calls that manage integrations or ask about policies.
// People and pipelines make them, some of them work through every integration, and
// none is on a connector's way. One that reads or changes integrations then waits for
// its turn: parsing a large integration takes CPU time that Resolve needs.
var managementLimits = admission.Limits{PerSecond: 50, PerCaller: 8, Total: 128}

// checkRules returns an error if there is a method that has no rule, or one that
// cannot be held.
func (ic *interceptor) checkRules(services map[string]grpc.ServiceInfo) error {
	for service, info := range services {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			if ic.rules[full] == refused {
				return fmt.Errorf("server: no rule says who may call %s", full)
			}
		}
	}
	return nil
}

// guard returns a service whose unary methods pass the chain before their requests
// are even decoded, so that refusing a call costs little.
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

// guarded is one unary method behind the chain.
type guarded struct {
	ic      *interceptor
	name    string // "/SERVICE/METHOD"
	rule    rule
	limiter *limiter
	turns   *admission.Queue
	inTurn  bool // calls wait for their turn before they run
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

// wait answers a call whose request may not have come as a whole: until it has, the
// call has no place among those under way that others may need.
func (g *guarded) wait(srv any, cc *callContext, decode func(any) error) (any, error) {
	ctx := cc.Context
	var id peerIdentity // of its own, so that handle's need not be allocated
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
	if g.inTurn {
		decode = g.takeTurn(cc, decode)
	}
	return g.next(srv, cc, decode, nil)
}

// takeTurn decodes a request and then waits until the call may run, so that a request
// that comes slowly takes no slot.
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

// stream is the same for the few streaming methods (reflection, health). They
// need no deadline: they end with their connection, or at shutdown.
func (ic *interceptor) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	c := &call{requestID: newRequestID()}
	defer func() { ic.metrics.of(info.FullMethod).observe(status.Code(err), time.Since(start)) }()
	defer func() {
		if p := recover(); p != nil {
			err = ic.panicked(ss.Context(), info.FullMethod, c, p)
		}
	}()
	var id peerIdentity
	if c.who, err = identityOf(ss.Context(), &id); err != nil {
		return ic.refuse(ss.Context(), info.FullMethod, c, err)
	}
	if id.conn != nil {
		id.conn.traffic.handlers.Add(1)
		id.conn.traffic.streaming.Add(1)
		defer id.conn.traffic.handlers.Add(-1)
		defer id.conn.traffic.streaming.Add(-1)
	}
	if err := ic.admit(&id, ic.streams, ic.rules[info.FullMethod], start); err != nil {
		return ic.refuse(ss.Context(), info.FullMethod, c, err)
	}
	defer ic.streams.Release(string(c.who.Principal))
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(ic.closing, cancel)()
	return handler(srv, &endingStream{ServerStream: ss, ctx: ctx})
}

// endingStream is a stream that ends at shutdown; a client that watches the
// broker's health would otherwise hold that up.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *endingStream) Context() context.Context { return s.ctx }

// refuse makes the answer to a call that is not let in.
func (ic *interceptor) refuse(ctx context.Context, method string, c *call, err error) error {
	ic.refusals.write(ctx, ic.log, method, c, err)
	if errors.Is(err, errNoSuchMethod) {
		return err
	}
	return statusOf(err, c.requestID).Err()
}

// refusalLog tells the operator of refused calls, all of them unless there are
// so many that they would fill the log; secretbroker_grpc_calls_total counts all.
type refusalLog struct {
	pace       *rate.Limiter
	suppressed atomic.Int64
}

func newRefusalLog() *refusalLog {
	return &refusalLog{pace: rate.NewLimiter(refusalsPerSecond, refusalBurst)}
}

func (r *refusalLog) write(ctx context.Context, log *slog.Logger, method string, c *call, err error) {
	more, ok := r.next()
	if !ok {
		return
	}
	log.WarnContext(ctx, "call refused", "method", method, "request_id", c.requestID, "principal", string(c.who.Principal),
		"peer", c.who.PeerAddress, "error", err, "more_since_last", more)
}

// next reports whether one more line may be logged, and how many were not since the
// last one.
func (r *refusalLog) next() (suppressed int64, ok bool) {
	if !r.pace.Allow() {
		r.suppressed.Add(1)
		return 0, false
	}
	return r.suppressed.Swap(0), true
}

// panicked makes the answer to a call whose handler panicked. The panic's value
// is not logged: it might hold a secret.
func (ic *interceptor) panicked(ctx context.Context, method string, c *call, p any) error {
	ic.log.ErrorContext(ctx, "panic in a call", "method", method, "request_id", c.requestID,
		"panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return statusOf(errors.New("panic"), c.requestID).Err()
}
