package awssm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The SDK's errors quote what the server sent. An error page may repeat the request,
// and a 200 response that cannot be decoded contains the secret. Therefore no SDK
// error becomes a cause: this package builds causes from statuses, codes and
// identifiers.

var advice = egress.Advice{CAFile: "aws.ca_file", PrivateEndpoint: "aws.private_endpoint or aws.dial", Store: "endpoint of AWS"}

// describeError is a failure of DescribeSecret.
type describeError struct{ err error }

func (e *describeError) Error() string { return "awssm: describing the secret failed" }
func (e *describeError) Unwrap() error { return e.err }

// explainGet returns the error for a read that got no keys.
func explainGet(ctx context.Context, err error) *secret.Error {
	var known *secret.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, storeerror.ErrClosed):
		return storeerror.Closed()
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "timed out obtaining the integration's credential; try again").WithCause(context.Cause(ctx))
	}
}

// explainRead returns the error for a failed read at an endpoint.
func explainRead(ctx context.Context, at *endpoint, ref secret.Ref, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) { // an error of the response's check
		return known
	}
	if f := failureOf(err); f != nil {
		return explainAnswer(at, ref, f, errors.As(err, new(*describeError)))
	}
	return explainOutage(ctx, at.service(), err)
}

// service is what a service of AWS is called in messages.
type service struct {
	// name is the service, its region and host.
	name, host string
	// expected is what a response is expected to be, such as "the secret".
	expected string
	// doing is what a request does, followed by the name: "reading from".
	doing string
	// settings are those that determine host.
	settings string
}

func (at *endpoint) service() service {
	return service{name: at.String(), host: at.host, expected: "the secret", doing: "reading from", settings: "aws.fips and aws.endpoints"}
}

// explainOutage returns the error for a request that got no usable response.
func explainOutage(ctx context.Context, at service, err error) *secret.Error {
	if cut := ctx.Err(); cut != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s did not finish before the request's deadline", at.doing, at.name).WithCause(cut)
	}
	o := egress.OutageOf(err, advice)
	text := strings.Replace(o.Text, "the secret", at.expected, 1)
	switch {
	case o.Text == "":
		return at.unexpected("not an AWS response").WithCause(storeerror.Answered(o.Cause))
	case o.MissingHost != "" && o.MissingHost == at.host:
		return secret.Errorf(secret.ReasonStoreNotFound, "there is no %s: its name does not exist in the DNS; check the region, and %s", at.name, at.settings).WithCause(o.Cause)
	case errors.As(err, new(egress.AnswerError)):
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s", at.name, text).WithCause(storeerror.Answered(o.Cause))
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s", at.name, text).WithCause(o.Cause)
	}
}

// String returns the endpoint's name in messages.
func (at *endpoint) String() string { return "Secrets Manager in " + at.region + " (" + at.host + ")" }

// explainAnswer returns the error for a response other than 200. describing means
// that it is a response to DescribeSecret.
func explainAnswer(at *endpoint, ref secret.Ref, f *failure, describing bool) *secret.Error {
	e := &secret.Error{Cause: f}
	errorf := func(r secret.Reason, format string, args ...any) *secret.Error {
		e.Reason, e.Message = r, fmt.Sprintf(format, args...)
		return e
	}
	switch f.class() { //nolint:exhaustive // the others are the same for all services
	case classNotFound:
		return errorf(secret.ReasonSecretNotFound, "%s has no secret with that name, or the secret has no such version%s; fix the reference", at, whose(ref))
	case classState:
		return errorf(secret.ReasonSecretDisabled, "the secret in %s cannot be read in its current state, usually because it is scheduled for deletion; restore it, or create another one", at)
	case classKey:
		return errorf(secret.ReasonSecretDisabled, "the secret in %s cannot be decrypted: its KMS key is disabled, scheduled for deletion or inaccessible; fix the key", at)
	case classInvalid:
		return errorf(secret.ReasonInvalidReference, "%s does not accept the name or version in the reference; fix the reference", at)
	case classDenied:
		if !f.aboutKMS && !describing {
			e.Cause = storeerror.NameDenied(f)
		}
		return errorf(secret.ReasonStoreAccessDenied, "%s", denied(at, f, describing))
	default:
		return at.service().explain(f)
	}
}

// explain returns the error for a response other than 200 that does not depend on the request.
func (at service) explain(f *failure) *secret.Error {
	e := &secret.Error{Cause: f}
	errorf := func(r secret.Reason, format string, args ...any) *secret.Error {
		e.Reason, e.Message = r, fmt.Sprintf(format, args...)
		return e
	}
	switch f.class() { //nolint:exhaustive // the others depend on the request
	case classThrottled:
		e.RetryAfter = f.retryAfter
		if e.RetryAfter == 0 {
			e.RetryAfter = storeerror.DefaultRetryAfter
		}
		return errorf(secret.ReasonStoreThrottled, "%s throttles the broker; wait", at.name)
	case classKeys:
		return errorf(secret.ReasonStoreAuthenticationFailed, "%s does not know the keys of the integration's identity, or they have expired; renew the credential, and check that the region is enabled for the account", at.name)
	case classSignature:
		return errorf(secret.ReasonStoreAuthenticationFailed, "%s refuses the request's signature; check the broker's clock, and that the secret access key belongs to the access key ID", at.name)
	case classFailing:
		e.RetryAfter = f.retryAfter
		return errorf(secret.ReasonStoreUnavailable, "%s is failing (HTTP %d); wait", at.name, f.status)
	default:
		e.Cause = storeerror.Answered(f)
		if f.status >= 300 && f.status < 400 {
			return errorf(secret.ReasonStoreUnavailable, "%s sent a redirect, which the broker does not follow; check for a proxy or gateway between the broker and AWS", at.name)
		}
		return at.unexpected(fmt.Sprintf("HTTP %d", f.status)).WithCause(storeerror.Answered(f))
	}
}

// whose returns the second half of a hint for a secret that was not found.
func whose(ref secret.Ref) string {
	if ref.Suffix != "" {
		return ", or the secret was created again and has another ARN"
	}
	return ", in the account of the integration"
}

func denied(at *endpoint, f *failure, describing bool) string {
	switch {
	case f.crossAccount:
		return fmt.Sprintf("the secret in %s belongs to another account and is encrypted with the default KMS key, which other accounts cannot use; encrypt it with a customer-managed KMS key and allow the integration's identity kms:Decrypt on it", at)
	case f.aboutKMS:
		return fmt.Sprintf("the integration's identity may not use the KMS key of the secret in %s; allow it kms:Decrypt on the key", at)
	case describing:
		return fmt.Sprintf("the integration's identity may not describe the secret in %s; allow it secretsmanager:DescribeSecret, or turn aws.rotation_dates off", at)
	default:
		return fmt.Sprintf("the integration's identity may not read the secret in %s; allow it secretsmanager:GetSecretValue on the secret's ARN, and check the policies of the secret, of the VPC endpoint and of the organization", at)
	}
}

// unexpected returns the error for a response that is not one of the service's.
func (at service) unexpected(what string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable,
		"the server that responds as %s sent something other than %s (%s); check for a proxy or gateway between the broker and AWS", at.name, at.expected, what).WithCause(storeerror.ErrAnswered)
}

// refusedKeys reports whether err means that AWS refused the keys and that other keys
// may help.
func refusedKeys(err error) bool {
	if err == nil {
		return false
	}
	f := failureOf(err)
	return f != nil && (f.class() == classKeys || f.class() == classSignature)
}

// worthRepeating reports whether an immediate second attempt is likely to succeed.
func worthRepeating(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil || errors.As(err, new(*secret.Error)) {
		return false
	}
	if f := failureOf(err); f != nil {
		return f.class() == classFailing && f.retryAfter == 0
	}
	return egress.OutageOf(err, advice).Transient
}

// isFailing reports whether status means a failure of AWS itself.
func isFailing(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusRequestTimeout
}
