package secret

import (
	"errors"
	"fmt"
	"time"
)

// Reason is the machine-readable cause of a failure. Failures that need different
// actions have different reasons. Reasons are part of the wire contract and must
// never be renamed.
type Reason string

// The reasons, each with the action that resolves it. internal/server maps them to
// gRPC statuses; docs/errors.md lists them.
const (
	// ReasonInvalidReference: fix the reference in the connector's configuration.
	ReasonInvalidReference Reason = "INVALID_REFERENCE"
	// ReasonConfigMismatch: the secret.manager.* properties contradict each other
	// or the request; fix the connector's configuration.
	ReasonConfigMismatch Reason = "CONFIG_MISMATCH"
	// ReasonInvalidRequest: fix the caller; the request itself is malformed.
	ReasonInvalidRequest Reason = "INVALID_REQUEST"
	// ReasonUnauthenticated: give the runtime a client certificate that names it.
	ReasonUnauthenticated Reason = "UNAUTHENTICATED"
	// ReasonCertificateDenied: the operators have denied the client certificate or its
	// principal; give the runtime a new certificate, or end the denial.
	ReasonCertificateDenied Reason = "CERTIFICATE_DENIED"
	// ReasonAccessDenied: grant access to the runtime, or create the integration.
	// Callers cannot distinguish the two cases.
	ReasonAccessDenied Reason = "ACCESS_DENIED"
	// ReasonStoreNotAllowed: add the store to the integration.
	ReasonStoreNotAllowed Reason = "STORE_NOT_ALLOWED"
	// ReasonPlacementDenied: the organisation's placement rules do not allow it; use
	// an integration or a runtime in another location.
	ReasonPlacementDenied Reason = "PLACEMENT_DENIED"
	// ReasonInvalidIntegration: fix the integration's settings.
	ReasonInvalidIntegration Reason = "INVALID_INTEGRATION"
	// ReasonIntegrationNotFound: fix the integration's id. Only callers that have
	// a role for all integrations receive this reason.
	ReasonIntegrationNotFound Reason = "INTEGRATION_NOT_FOUND"
	// ReasonIntegrationExists: choose another id, or update the existing one.
	ReasonIntegrationExists Reason = "INTEGRATION_EXISTS"
	// ReasonIntegrationChanged: read the integration again and retry the change.
	ReasonIntegrationChanged Reason = "INTEGRATION_CHANGED"
	// ReasonIntegrationInUse: wait until it is no longer used, or force the
	// deletion.
	ReasonIntegrationInUse Reason = "INTEGRATION_IN_USE"
	// ReasonIntegrationReadOnly: edit the file that defines the integration or denial.
	ReasonIntegrationReadOnly Reason = "INTEGRATION_READ_ONLY"
	// ReasonOwnerLockout: the change would remove the caller's own ownership, or deny the
	// caller; keep the caller as an owner, or force the change.
	ReasonOwnerLockout Reason = "OWNER_LOCKOUT"
	// ReasonQuotaExceeded: delete an integration or a denial, or raise the quota.
	ReasonQuotaExceeded Reason = "QUOTA_EXCEEDED"
	// ReasonDenialNotFound: list the denials; this one does not exist.
	ReasonDenialNotFound Reason = "DENIAL_NOT_FOUND"
	// ReasonRegistryUnavailable: wait; check the integrations' database.
	ReasonRegistryUnavailable Reason = "REGISTRY_UNAVAILABLE"
	// ReasonSecretNotFound: fix the secret's name or version.
	ReasonSecretNotFound Reason = "SECRET_NOT_FOUND"
	// ReasonJSONKeyNotFound: fix the key or the document.
	ReasonJSONKeyNotFound Reason = "JSON_KEY_NOT_FOUND"
	// ReasonSecretDisabled: enable the secret's version, or set a new one.
	ReasonSecretDisabled Reason = "SECRET_DISABLED"
	// ReasonSecretExpired: set a new version, or extend its expiry.
	ReasonSecretExpired Reason = "SECRET_EXPIRED"
	// ReasonSecretNotYetValid: wait, or move the activation date.
	ReasonSecretNotYetValid Reason = "SECRET_NOT_YET_VALID"
	// ReasonSecretTooLarge: the secret is larger than the broker reads from a store of
	// its kind; or the reference has a key, and the secret is larger than the broker
	// parses (limits.max_document_bytes). Store a smaller secret.
	ReasonSecretTooLarge Reason = "SECRET_TOO_LARGE"
	// ReasonSecretNotJSON: the reference has a key, but the secret is not an
	// unambiguous JSON object; store one, or remove the key.
	ReasonSecretNotJSON Reason = "SECRET_NOT_JSON"
	// ReasonSecretNotDecodable: the reference asks for decoding, but the selected
	// value is not base64; encode it, or remove the decoding.
	ReasonSecretNotDecodable Reason = "SECRET_NOT_DECODABLE"
	// ReasonSecretNotWatchable: the broker cannot tell when the secret changes; set
	// registry.seal.key_file or watch.version_key_file, or resolve the credential before its end.
	ReasonSecretNotWatchable Reason = "SECRET_NOT_WATCHABLE"
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
	// ReasonStoreUnavailable: wait; check the store and the network path to it.
	ReasonStoreUnavailable Reason = "STORE_UNAVAILABLE"
	// ReasonAuditUnavailable: check the broker's disk.
	ReasonAuditUnavailable Reason = "AUDIT_UNAVAILABLE"
	// ReasonInternal: a bug in the broker; find the request id in its log.
	ReasonInternal Reason = "INTERNAL"
)

// IsOutage reports whether the reason says something about the way to the secret, such as its
// store or the load of the broker, and nothing about the secret.
func (r Reason) IsOutage() bool {
	switch r {
	case ReasonStoreUnavailable, ReasonStoreThrottled, ReasonOverloaded, ReasonInternal, ReasonRegistryUnavailable:
		return true
	default:
		return false
	}
}

// Error is a failure that the broker may report to the caller. Message is written
// for the person who has to act. It never contains a secret's value or a store's
// raw response. Cause is for the broker's own log only.
type Error struct {
	Reason  Reason
	Message string
	// RetryAfter is how long to wait before trying again; zero means that the
	// reason's default applies.
	RetryAfter time.Duration
	// Cause is the underlying error, for the log. It must not contain a secret's
	// value either.
	Cause error
}

// Errorf returns an *Error without a cause.
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

// AsError returns the *Error in err's chain. If there is none, err is a bug in the
// broker: AsError returns ReasonInternal with a fixed message and err as the cause,
// so that an unexpected error text never reaches a caller.
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
