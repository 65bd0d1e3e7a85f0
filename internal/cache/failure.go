package cache

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// class is the effect of a failed load on the cached entry.
type class uint8

const (
	// definite: the store or its access control has refused the read. The entry is
	// removed.
	definite class = iota
	// outage: the store did not answer. The entry stays until its expiry and, if the
	// request allows stale values, longer.
	outage
	// fault: the broker could not send the read. The entry stays until its expiry.
	fault
)

// classes lists the failures that are not definite. All other failures remove the entry.
var classes = map[secret.Reason]class{
	secret.ReasonStoreUnavailable: outage,
	secret.ReasonStoreThrottled:   outage,
	secret.ReasonOverloaded:       fault,
	secret.ReasonInternal:         fault,
}

// outageTTL is how long an outage or a fault is cached if the error has no RetryAfter.
const outageTTL = time.Second

// rememberFor returns how long callers get err without another load.
func (c *Cache) rememberFor(err *secret.Error) time.Duration {
	if classes[err.Reason] == definite {
		return c.cfg.NegativeTTL
	}
	if err.Reason == secret.ReasonStoreThrottled && err.RetryAfter > 0 {
		return min(err.RetryAfter, 2*c.cfg.NegativeTTL)
	}
	return outageTTL
}

var errClosed = secret.Errorf(secret.ReasonStoreUnavailable, "the broker is shutting down; try another broker, or retry later")

// errOldRead is the error of a Loader that returns a read from before its call that is too
// old for the request.
var errOldRead = secret.AsError(errors.New("cache: the load returned a read that is older than requested"))

// loadError converts the error of a load to the error for its callers. It also checks ctx for
// a timeout, because not every client keeps context.DeadlineExceeded in the chain.
func (c *Cache) loadError(ctx context.Context, err error) *secret.Error {
	var e *secret.Error
	switch {
	case errors.As(err, &e):
		return e
	case c.base.Err() != nil:
		return errClosed.WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
		return secret.Errorf(secret.ReasonStoreUnavailable,
			"the store did not answer within %s; check the store and the network path to it", c.cfg.LoadTimeout).WithCause(err)
	default:
		return secret.AsError(err)
	}
}

// gaveUp returns the error of a caller whose context ended before its load did.
func gaveUp(cause error) *secret.Error {
	msg := "the store did not answer within the call's deadline; retry, with a longer deadline if this persists"
	if errors.Is(cause, context.Canceled) {
		msg = "the call was cancelled before the store answered"
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s", msg).WithCause(cause)
}

// paced returns the error of a caller that cannot wait for its turn to read.
func paced(wait time.Duration, cause error) *secret.Error {
	e := secret.Errorf(secret.ReasonOverloaded,
		"this secret was read a moment ago and is not read again at once; wait, or ask with a larger max_age").WithCause(cause)
	e.RetryAfter = wait
	return e
}
