package client

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// errorDomain distinguishes the broker's google.rpc.ErrorInfo from those of proxies between
// the client and the broker.
const errorDomain = "secretbroker"

// Reason is a machine-readable reason of a failure. Reasons are never renamed; new ones may be
// added.
//
// A Reason is an error only so that errors.Is can look for it:
//
//	if errors.Is(err, client.ReasonAccessDenied) {
type Reason string

// Error returns the reason itself, such as "ACCESS_DENIED".
func (r Reason) Error() string { return string(r) }

// The reasons of the broker, in Error.Reason and ConfigError.Reason. docs/errors.md says how to
// resolve each.
const (
	// ReasonInvalidReference and the next two: fix the request.
	ReasonInvalidReference = Reason(secret.ReasonInvalidReference)
	ReasonConfigMismatch   = Reason(secret.ReasonConfigMismatch)
	ReasonInvalidRequest   = Reason(secret.ReasonInvalidRequest)
	// ReasonUnauthenticated: the client certificate has no identity that the broker accepts.
	ReasonUnauthenticated = Reason(secret.ReasonUnauthenticated)
	// ReasonCertificateDenied: the broker's operators have denied the client certificate.
	ReasonCertificateDenied = Reason(secret.ReasonCertificateDenied)
	// ReasonAccessDenied: no grant for this caller, or no such integration.
	ReasonAccessDenied = Reason(secret.ReasonAccessDenied)
	// ReasonStoreNotAllowed: the integration does not list the store.
	ReasonStoreNotAllowed = Reason(secret.ReasonStoreNotAllowed)
	// ReasonPlacementDenied: the organisation's placement rules forbid it.
	ReasonPlacementDenied = Reason(secret.ReasonPlacementDenied)
	// ReasonInvalidIntegration and the next seven occur in calls that manage integrations;
	// docs/errors.md says how to resolve each.
	ReasonInvalidIntegration  = Reason(secret.ReasonInvalidIntegration)
	ReasonIntegrationNotFound = Reason(secret.ReasonIntegrationNotFound)
	ReasonIntegrationExists   = Reason(secret.ReasonIntegrationExists)
	ReasonIntegrationChanged  = Reason(secret.ReasonIntegrationChanged)
	ReasonIntegrationInUse    = Reason(secret.ReasonIntegrationInUse)
	ReasonIntegrationReadOnly = Reason(secret.ReasonIntegrationReadOnly)
	ReasonOwnerLockout        = Reason(secret.ReasonOwnerLockout)
	ReasonQuotaExceeded       = Reason(secret.ReasonQuotaExceeded)
	// ReasonDenialNotFound: there is no such denial.
	ReasonDenialNotFound = Reason(secret.ReasonDenialNotFound)
	// ReasonSecretNotFound and the next eight: the secret does not exist, or is not usable.
	ReasonSecretNotFound     = Reason(secret.ReasonSecretNotFound)
	ReasonJSONKeyNotFound    = Reason(secret.ReasonJSONKeyNotFound)
	ReasonSecretDisabled     = Reason(secret.ReasonSecretDisabled)
	ReasonSecretExpired      = Reason(secret.ReasonSecretExpired)
	ReasonSecretNotYetValid  = Reason(secret.ReasonSecretNotYetValid)
	ReasonSecretTooLarge     = Reason(secret.ReasonSecretTooLarge)
	ReasonSecretNotJSON      = Reason(secret.ReasonSecretNotJSON)
	ReasonSecretNotDecodable = Reason(secret.ReasonSecretNotDecodable)
	ReasonSecretNotWatchable = Reason(secret.ReasonSecretNotWatchable)
	// ReasonStoreAccessDenied and the next two: the integration cannot read its store.
	ReasonStoreAccessDenied         = Reason(secret.ReasonStoreAccessDenied)
	ReasonStoreAuthenticationFailed = Reason(secret.ReasonStoreAuthenticationFailed)
	ReasonStoreNotFound             = Reason(secret.ReasonStoreNotFound)
	// ReasonStoreThrottled and the next four are transient; Resolve has already retried.
	ReasonStoreThrottled   = Reason(secret.ReasonStoreThrottled)
	ReasonOverloaded       = Reason(secret.ReasonOverloaded)
	ReasonStoreUnavailable = Reason(secret.ReasonStoreUnavailable)
	// ReasonRegistryUnavailable: the broker cannot reach its database of integrations.
	ReasonRegistryUnavailable = Reason(secret.ReasonRegistryUnavailable)
	ReasonAuditUnavailable    = Reason(secret.ReasonAuditUnavailable)
	// ReasonInternal: a bug in the broker; its operator finds it by the request id.
	ReasonInternal = Reason(secret.ReasonInternal)
)

// The client's own reasons, always with codes.Unavailable.
const (
	// ReasonBrokerUnreachable: there is no connection to the broker.
	ReasonBrokerUnreachable Reason = "SECRETBROKER_UNREACHABLE"
	// ReasonBrokerNotTrusted: the broker's certificate was not issued by Config.CAFile, has
	// another name, or is not valid now.
	ReasonBrokerNotTrusted Reason = "SECRETBROKER_NOT_TRUSTED"
	// ReasonCertificateRefused: the broker does not accept Config.CertFile.
	ReasonCertificateRefused Reason = "CERTIFICATE_REFUSED"
)

// Error is the error of a failed call. It never contains a secret's value.
type Error struct {
	// Code is the gRPC status.
	Code codes.Code
	// Reason is one of the constants, or a reason of a newer broker. It is empty if neither
	// the broker nor the client has one, as when ctx ended before there was an answer.
	Reason Reason
	// Message is a text for the person who has to resolve the failure.
	Message string
	// RequestID identifies the call in the broker's audit log and other logs; empty if the
	// broker did not answer.
	RequestID string
	// RetryAfter is the time that the broker requests to wait before a retry, zero if it
	// requests none.
	RetryAfter time.Duration
	// Configs are the failed configs, if they caused the failure.
	Configs []ConfigError

	cause error // ctx's error, if that ended the call
}

// ConfigError is the reason why one config has no value.
type ConfigError struct {
	// Config is the name of the config.
	Config string
	// Reason is one of the constants, or a reason of a newer broker.
	Reason Reason
	// Message describes the problem and how to fix it.
	Message string
	// RetryAfter is the time to wait before a retry, zero if a retry does not help. It is
	// set in ResolveResponse.Errors only; otherwise see Error.RetryAfter.
	RetryAfter time.Duration
}

// Error returns the whole error on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("secretbroker: ")
	if e.Reason != "" {
		b.WriteString(string(e.Reason))
	} else {
		b.WriteString(e.Code.String())
	}
	b.WriteString(": ")
	b.WriteString(e.Message)
	for _, c := range e.Configs {
		fmt.Fprintf(&b, "; %q: %s: %s", c.Config, c.Reason, c.Message)
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request id %s)", e.RequestID)
	}
	return b.String()
}

// Is reports whether target is the Reason of the error. If several configs failed, that is the
// most severe one; see Configs for the others.
func (e *Error) Is(target error) bool {
	reason, ok := target.(Reason)
	return ok && reason != "" && reason == e.Reason
}

// Unwrap returns the context's error if it ended the call, else nil.
func (e *Error) Unwrap() error { return e.cause }

// ended reports whether a context may have ended the call, here or at the
// broker.
func (e *Error) ended() bool {
	return e.Code == codes.Canceled || e.Code == codes.DeadlineExceeded
}

// retryable reports whether the failure is transient. RESOURCE_EXHAUSTED can also mean a
// message that is too large, for which a retry does not help: only an error with a reason or
// a delay is transient.
func (e *Error) retryable() bool {
	switch e.Code {
	case codes.Unavailable:
		return true
	case codes.ResourceExhausted:
		return e.Reason != "" || e.RetryAfter > 0
	default:
		return false
	}
}

// newError converts the non-nil error of a call to the broker at addr. It ignores details
// that it does not know.
func newError(addr string, err error) *Error {
	st := status.Convert(err)
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				e.Reason = Reason(d.GetReason())
			}
		case *errdetails.RequestInfo:
			e.RequestID = d.GetRequestId()
		case *errdetails.RetryInfo:
			e.RetryAfter = positive(d.GetRetryDelay())
		case *errdetails.BadRequest:
			e.Configs = append(e.Configs, configErrorsOf(d)...)
		}
	}
	if e.Reason != "" {
		return e
	}
	switch e.Code {
	case codes.Unavailable:
		e.Reason, e.Message = explainConnection(addr, e.Message)
	case codes.DeadlineExceeded:
		e.Message = fmt.Sprintf("timed out waiting for the broker at %s: %s", addr, e.Message)
	}
	return e
}

// endedWaiting returns the error of a call whose context ended, with err, during the wait
// for a retry after last.
func endedWaiting(err error, last *Error) *Error {
	e := *last
	e.Code = status.FromContextError(err).Code()
	e.Message = fmt.Sprintf("%v while waiting to retry: %s", err, last.Message)
	e.cause = err
	return &e
}

// configErrorsOf returns the failed configs in a BadRequest. To keep errors small, the broker
// may send a text only once; a config without a text gets that of an earlier config with the
// same reason.
func configErrorsOf(d *errdetails.BadRequest) []ConfigError {
	configs := make([]ConfigError, 0, len(d.GetFieldViolations()))
	texts := make(map[Reason]string)
	for _, v := range d.GetFieldViolations() {
		c := ConfigError{Config: configName(v.GetField()), Reason: Reason(v.GetReason()), Message: v.GetDescription()}
		if c.Message == "" {
			c.Message = texts[c.Reason]
		} else if texts[c.Reason] == "" {
			texts[c.Reason] = c.Message
		}
		configs = append(configs, c)
	}
	return configs
}

// configName returns the name in a field of a BadRequest's violation,
// `configs["database.password"]`. It returns any other field unchanged.
func configName(field string) string {
	inner, ok := strings.CutPrefix(field, "configs[")
	if !ok {
		return field
	}
	inner, ok = strings.CutSuffix(inner, "]")
	if !ok {
		return field
	}
	name, err := strconv.Unquote(inner)
	if err != nil {
		return field
	}
	return name
}

// explainConnection returns a reason and a text for a connection failure that grpc reports.
// grpc passes errors of the transport on as text only, so this package's own errors begin
// with their reason; see connError.
func explainConnection(addr, text string) (reason Reason, message string) {
	if _, quoted, ok := strings.Cut(text, "connection error: desc = "); ok {
		if q, err := strconv.QuotedPrefix(quoted); err == nil {
			if s, err := strconv.Unquote(q); err == nil {
				text = s
			}
		}
	}
	for _, reason := range []Reason{ReasonBrokerNotTrusted, ReasonCertificateRefused, ReasonBrokerUnreachable} {
		if _, message, ok := strings.Cut(text, string(reason)+": "); ok {
			return reason, message
		}
	}
	text = strings.TrimPrefix(text, "transport: Error while dialing: ")
	return ReasonBrokerUnreachable, fmt.Sprintf("cannot reach the broker at %s: %s", addr, text)
}
