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

// gate is an admission.Limiter and the counters of what it refuses.
type limiter struct {
	*admission.Limiter
	over map[admission.Limit]prometheus.Counter
}

// gateOf returns the gate before the unary methods of a service.
func (ic *interceptor) limiterOf(service string) *limiter {
	switch service {
	case secretbrokerv1.IntegrationService_ServiceDesc.ServiceName, secretbrokerv1.PolicyService_ServiceDesc.ServiceName:
		return ic.management
	default:
		return ic.calls
	}
}

// takesTurn reports whether calls of a method wait for their turn to use the CPUs
// before they run. ValidateIntegration does not: it mostly waits for stores, and the use
// case bounds how many validations run. Calls of ResolverService take theirs when they
// need it, see resolve.Turn.
func takesTurn(service, method string) bool {
	switch service {
	case secretbrokerv1.IntegrationService_ServiceDesc.ServiceName:
		return method != "ValidateIntegration"
	case secretbrokerv1.PolicyService_ServiceDesc.ServiceName:
		return true
	default:
		return false
	}
}

// fewOpen is how many open calls a principal may have for them to take no turns: so few
// delay nobody, and a call that is alone need not wait for anything.
const fewOpen = 2

// callTurn is a call's turn to use the CPUs. It is safe for concurrent use.
type callTurn struct {
	// account, if not nil, has the principal's open calls.
	account *budget.Account
	queue   *admission.Queue
	caller  string
	over    prometheus.Counter // of refusals
	held    atomic.Bool
}

// Take is resolve.Turn's.
func (t *callTurn) Take(ctx context.Context) error {
	if t.held.Load() || t.account != nil && t.account.Open.Load() <= fewOpen {
		return nil
	}
	refusal, err := t.queue.Acquire(ctx, t.caller)
	switch {
	case err != nil:
		return secret.Errorf(secret.ReasonOverloaded, "the call ended while it waited for its turn; wait, or ask another broker").WithCause(err)
	case refusal != nil:
		t.over.Inc()
		return overLimit(refusal)
	}
	t.held.Store(true)
	return nil
}

// Leave is resolve.Turn's.
func (t *callTurn) Leave() {
	if t.held.Swap(false) {
		t.queue.Release(t.caller)
	}
}

// identityOf says who calls.
func identityOf(ctx context.Context, id *peerIdentity) (resolve.Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return resolve.Caller{}, secret.Errorf(secret.ReasonUnauthenticated, "the connection has no peer")
	}
	if *id, ok = p.AuthInfo.(peerIdentity); !ok {
		return resolve.Caller{}, secret.Errorf(secret.ReasonUnauthenticated, "the connection is not mutual TLS")
	}
	who := resolve.Caller{Principal: id.principal, CertificateSerial: id.serial, PeerAddress: id.address}
	if id.conn != nil {
		who.Barrier = id.conn
	}
	return who, nil
}

// admit lets a call in, or says why not: within the limits, before anything else is
// done for it, and a method that anyone like that may call. A call that is let in has
// to leave the gate.
func (ic *interceptor) admit(id *peerIdentity, at *limiter, required rule, now time.Time) error {
	// Peers without an identity count as one caller.
	if over := at.Acquire(string(id.principal), ic.openCalls(id, at), now); over != nil {
		at.over[over.Limit].Inc()
		return overLimit(over)
	}
	if err := ic.mayCall(id, required, now); err != nil {
		at.Release(string(id.principal))
		return err
	}
	return nil
}

// look says why admit would refuse a call, nil if it would not.
func (ic *interceptor) check(id *peerIdentity, at *limiter, required rule, now time.Time) error {
	if over := at.Check(string(id.principal), ic.openCalls(id, at), now); over != nil {
		at.over[over.Limit].Inc()
		return overLimit(over)
	}
	if id.conn != nil && !id.conn.traffic.hasRoom() {
		at.over[admission.Memory].Inc()
		return overLimit(&admission.Refusal{Limit: admission.Memory})
	}
	return ic.mayCall(id, required, now)
}

// openCalls is how many calls of the principal are open, with those whose requests
// are not complete and whose answers have not been taken; streams are none. Calls that
// are counted apart go by how many have entered.
func (ic *interceptor) openCalls(id *peerIdentity, at *limiter) int {
	if id.conn == nil || at != ic.calls {
		return 0
	}
	return int(id.conn.traffic.account.Open.Load())
}

// mayCall returns nil if anyone like id may call a method of that rule, as far as that can be
// told without the request.
func (ic *interceptor) mayCall(id *peerIdentity, required rule, now time.Time) error {
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
	default: // identified
		return nil
	}
}

// errNoSuchMethod is the answer to methods without a rule, served or not. Tools
// rely on the code to try another version of reflection.
var errNoSuchMethod = status.Error(codes.Unimplemented, "no such method; the broker serves secretbroker.v1.ResolverService")

// errCallOver is the answer to a call that its caller has given up.
var errCallOver = status.Error(codes.Canceled, "the caller has given the call up")

// overLimit is what a caller is told of a limit.
func overLimit(over *admission.Refusal) error {
	text := "the broker has too many calls under way; wait, or ask another broker"
	switch over.Limit {
	case admission.PerSecond:
		text = "this caller makes more calls per second than one caller may; wait, and look for a runtime that asks in a loop"
	case admission.PerCaller:
		text = "this caller has too many calls under way; wait until some are answered"
	case admission.Memory:
		text = "this caller's requests take more of the broker's memory than one caller's may, or than is left; send fewer at the same time"
	}
	return &secret.Error{Reason: secret.ReasonOverloaded, Message: text, RetryAfter: over.RetryAfter}
}
