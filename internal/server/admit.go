package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// limiter is an admission.Limiter with the counters of its refusals.
type limiter struct {
	*admission.Limiter
	over map[admission.Limit]prometheus.Counter
	// refusals are the messages of refusals that differ from those of calls.
	refusals map[admission.Limit]string
}

// refusal returns the error for what the limiter refused.
func (l *limiter) refusal(over *admission.Refusal) error {
	l.over[over.Limit].Inc()
	if text := l.refusals[over.Limit]; text != "" {
		return &secret.Error{Reason: secret.ReasonOverloaded, Message: text, RetryAfter: over.RetryAfter}
	}
	return overLimit(over)
}

// limiterOf returns the limiter of the unary methods of a service.
func (ic *interceptor) limiterOf(service string) *limiter {
	switch service {
	case secretbrokerv1.IntegrationService_ServiceDesc.ServiceName, secretbrokerv1.PolicyService_ServiceDesc.ServiceName,
		secretbrokerv1.DenialService_ServiceDesc.ServiceName:
		return ic.management
	default:
		return ic.calls
	}
}

// takesTurn reports whether calls of a method wait for a slot of interceptor.turns before
// they run. ValidateIntegration does not: it mostly waits for stores, and the use case
// limits the number of validations. Calls of ResolverService wait for a slot of
// interceptor.heavy when they need it, see resolve.Turn.
func takesTurn(service, method string) bool {
	switch service {
	case secretbrokerv1.IntegrationService_ServiceDesc.ServiceName:
		return method != "ValidateIntegration"
	case secretbrokerv1.PolicyService_ServiceDesc.ServiceName, secretbrokerv1.DenialService_ServiceDesc.ServiceName:
		return true
	default:
		return false
	}
}

// fewOpen is the number of open calls up to which the calls of a principal need no slot:
// so few calls delay no other caller, and a principal's only call should not wait.
const fewOpen = 2

// callTurn gives a call a slot of an admission.Queue. It is safe for concurrent use.
type callTurn struct {
	// account, if not nil, counts the principal's open calls.
	account *budget.Account
	queue   *admission.Queue
	caller  string
	over    prometheus.Counter // counts refusals
	held    atomic.Bool
}

// Take implements resolve.Turn.
func (t *callTurn) Take(ctx context.Context) error {
	if t.held.Load() || t.account != nil && t.account.Open.Load() <= fewOpen {
		return nil
	}
	refusal, err := t.queue.Acquire(ctx, t.caller)
	switch {
	case err != nil:
		return secret.Errorf(secret.ReasonOverloaded, "the call ended while it waited for a CPU; retry later, or call another broker").WithCause(err)
	case refusal != nil:
		t.over.Inc()
		return overLimit(refusal)
	}
	t.held.Store(true)
	return nil
}

// Leave implements resolve.Turn.
func (t *callTurn) Leave() {
	if t.held.Swap(false) {
		t.queue.Release(t.caller)
	}
}

// identityOf returns the identity of the caller, and stores the connection's in id.
func identityOf(ctx context.Context, id *peerIdentity) (resolve.Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return resolve.Caller{}, secret.Errorf(secret.ReasonUnauthenticated, "the connection has no peer")
	}
	if *id, ok = p.AuthInfo.(peerIdentity); !ok {
		return resolve.Caller{}, secret.Errorf(secret.ReasonUnauthenticated, "the connection is not mutual TLS")
	}
	who := resolve.Caller{Principal: id.principal, CertificateSHA256: id.certificate.SHA256, CertificateSerial: id.certificate.Serial, PeerAddress: id.address}
	if id.conn != nil {
		who.Barrier = id.conn
	}
	return who, nil
}

// admit admits a call or returns the error that refuses it. It checks the limits first,
// before any other work is done for the call, and then whether a peer like id may call
// the method. An admitted call must be released from the limiter.
func (ic *interceptor) admit(id *peerIdentity, at *limiter, required rule, now time.Time) error {
	// Peers without an identity count as one caller.
	if over := at.Acquire(string(id.principal), ic.openCalls(id, at), now); over != nil {
		return at.refusal(over)
	}
	if err := ic.mayCall(id, required, now); err != nil {
		at.Release(string(id.principal))
		return err
	}
	return nil
}

// check returns the error with which admit would refuse a call, nil if it would admit it.
func (ic *interceptor) check(id *peerIdentity, at *limiter, required rule, now time.Time) error {
	if over := at.Check(string(id.principal), ic.openCalls(id, at), now); over != nil {
		return at.refusal(over)
	}
	if id.conn != nil && !id.conn.traffic.hasRoom() {
		at.over[admission.Memory].Inc()
		return overLimit(&admission.Refusal{Limit: admission.Memory})
	}
	return ic.mayCall(id, required, now)
}

// openCalls returns the number of open calls of the principal, without streams. It
// includes calls whose requests are incomplete and calls whose answers the peer has not
// read yet. It returns 0 for methods that are limited separately: their limiter counts
// only admitted calls.
func (ic *interceptor) openCalls(id *peerIdentity, at *limiter) int {
	if id.conn == nil || at != ic.calls {
		return 0
	}
	return int(id.conn.traffic.account.Open.Load())
}

// mayCall returns nil if a peer like id may call a method with that rule, as far as this
// does not depend on the request.
func (ic *interceptor) mayCall(id *peerIdentity, required rule, now time.Time) error {
	switch {
	case required == refused:
		return errNoSuchMethod
	case id.denied || id.conn != nil && id.conn.deniedBy(now) != nil:
		return errDenied
	case id.excess:
		return secret.Errorf(secret.ReasonOverloaded, "this caller has too many open connections; use fewer: each carries many calls at the same time")
	case now.After(id.notAfter):
		return secret.Errorf(secret.ReasonUnauthenticated, "the client certificate has expired since the connection was made; renew it and reconnect")
	case required == anyPeer:
		return nil
	case id.principal == "":
		return secret.Errorf(secret.ReasonUnauthenticated, "%s", id.problem)
	default: // identified
		return nil
	}
}

// errDenied is the answer to every call of a denied client. It does not contain the entry,
// whose reason is for operators.
var errDenied = secret.Errorf(secret.ReasonCertificateDenied,
	"the broker's operators have denied this client certificate, or the principal that it identifies; ask them, and use a new certificate")

// errNoSuchMethod is the answer to calls of methods without a rule, whether or not they
// are registered. Tools rely on the code to try another version of reflection.
var errNoSuchMethod = status.Error(codes.Unimplemented, "no such method; the broker serves secretbroker.v1.ResolverService")

// errCallOver is the answer to a call that its caller has canceled.
var errCallOver = status.Error(codes.Canceled, "the caller canceled the call")

// overLimit returns the error for a call that a limit refused.
func overLimit(over *admission.Refusal) error {
	text := "the broker has too many active calls; retry later, or call another broker"
	switch over.Limit {
	case admission.PerSecond:
		text = "this caller exceeds the calls per second allowed to one caller; retry later, and look for a runtime that calls in a loop"
	case admission.PerCaller:
		text = "this caller has too many active calls; wait until some are answered"
	case admission.Memory:
		text = "this caller's requests need more of the broker's memory than one caller may use, or than is free; send fewer at the same time"
	}
	return &secret.Error{Reason: secret.ReasonOverloaded, Message: text, RetryAfter: over.RetryAfter}
}
