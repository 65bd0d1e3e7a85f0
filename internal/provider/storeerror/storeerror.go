// Package storeerror builds the errors that all kinds of stores have in common, and
// reads the parts of an error response that are safe to keep.
//
// An error that leaves a provider is a *secret.Error: a reason that decides what the
// broker does next, a message that tells people what to do, and a cause for the log.
// A store, or a proxy in front of it, chooses the text of its error responses and may
// repeat the request in them: an access token, or the secret itself. So a cause never
// contains that text. It is built from the status, and from codes and identifiers that
// passed Plain.
//
// The package knows no store and no protocol except HTTP.
package storeerror

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// DefaultRetryAfter is how long callers wait if a store throttles without a
	// Retry-After.
	DefaultRetryAfter = time.Second
	// MaxRetryAfter is the longest wait that is accepted from a store.
	MaxRetryAfter = time.Minute
	// maxPlain is the length of the longest text that Plain lets through, in bytes.
	maxPlain = 64
)

// ErrAnswered in the chain of an error with ReasonStoreUnavailable means that the
// store, or something in front of it, sent a response, although a useless one. That
// may be the fault of one secret, so the circuit breaker does not count it.
var ErrAnswered = errors.New("the store has answered")

// ErrClosed is the cause of Closed.
var ErrClosed = errors.New("the provider is closed")

// Setup returns the error for a setting or a file that has to be fixed before the
// integration can be used. The message names it and does not quote its content.
func Setup(format string, args ...any) *secret.Error {
	return secret.Errorf(secret.ReasonStoreAuthenticationFailed, format, args...)
}

// Closed returns the error for a call to a provider that was closed during the call.
func Closed() *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable, "the integration has been closed or replaced; try again").WithCause(ErrClosed)
}

// ErrNameDenied in the chain of an error with ReasonStoreAccessDenied means that the store
// may permit the identity to read secrets of other names: stores that have permissions for
// single secrets also deny access to names that do not exist.
var ErrNameDenied = errors.New("the store denies access to this name")

// NameDenied returns cause, which must not be nil, as an error that is also ErrNameDenied.
// Its text is the cause's.
func NameDenied(cause error) error { return &marked{cause, ErrNameDenied} }

// Answered returns cause, which may be nil, as an error that is also ErrAnswered. Its
// text is the cause's.
func Answered(cause error) error {
	if cause == nil {
		return ErrAnswered
	}
	return &marked{cause, ErrAnswered}
}

// marked is cause, and also mark.
type marked struct{ cause, mark error }

func (m *marked) Error() string        { return m.cause.Error() }
func (m *marked) Unwrap() error        { return m.cause }
func (m *marked) Is(target error) bool { return target == m.mark }

// Plain returns s if it can be an error code or an identifier: at most 64 ASCII
// letters, digits, hyphens and underscores. Otherwise it returns "".
func Plain(s string) string {
	if len(s) > maxPlain {
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return ""
		}
	}
	return s
}

// RetryAfter returns how long the Retry-After header (RFC 9110, section 10.2.3) asks
// the client to wait, at most MaxRetryAfter. It returns 0 if the header is missing or
// cannot be read.
func RetryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, MaxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(0, time.Until(at)), MaxRetryAfter)
	}
	return 0
}
