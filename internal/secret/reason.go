package secret

import (
	"errors"
	"fmt"
	"time"
)

// Reason is the machine-readable cause of a failure, one word per thing that a
// person can do about it. Reasons are part of the wire contract: they are never
// renamed.
type Reason string

// The reasons, each with what the operator should do. internal/server maps them
// to gRPC statuses; docs/errors.md lists them.
const (
	// ReasonInvalidReference: fix the reference in the connector's configuration.
	ReasonInvalidReference Reason = "INVALID_REFERENCE"
	// ReasonConfigMismatch: the secret.manager.* properties contradict themselves
	// or the request; fix the connector's configuration.
	ReasonConfigMismatch Reason = "CONFIG_MISMATCH"
	// ReasonInvalidRequest: fix the caller; the request itself is malformed.
	ReasonInvalidRequest Reason = "INVALID_REQUEST"
	// ReasonUnauthenticated: give the runtime a client certificate that names it.
	ReasonUnauthenticated Reason = "UNAUTHENTICATED"
	// ReasonAccessDenied: grant the runtime, or create the integration: a caller
	// cannot tell which.
	ReasonAccessDenied Reason = "ACCESS_DENIED"
	// ReasonStoreNotAllowed: add the store to the integration.
	ReasonStoreNotAllowed Reason = "STORE_NOT_ALLOWED"
	// ReasonPlacementDenied: the organisation's placement rules do not allow it; use
	// an integration, or a runtime, in another place.
	ReasonPlacementDenied Reason = "PLACEMENT_DENIED"
	// ReasonInvalidIntegration: fix the integration's settings.
	ReasonInvalidIntegration Reason = "INVALID_INTEGRATION"
	// ReasonIntegrationNotFound: fix the integration's id. Said only to those who
	// have a role for all integrations.
	ReasonIntegrationNotFound Reason = "INTEGRATION_NOT_FOUND"
	// ReasonIntegrationExists: choose another id, or update what is there.
	ReasonIntegrationExists Reason = "INTEGRATION_EXISTS"
	// ReasonIntegrationChanged: read the integration again and decide anew.
	ReasonIntegrationChanged Reason = "INTEGRATION_CHANGED"
	// ReasonIntegrationInUse: wait until nobody uses it, or force the deletion.
	ReasonIntegrationInUse Reason = "INTEGRATION_IN_USE"
	// ReasonIntegrationReadOnly: change the file that the integration stands in.
	ReasonIntegrationReadOnly Reason = "INTEGRATION_READ_ONLY"
	// ReasonOwnerLockout: the change would take the caller's own ownership away;
	// leave the caller an owner, or force it.
	ReasonOwnerLockout Reason = "OWNER_LOCKOUT"
	// ReasonQuotaExceeded: delete an integration, or raise the quota.
	ReasonQuotaExceeded Reason = "QUOTA_EXCEEDED"
	// ReasonRegistryUnavailable: wait; look at the integrations' database.
	ReasonRegistryUnavailable Reason = "REGISTRY_UNAVAILABLE"
	// ReasonSecretNotFound: fix the secret's name or version.
	ReasonSecretNotFound Reason = "SECRET_NOT_FOUND"
	// ReasonJSONKeyNotFound: fix the key or the document.
	ReasonJSONKeyNotFound Reason = "JSON_KEY_NOT_FOUND"
	// ReasonSecretDisabled: enable the secret's version, or set a new one.
	ReasonSecretDisabled Reason = "SECRET_DISABLED"
	// ReasonSecretExpired: set a new version, or move its expiry.
	ReasonSecretExpired Reason = "SECRET_EXPIRED"
	// ReasonSecretNotYetValid: wait, or move the activation date.
	ReasonSecretNotYetValid Reason = "SECRET_NOT_YET_VALID"
	// ReasonSecretNotJSON: the reference has a key but the secret is no JSON
	// object that can be read unambiguously.
	ReasonSecretNotJSON Reason = "SECRET_NOT_JSON"
	// ReasonSecretNotBase64: the reference asks for decoding but what it selects is
	// not base64.
	ReasonSecretNotBase64 Reason = "SECRET_NOT_BASE64"
	// ReasonStoreAccessDenied: give the integration's identity the role to read.
	ReasonStoreAccessDenied Reason = "STORE_ACCESS_DENIED"
	// ReasonStoreAuthenticationFailed: renew or fix the integration's credential.
	ReasonStoreAuthenticationFailed Reason = "STORE_AUTHENTICATION_FAILED"
	// ReasonStoreNotFound: fix the store's name.
	ReasonStoreNotFound Reason = "STORE_NOT_FOUND"
	// ReasonStoreThrottled: the store limits the broker; wait.
	ReasonStoreThrottled Reason = "STORE_THROTTLED"
	// ReasonOverloaded: the broker limits its callers; wait.
	ReasonOverloaded Reason = "OVERLOADED"
	// ReasonStoreUnavailable: wait; look at the store and the way to it.
	ReasonStoreUnavailable Reason = "STORE_UNAVAILABLE"
	// ReasonAuditUnavailable: look at the broker's disk.
	ReasonAuditUnavailable Reason = "AUDIT_UNAVAILABLE"
	// ReasonInternal: a fault of the broker; look at its log by request id.
	ReasonInternal Reason = "INTERNAL"
)

// Error is a failure that may be told to the caller. Message is written for the
// person who has to act and never contains a secret's value or a store's raw
// answer; the cause is for the broker's own log only.
type Error struct {
	Reason  Reason
	Message string
	// RetryAfter is how long to wait before trying again; zero means that the
	// reason's default applies.
	RetryAfter time.Duration
	// Cause is what lies beneath, for the log. It must not hold a value either.
	Cause error
}

// Errorf makes an *Error without a cause.
func Errorf(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// WithCause returns a copy of e that carries cause.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Message)
}

func (e *Error) Unwrap() error { return e.Cause }

// AsError finds the *Error in err's chain. An error without one is a fault of
// the broker: it becomes ReasonInternal with a fixed text and err as its cause.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{
		Reason:  ReasonInternal,
		Message: "internal error; ask the broker's operator to look up the request id in its log",
		Cause:   err,
	}
}
