package gcpsm

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// advice names the settings that fix some outages.
var advice = egress.Advice{CAFile: "gcp.ca_file", PrivateEndpoint: "gcp.private_endpoint or gcp.dial", Store: "endpoint of Google"}

// explainRead returns the error for a failed read of a store at host.
func explainRead(ctx context.Context, host string, ref secret.Ref, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) { // from the tokenSource
		return known
	}
	var answer *apiError
	if errors.As(err, &answer) {
		return explainAnswer(host, ref, answer)
	}
	if errors.Is(err, storeerror.ErrClosed) {
		return storeerror.Closed()
	}
	if cut := ctx.Err(); cut != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "reading from %s did not finish before the request's deadline", host).WithCause(cut)
	}
	o := egress.OutageOf(err, advice)
	if o.Text == "" {
		return unexpectedResponse(host, "not a Secret Manager response").WithCause(o.Cause)
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s", host, o.Text).WithCause(o.Cause)
}

// explainAnswer returns the error for a response other than 200.
func explainAnswer(host string, ref secret.Ref, a *apiError) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreUnavailable, RetryAfter: a.retryAfter, Cause: a}
	switch {
	case a.status == http.StatusTooManyRequests, a.code == "RESOURCE_EXHAUSTED", a.reason == "RATE_LIMIT_EXCEEDED":
		e.Reason = secret.ReasonStoreThrottled
		e.Message = "Secret Manager throttles the broker: " + ref.Store + " is out of its quota of access requests per minute; wait"
		if e.RetryAfter == 0 {
			e.RetryAfter = storeerror.DefaultRetryAfter
		}
	case a.status >= 500, a.status == http.StatusRequestTimeout:
		e.Message = host + " is failing; wait"
	case a.status == http.StatusUnauthorized:
		e.Reason = secret.ReasonStoreAuthenticationFailed
		e.Message = host + " refuses the access token of the integration's identity; check that the service account is not disabled or deleted, and that the broker's clock is correct"
	case a.status == http.StatusForbidden:
		return explainForbidden(ref, a)
	case a.status == http.StatusNotFound:
		e.Reason = secret.ReasonSecretNotFound
		e.Message = ref.Store + " has no secret with that name, the secret has no such version or alias, or it has no version yet; fix the reference"
	case a.code == "FAILED_PRECONDITION":
		return explainState(ref, a)
	case a.code == "INVALID_ARGUMENT":
		e.Reason = secret.ReasonInvalidReference
		e.Message = "Secret Manager does not accept the project, name or version in the reference; fix the reference"
	case a.status >= 300 && a.status < 400:
		e.Message = host + " sent a redirect, which the broker does not follow; check for a proxy or gateway between the broker and Secret Manager"
	default:
		return unexpectedResponse(host, "not a Secret Manager response").WithCause(a)
	}
	return e
}

const machineScopes = "the access scopes of the machine that the broker runs on do not include cloud-platform; widen them"

func explainForbidden(ref secret.Ref, a *apiError) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreAccessDenied, Cause: a}
	switch a.reason {
	case "SERVICE_DISABLED":
		e.Reason = secret.ReasonStoreNotFound
		e.Message = "the Secret Manager API is not enabled in " + ref.Store + `; enable it with "gcloud services enable secretmanager.googleapis.com", or fix the project`
	case "CONSUMER_INVALID", "USER_PROJECT_DENIED", "RESOURCE_PROJECT_INVALID":
		e.Reason = secret.ReasonStoreNotFound
		e.Message = "there is no project " + ref.Store + ", or the integration's identity may not use it; check the project"
	case "BILLING_DISABLED", "CONSUMER_SUSPENDED":
		e.Message = ref.Store + " is suspended or has no billing account; resolve this in Google Cloud"
	case "SECURITY_POLICY_VIOLATED", "VPC_SERVICE_CONTROLS":
		e.Message = "a VPC Service Controls perimeter denies the broker access to " + ref.Store + "; add an ingress rule for the integration's identity, or the broker's network"
	case "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		e.Message = machineScopes
	default:
		e.Cause = storeerror.NameDenied(a)
		e.Message = `the integration's identity may not read this secret of ` + ref.Store + `, or there is none of that name: Secret Manager does not tell which; give the identity the role "Secret Manager Secret Accessor" on the secret, or fix the reference`
	}
	return e
}

// explainState returns the error for a version that exists but cannot be accessed.
// "latest" is the newest version in any state: Secret Manager does not fall back to
// an earlier one.
func explainState(ref secret.Ref, a *apiError) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonSecretDisabled, Cause: a}
	which := "the version of the secret"
	if ref.Version == "" {
		which = "the newest version of the secret, which the broker reads,"
	}
	switch a.state {
	case "DISABLED":
		e.Message = which + " is disabled; enable it, or add a version"
	case "DESTROYED":
		e.Message = which + " is permanently destroyed; add a version"
	default:
		e.Message = which + " cannot be accessed because of its state or that of its encryption key; check both in Google Cloud"
	}
	return e
}

func unexpectedResponse(host, what string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable,
		"the server that responds as %s sent something other than the secret (%s); check for a proxy or gateway between the broker and Secret Manager", host, what)
}

// explainToken returns the error for a failed step under ctx. It uses the result of
// the step's exchange. The library's error may quote the response, so explainToken
// looks at it only if it originates in this package.
func explainToken(ctx context.Context, s step, timeout time.Duration, x exchange, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) { // an error about a file of the credential
		return known
	}
	switch cut := context.Cause(ctx); {
	case errors.Is(cut, context.DeadlineExceeded):
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s did not issue an access token within %v", s.who, timeout).WithCause(cut)
	case cut != nil:
		return storeerror.Closed()
	case !x.made:
		return secret.Errorf(secret.ReasonStoreAuthenticationFailed, "the integration's credential cannot be used to request an access token; check %s", s.setting)
	case x.err != nil:
		o := egress.OutageOf(x.err, advice)
		switch {
		case s.who == metadataEndpoint:
			o.Text = "cannot be reached; there is one only on Google Cloud: elsewhere, use another " + s.setting
		case o.Text == "":
			o.Text = "cannot be reached"
		case errors.As(x.err, new(egress.AnswerError)):
			o.Text = "sent something other than an access token; check for a proxy or gateway in between"
		}
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s", s.who, o.Text).WithCause(o.Cause)
	case x.failed != nil:
		return tokenAnswer(s, x.failed)
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s sent something other than an access token; check for a proxy or gateway in between", s.who).WithCause(errNoToken)
	}
}

// tokenAnswer returns the error for a step that got a response other than 200.
func tokenAnswer(s step, a *apiError) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreAuthenticationFailed, Cause: a}
	switch {
	case a.status == http.StatusTooManyRequests, a.status == http.StatusRequestTimeout, a.status >= 500:
		e.Reason, e.RetryAfter = secret.ReasonStoreUnavailable, a.retryAfter
		e.Message = s.who + " is failing or throttles the broker; wait"
	case a.status >= 300 && a.status < 400:
		e.Reason = secret.ReasonStoreUnavailable
		e.Message = s.who + " sent a redirect, which the broker does not follow; check for a proxy or gateway in between"
	case s.who == metadataEndpoint:
		e.Message = "the metadata server does not issue an access token to the broker; attach a service account to the machine or the Kubernetes service account"
	case a.reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		e.Message = machineScopes
	case s.who == iamEndpoint && a.reason == "SERVICE_DISABLED":
		e.Message = `the IAM Service Account Credentials API is not enabled in the project of the broker's own identity; enable it with "gcloud services enable iamcredentials.googleapis.com"`
	case s.who == iamEndpoint && a.status == http.StatusForbidden, s.who == iamEndpoint && a.status == http.StatusNotFound:
		e.Message = `the broker's own identity may not impersonate the service account, or there is none of that name; give it the role "Service Account Token Creator" on the service account, or fix ` + s.setting
	case s.who == iamEndpoint && a.status == http.StatusUnauthorized:
		e.Message = s.who + " refuses the access token of the broker's own identity; check that its service account is not disabled or deleted"
	case s.who == stsEndpoint:
		e.Message = s.who + " refuses the token of the other identity provider; check the pool's and the provider's issuer, audience and attribute condition, and that the token has not expired"
	default:
		e.Message = s.who + " refuses the integration's credential; check that the key or user still exists and is enabled, and that the broker's clock is correct: " + s.setting
	}
	if a.code != "" {
		e.Message += " (" + a.code + ")"
	}
	return e
}
