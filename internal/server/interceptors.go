package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
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
	// auditor admits the principals that may have decisions explained, about all
	// integrations or about the one that the request names.
	auditor
)

// rules has a row for every method that the broker serves. New adds a method by
// adding a row; the authorization matrix test fails until it does.
var rules = map[string]rule{
	"/secretbroker.v1.ResolverService/Resolve": identified,
	"/secretbroker.v1.ResolverService/Check":   identified,
	"/secretbroker.v1.PolicyService/Explain":   auditor,
	// What a principal may do with which integration takes a role on that very
	// integration, which the use case decides.
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
	// mayExplain is Config's.
	mayExplain func(who authz.Principal, integration string) bool
	// calls, management and streams let calls in, each without regard to the others:
	// calls that manage integrations or ask about policies take no Resolve's place, nor
	// the other way round, and neither do streams, which last.
	calls, management, streams *gate
	refusals                   *refusalLog
	tracer                     *tracing.Tracer // nil if no call is traced
}

// managementLimits bound the calls that manage integrations or ask about policies.
// People and pipelines make them, some of them work through every integration, and
// none is on a connector's way.
var managementLimits = admission.Limits{PerSecond: 50, PerCaller: 8, Total: 128}

// gate is an admission.Gate and the counters of what it refuses.
type gate struct {
	*admission.Gate
	over map[admission.Limit]prometheus.Counter
}

// gateOf returns the gate before the unary methods of a service.
func (ic *interceptor) gateOf(service string) *gate {
	switch service {
	case secretbrokerv1.IntegrationService_ServiceDesc.ServiceName, secretbrokerv1.PolicyService_ServiceDesc.ServiceName:
		return ic.management
	default:
		return ic.calls
	}
}

// checkRules returns an error if there is a method that has no rule, or one that
// cannot be held.
func (ic *interceptor) checkRules(services map[string]grpc.ServiceInfo) error {
	for service, info := range services {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			if ic.rules[full] == refused {
				return fmt.Errorf("server: no rule says who may call %s", full)
			}
			if m.IsServerStream && ic.rules[full] == auditor { // nothing looks into its requests
				return fmt.Errorf("server: the streaming method %s cannot be for auditors", full)
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
		g := &guarded{ic: ic, name: name, rule: ic.rules[name], gate: ic.gateOf(desc.ServiceName), metrics: ic.metrics.of(name), next: m.Handler}
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
	gate    *gate
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
	cc.call.who, err = g.ic.admit(ctx, g.gate, g.rule, start)
	if err != nil {
		return nil, g.ic.refuse(ctx, g.name, &cc.call, err)
	}
	defer g.gate.Leave(string(cc.call.who.Principal))
	cc.call.trace = g.trace(ctx, &cc.call, start)
	if g.rule == auditor {
		decode = g.forAuditors(ctx, &cc.call, decode)
	}
	return g.next(srv, cc, decode, nil)
}

// forAuditors decodes a request and refuses it unless the caller may ask that: which
// integration it asks about stands in it.
func (g *guarded) forAuditors(ctx context.Context, c *call, decode func(any) error) func(any) error {
	return func(req any) error {
		if err := decode(req); err != nil {
			return err
		}
		if g.ic.mayExplain(c.who.Principal, integrationOf(req)) {
			return nil
		}
		return g.ic.refuse(ctx, g.name, c, secret.Errorf(secret.ReasonAccessDenied,
			"only auditors may ask this; the broker's operator names them under roles.auditor, and an integration's owner those who may ask about it alone"))
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
	c.who, err = ic.admit(ss.Context(), ic.streams, ic.rules[info.FullMethod], start)
	if err != nil {
		return ic.refuse(ss.Context(), info.FullMethod, c, err)
	}
	defer ic.streams.Leave(string(c.who.Principal))
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

// admit says who calls, and whether the call is let in: within the limits, before
// anything else is done for it, and a method that anyone like that may call. A
// call that is let in has to leave the gate.
func (ic *interceptor) admit(ctx context.Context, at *gate, required rule, now time.Time) (resolve.Caller, error) {
	var who resolve.Caller
	p, ok := peer.FromContext(ctx)
	if !ok {
		return who, secret.Errorf(secret.ReasonUnauthenticated, "the connection has no peer")
	}
	id, ok := p.AuthInfo.(peerIdentity)
	if !ok {
		return who, secret.Errorf(secret.ReasonUnauthenticated, "the connection is not mutual TLS")
	}
	who = resolve.Caller{Principal: id.principal, CertificateSerial: id.serial, PeerAddress: id.address, Outlet: id.outlet}
	// Peers without an identity count as one caller.
	if over := at.Enter(string(id.principal), now); over != nil {
		at.over[over.Limit].Inc()
		return who, overLimit(over)
	}
	if err := ic.mayCall(id, required, now); err != nil {
		at.Leave(string(id.principal))
		return who, err
	}
	return who, nil
}

// mayCall returns nil if anyone like id may call a method of that rule, as far as that can be
// told without the request.
func (ic *interceptor) mayCall(id peerIdentity, required rule, now time.Time) error {
	switch {
	case required == refused:
		return errNoSuchMethod
	case id.excess:
		return secret.Errorf(secret.ReasonOverloaded, "this caller has too many connections open; use fewer, every one carries many calls")
	case now.After(id.notAfter):
		return secret.Errorf(secret.ReasonUnauthenticated, "the client certificate has expired since the connection was made; renew it and connect anew")
	case required == anyPeer:
		return nil
	case id.principal == "":
		return secret.Errorf(secret.ReasonUnauthenticated, "%s", id.problem)
	default: // identified; of an auditor the request tells more, see forAuditors
		return nil
	}
}

// integrationOf is the integration that a request names, "" if it names none.
func integrationOf(req any) string {
	if named, ok := req.(interface{ GetIntegrationId() string }); ok {
		return named.GetIntegrationId()
	}
	return ""
}

// errNoSuchMethod is the answer to methods without a rule, served or not. Tools
// rely on the code to try another version of reflection.
var errNoSuchMethod = status.Error(codes.Unimplemented, "no such method; the broker serves secretbroker.v1.ResolverService")

// overLimit is what a caller is told of a limit.
func overLimit(over *admission.Refusal) error {
	text := "the broker has too many calls under way; wait, or ask another broker"
	switch over.Limit {
	case admission.PerSecond:
		text = "this caller makes more calls per second than one caller may; wait, and look for a runtime that asks in a loop"
	case admission.PerCaller:
		text = "this caller has too many calls under way; wait until some are answered"
	}
	return &secret.Error{Reason: secret.ReasonOverloaded, Message: text, RetryAfter: over.RetryAfter}
}

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
