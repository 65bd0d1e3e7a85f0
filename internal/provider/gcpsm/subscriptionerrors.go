package gcpsm

import (
	"context"
	"errors"
	"net/http"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// explain returns the error for a failed request to Pub/Sub.
func (s *subscription) explain(ctx context.Context, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) { // from the tokenSource
		return known
	}
	var answer *apiError
	if errors.As(err, &answer) {
		return s.explainAnswer(answer)
	}
	if errors.Is(err, storeerror.ErrClosed) {
		return storeerror.Closed()
	}
	if cut := ctx.Err(); cut != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "the request to %s did not finish in time", s.to.Host).WithCause(cut)
	}
	o := egress.OutageOf(err, advice)
	if o.Text == "" {
		return s.unexpected().WithCause(o.Cause)
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s", s.to.Host, o.Text).WithCause(o.Cause)
}

// explainAnswer returns the error for a response other than 200.
func (s *subscription) explainAnswer(a *apiError) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreUnavailable, RetryAfter: a.retryAfter, Cause: a}
	switch {
	case a.status == http.StatusTooManyRequests, a.code == "RESOURCE_EXHAUSTED", a.reason == "RATE_LIMIT_EXCEEDED":
		e.Reason = secret.ReasonStoreThrottled
		e.Message = "Pub/Sub throttles the broker; wait"
		if e.RetryAfter == 0 {
			e.RetryAfter = storeerror.DefaultRetryAfter
		}
	case a.status >= 500, a.status == http.StatusRequestTimeout:
		e.Message = s.to.Host + " is failing; wait"
	case a.status == http.StatusUnauthorized:
		e.Reason = secret.ReasonStoreAuthenticationFailed
		e.Message = s.to.Host + " refuses the access token of the identity for events; check that the service account is not disabled or deleted, and that the broker's clock is correct"
	case a.status == http.StatusForbidden:
		return s.explainForbidden(a)
	case a.status == http.StatusNotFound:
		e.Reason = secret.ReasonStoreNotFound
		e.Message = "there is no subscription " + s.to.Subscription + "; create it, or fix gcp.events.subscription"
	case a.code == "FAILED_PRECONDITION":
		e.Reason = secret.ReasonStoreNotFound
		e.Message = "messages cannot be pulled from " + s.to.Subscription + ": it is not a pull subscription, or it is detached from its topic; create a pull subscription"
	case a.code == "INVALID_ARGUMENT":
		e.Reason = secret.ReasonStoreNotFound
		e.Message = "Pub/Sub does not accept a request for " + s.to.Subscription + "; check gcp.events.subscription"
	case a.status >= 300 && a.status < 400:
		e.Message = s.to.Host + " sent a redirect, which the broker does not follow; check for a proxy or gateway between the broker and Pub/Sub"
	default:
		return s.unexpected().WithCause(a)
	}
	return e
}

func (s *subscription) explainForbidden(a *apiError) *secret.Error {
	errorf := func(r secret.Reason, format string, args ...any) *secret.Error {
		return secret.Errorf(r, format, args...).WithCause(a)
	}
	switch a.reason {
	case "SERVICE_DISABLED":
		return errorf(secret.ReasonStoreNotFound, `the Pub/Sub API is not enabled in the project of %s; enable it with "gcloud services enable pubsub.googleapis.com", or fix gcp.events.subscription`, s.to.Subscription)
	case "CONSUMER_INVALID", "USER_PROJECT_DENIED", "RESOURCE_PROJECT_INVALID":
		return errorf(secret.ReasonStoreNotFound, "there is no project of %s, or the identity for events may not use it; check gcp.events.subscription", s.to.Subscription)
	case "BILLING_DISABLED", "CONSUMER_SUSPENDED":
		return errorf(secret.ReasonStoreAccessDenied, "the project of %s is suspended or has no billing account; resolve this in Google Cloud", s.to.Subscription)
	case "SECURITY_POLICY_VIOLATED", "VPC_SERVICE_CONTROLS":
		return errorf(secret.ReasonStoreAccessDenied, "a VPC Service Controls perimeter denies the broker access to %s; add an ingress rule for the identity for events, or the broker's network", s.to.Subscription)
	case "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		return errorf(secret.ReasonStoreAccessDenied, "the access scopes of the machine that the broker runs on include neither pubsub nor cloud-platform; widen them")
	default:
		return s.denied(a)
	}
}

// denied returns the error for an identity that may not receive.
func (s *subscription) denied(cause error) *secret.Error {
	return secret.Errorf(secret.ReasonStoreAccessDenied,
		`the identity for events may not receive from %s, or there is no such subscription; give the identity the role "Pub/Sub Subscriber" (roles/pubsub.subscriber) on the subscription, or fix gcp.events.subscription`,
		s.to.Subscription).WithCause(cause)
}

func (s *subscription) unexpected() *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable,
		"the server that responds as %s sent something other than a response of Pub/Sub; check for a proxy or gateway between the broker and Pub/Sub", s.to.Host)
}
