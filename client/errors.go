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

// errorDomain marks the broker's own google.rpc.ErrorInfo among those of
// whatever may stand between it and the client.
const errorDomain = "secretbroker"

// The reasons that the broker gives, in Error.Reason and ConfigError.Reason.
// They are never renamed; more may come. docs/errors.md says what to do about
// each.
const (
	// ReasonInvalidReference and the next two: fix the request.
	ReasonInvalidReference = string(secret.ReasonInvalidReference)
	ReasonConfigMismatch   = string(secret.ReasonConfigMismatch)
	ReasonInvalidRequest   = string(secret.ReasonInvalidRequest)
	// ReasonUnauthenticated: the client certificate has no identity that the broker accepts.
	ReasonUnauthenticated = string(secret.ReasonUnauthenticated)
	// ReasonAccessDenied: no grant for this caller, or no such integration.
	ReasonAccessDenied = string(secret.ReasonAccessDenied)
	// ReasonStoreNotAllowed: the integration does not list the store.
	ReasonStoreNotAllowed = string(secret.ReasonStoreNotAllowed)
	// ReasonPlacementDenied: the organisation's placement rules forbid it.
	ReasonPlacementDenied = string(secret.ReasonPlacementDenied)
	// ReasonInvalidIntegration and the next seven are of calls that manage
	// integrations; docs/errors.md says what to do about each.
	ReasonInvalidIntegration  = string(secret.ReasonInvalidIntegration)
	ReasonIntegrationNotFound = string(secret.ReasonIntegrationNotFound)
	ReasonIntegrationExists   = string(secret.ReasonIntegrationExists)
	ReasonIntegrationChanged  = string(secret.ReasonIntegrationChanged)
	ReasonIntegrationInUse    = string(secret.ReasonIntegrationInUse)
	ReasonIntegrationReadOnly = string(secret.ReasonIntegrationReadOnly)
	ReasonOwnerLockout        = string(secret.ReasonOwnerLockout)
	ReasonQuotaExceeded       = string(secret.ReasonQuotaExceeded)
	// ReasonSecretNotFound and the next six: the secret is not there, or not fit
	// to be used.
	ReasonSecretNotFound    = string(secret.ReasonSecretNotFound)
	ReasonJSONKeyNotFound   = string(secret.ReasonJSONKeyNotFound)
	ReasonSecretDisabled    = string(secret.ReasonSecretDisabled)
	ReasonSecretExpired     = string(secret.ReasonSecretExpired)
	ReasonSecretNotYetValid = string(secret.ReasonSecretNotYetValid)
	ReasonSecretNotJSON     = string(secret.ReasonSecretNotJSON)
	ReasonSecretNotBase64   = string(secret.ReasonSecretNotBase64)
	// ReasonStoreAccessDenied and the next two: the integration cannot read its
	// store.
	ReasonStoreAccessDenied         = string(secret.ReasonStoreAccessDenied)
	ReasonStoreAuthenticationFailed = string(secret.ReasonStoreAuthenticationFailed)
	ReasonStoreNotFound             = string(secret.ReasonStoreNotFound)
	// ReasonStoreThrottled and the next four pass by themselves; Resolve has
	// tried again already.
	ReasonStoreThrottled   = string(secret.ReasonStoreThrottled)
	ReasonOverloaded       = string(secret.ReasonOverloaded)
	ReasonStoreUnavailable = string(secret.ReasonStoreUnavailable)
	// ReasonRegistryUnavailable: the broker cannot reach its database of integrations.
	ReasonRegistryUnavailable = string(secret.ReasonRegistryUnavailable)
	ReasonAuditUnavailable    = string(secret.ReasonAuditUnavailable)
	// ReasonInternal: a fault of the broker; its operator finds it by request id.
	ReasonInternal = string(secret.ReasonInternal)
)

// The reasons that the client itself gives, always with codes.Unavailable.
const (
	// ReasonBrokerUnreachable: there is no connection to the broker.
	ReasonBrokerUnreachable = "BROKER_UNREACHABLE"
	// ReasonBrokerNotTrusted: the broker's certificate is not signed by
	// Config.CAFile, not for the right name, or not valid now.
	ReasonBrokerNotTrusted = "BROKER_NOT_TRUSTED"
	// ReasonCertificateRefused: the broker does not accept Config.CertFile.
	ReasonCertificateRefused = "CERTIFICATE_REFUSED"
)

// Error is why a call failed. It never holds a secret's value.
type Error struct {
	// Code is the gRPC status.
	Code codes.Code
	// Reason is one of the constants, or one that a newer broker knows. It is
	// empty where neither the broker nor the client has one, as when ctx ended
	// before there was an answer.
	Reason string
	// Message is written for the person who has to act.
	Message string
	// RequestID names the call in the broker's audit and logs; empty if the
	// broker did not get to answer.
	RequestID string
	// RetryAfter is how long the broker asks to wait before trying again, zero if
	// it does not.
	RetryAfter time.Duration
	// Configs are the configs that failed, if it was because of them.
	Configs []ConfigError

	cause error // ctx's error, if that ended the call
}

// ConfigError is why one config has no value.
type ConfigError struct {
	// Config is the name of the config.
	Config string
	// Reason is one of the constants, or one that a newer broker knows.
	Reason string
	// Message says what is wrong and what to do about it.
	Message string
	// RetryAfter is how long to wait before trying again, zero where that does
	// not help. It is set in Response.Errors only; else see Error.RetryAfter.
	RetryAfter time.Duration
}

// Error returns all of it on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("secretbroker: ")
	if e.Reason != "" {
		b.WriteString(e.Reason)
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

// Unwrap returns the context's error if that is what ended the call, else nil.
func (e *Error) Unwrap() error { return e.cause }

// ended reports whether a context may have ended the call, here or at the
// broker.
func (e *Error) ended() bool {
	return e.Code == codes.Canceled || e.Code == codes.DeadlineExceeded
}

// retryable reports whether the failure may pass by itself. RESOURCE_EXHAUSTED
// also means a message that is too large, which a retry does not change: only one that
// comes with a reason or a delay is the broker's "later".
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

// newError makes an Error of what a call to the broker at addr returned, which
// is not nil. Details that it does not know are left out.
func newError(addr string, err error) *Error {
	st := status.Convert(err)
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				e.Reason = d.GetReason()
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
		e.Message = fmt.Sprintf("no answer from the broker at %s in time: %s", addr, e.Message)
	}
	return e
}

// endedWaiting is the error of a call whose context ended, with err, before it
// could be tried again after last.
func endedWaiting(err error, last *Error) *Error {
	e := *last
	e.Code = status.FromContextError(err).Code()
	e.Message = fmt.Sprintf("%v while waiting to try again: %s", err, last.Message)
	e.cause = err
	return &e
}

// configErrorsOf takes the failing configs out of a BadRequest. To stay small the
// broker may say a text only once; configs without one have the text of an
// earlier one that failed for the same reason.
func configErrorsOf(d *errdetails.BadRequest) []ConfigError {
	configs := make([]ConfigError, 0, len(d.GetFieldViolations()))
	texts := make(map[string]string)
	for _, v := range d.GetFieldViolations() {
		c := ConfigError{Config: configName(v.GetField()), Reason: v.GetReason(), Message: v.GetDescription()}
		if c.Message == "" {
			c.Message = texts[c.Reason]
		} else if texts[c.Reason] == "" {
			texts[c.Reason] = c.Message
		}
		configs = append(configs, c)
	}
	return configs
}

// configName takes the name out of the field of a BadRequest's violation,
// `configs["database.password"]`. Any other field stays as it is.
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

// explainConnection makes a reason and a text for a person of what grpc says of
// a connection that failed. grpc passes errors of the transport on as text
// only, so those of this package begin with their reason; see connError.
func explainConnection(addr, text string) (reason, message string) {
	if _, quoted, ok := strings.Cut(text, "connection error: desc = "); ok {
		if q, err := strconv.QuotedPrefix(quoted); err == nil {
			if s, err := strconv.Unquote(q); err == nil {
				text = s
			}
		}
	}
	for _, reason := range []string{ReasonBrokerNotTrusted, ReasonCertificateRefused, ReasonBrokerUnreachable} {
		if _, message, ok := strings.Cut(text, reason+": "); ok {
			return reason, message
		}
	}
	text = strings.TrimPrefix(text, "transport: Error while dialing: ")
	return ReasonBrokerUnreachable, fmt.Sprintf("cannot reach the broker at %s: %s", addr, text)
}
