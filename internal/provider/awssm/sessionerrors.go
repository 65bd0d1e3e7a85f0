package awssm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// acquisitionError is a failure to get keys. Only explainSession may use the SDK's
// error in it.
type acquisitionError struct {
	// what names the thing that was to be acquired.
	what string
	// assuming and withToken state the method.
	assuming, withToken bool
	// answer is the fault of a response that had status 200.
	answer string
	err    error
}

func (e *acquisitionError) Error() string { return "awssm: cannot obtain keys with " + e.what }
func (e *acquisitionError) Unwrap() error { return e.err }

func clockError(what string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreAuthenticationFailed, "%s, or the broker's clock is wrong; check both", what)
}

// explainSession returns the error for a failed acquisition of the keys of id.
func explainSession(ctx context.Context, timeout time.Duration, id identity, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) {
		return known
	}
	var a *acquisitionError
	if !errors.As(err, &a) {
		a = &acquisitionError{what: "the integration's credential", err: err}
	}
	if a.answer != "" {
		return secret.Errorf(secret.ReasonStoreUnavailable, "the server that responds as STS returned no session of the role (%s); check for a proxy or gateway between the broker and AWS", a.answer).WithCause(storeerror.Answered(nil))
	}
	if f := failureOf(a.err); f != nil {
		return explainRefusal(id, a, f)
	}
	if ctx.Err() != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "timed out obtaining %s after %s; check the network path to STS", a.what, timeout).WithCause(egress.ErrTimedOut)
	}
	o := egress.OutageOf(a.err, advice)
	switch {
	case o.Text == "" && (a.assuming || a.withToken):
		return secret.Errorf(secret.ReasonStoreUnavailable, "the server that responds as STS sent something other than a session of %s; check for a proxy or gateway between the broker and AWS", a.what).WithCause(storeerror.Answered(o.Cause))
	case o.Text == "":
		return secret.Errorf(secret.ReasonStoreAuthenticationFailed, "%s provides no keys; check its source", a.what).WithCause(o.Cause)
	case a.assuming || a.withToken:
		return secret.Errorf(secret.ReasonStoreUnavailable, "cannot obtain %s: STS %s", a.what, o.Text).WithCause(o.Cause)
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "cannot obtain %s: its source %s", a.what, o.Text).WithCause(o.Cause)
	}
}

// explainRefusal returns the error for a response other than 200, from STS or from a
// source of the default credential.
func explainRefusal(id identity, a *acquisitionError, f *failure) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreAuthenticationFailed, Cause: f}
	c := f.class()
	switch {
	case c == classThrottled:
		e.Reason, e.RetryAfter = secret.ReasonStoreThrottled, max(f.retryAfter, storeerror.DefaultRetryAfter)
		e.Message = fmt.Sprintf("STS throttles the broker's requests for %s; wait", a.what)
	case c == classFailing:
		e.Reason, e.RetryAfter = secret.ReasonStoreUnavailable, f.retryAfter
		e.Message = fmt.Sprintf("the source of %s is failing (HTTP %d); wait", a.what, f.status)
	case c == classRegion:
		e.Message = "STS is not activated in the region for the account; set aws.sts_region to another one, or activate it"
	case c == classSignature:
		e.Message = fmt.Sprintf("STS refuses the signature of the request for %s; check the broker's clock, and that the secret access key belongs to the access key ID", a.what)
	case a.withToken && (c == classToken || c == classDenied || c == classKeys || c == classInvalid):
		e.Message = "STS does not issue a session of " + id.credentialAt + ".role_arn for the token in " + id.credentialAt + ".token_file; the role's trust policy must name the token's issuer, audience and subject, and the token must not have expired"
	case c == classKeys:
		e.Message = fmt.Sprintf("STS does not know the keys that sign the request for %s, or they have expired; renew %s", a.what, id.credentialAt)
	case a.assuming && c == classDenied:
		e.Message = fmt.Sprintf("STS does not let the integration's credential assume %[1]s.arn; the role's trust policy must name the credential's identity and %[1]s.external_id, allow sts:TagSession and sts:SetSourceIdentity where %[1]s has tags or a source identity, and the identity itself must be allowed sts:AssumeRole", id.roleAt)
	case a.assuming && c == classInvalid:
		e.Message = fmt.Sprintf("STS refuses the parameters of %[1]s; %[1]s.duration must not be longer than the role allows, and not longer than 1h if a role assumes it", id.roleAt)
	default:
		e.Message = fmt.Sprintf("%s is refused (HTTP %d); check %s and %s", a.what, f.status, id.credentialAt, id.roleAt)
		if f.status < 400 {
			e.Reason, e.Cause = secret.ReasonStoreUnavailable, storeerror.Answered(f)
			e.Message = fmt.Sprintf("the source of %s sent something other than credentials (HTTP %d); check for a proxy or gateway between the broker and AWS", a.what, f.status)
		}
	}
	return e
}
