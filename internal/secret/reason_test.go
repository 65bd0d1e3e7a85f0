package secret

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestErrorText(t *testing.T) {
	e := Errorf(ReasonSecretNotFound, "no secret %d", 7)
	if got, want := e.Error(), "SECRET_NOT_FOUND: no secret 7"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if e.Unwrap() != nil {
		t.Errorf("Unwrap() = %v", e.Unwrap())
	}
	caused := e.WithCause(context.Canceled)
	if got, want := caused.Error(), "SECRET_NOT_FOUND: no secret 7: context canceled"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(caused, context.Canceled) {
		t.Error("the cause is not in the chain")
	}
	if e.Cause != nil {
		t.Error("WithCause changed the error it was called on")
	}
}

func TestAsError(t *testing.T) {
	throttled := &Error{Reason: ReasonStoreThrottled, Message: "wait", RetryAfter: time.Second}
	for name, err := range map[string]error{
		"itself":  throttled,
		"wrapped": fmt.Errorf("fetch: %w", throttled),
		"joined":  errors.Join(errors.New("first"), throttled),
		"cause":   Errorf(ReasonStoreThrottled, "wait").WithCause(errors.New("connection reset")),
	} {
		if got := AsError(err); got.Reason != ReasonStoreThrottled || got.Message != "wait" {
			t.Errorf("%s: AsError = %+v", name, got)
		}
	}
	if got := AsError(throttled); got != throttled {
		t.Errorf("AsError made a copy: %p, want %p", got, throttled)
	}
}

// An unexpected error must not reach a caller: the message is fixed, and only the
// cause contains the error.
func TestAsErrorHidesTheUnknown(t *testing.T) {
	cause := fmt.Errorf("dial: %w", errors.New("password hunter2 refused"))
	got := AsError(cause)
	if got.Reason != ReasonInternal || strings.Contains(got.Message, "hunter2") || got.RetryAfter != 0 {
		t.Errorf("AsError of an unknown error = %+v", got)
	}
	if !errors.Is(got, cause) {
		t.Error("the cause is lost to the log")
	}
}
