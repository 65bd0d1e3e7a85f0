package cache

import (
	"context"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// class says what a failed load means for what is cached.
type class uint8

const (
	// definite: the store or its access control has refused the read. The entry is
	// removed.
	definite class = iota
	// outage: the store could not be asked. The entry stays until its end and,
	// where the request allows, beyond.
	outage
	// fault: the broker could not ask. The entry stays until its end.
	fault
)

// classes lists the failures that are not definite; whatever is not listed ends
// the life of a cached value.
var classes = map[secret.Reason]class{
	secret.ReasonStoreUnavailable: outage,
	secret.ReasonStoreThrottled:   outage,
	secret.ReasonOverloaded:       fault,
	secret.ReasonInternal:         fault,
}

// outageTTL is how long an outage or a fault is remembered where the error does
// not say how long to wait.
const outageTTL = time.Second

// rememberFor is how long callers are answered with err without a load.
func (c *Cache) rememberFor(err *secret.Error) time.Duration {
	if classes[err.Reason] == definite {
		return c.cfg.NegativeTTL
	}
	if err.Reason == secret.ReasonStoreThrottled && err.RetryAfter > 0 {
		return min(err.RetryAfter, 2*c.cfg.NegativeTTL)
	}
	return outageTTL
}

var errClosed = secret.Errorf(secret.ReasonStoreUnavailable, "the broker is shutting down; try another one, or again later")

// errOldRead is the fault of a Loader that hands out what it read before it was
// asked, when that is too old for the request.
var errOldRead = secret.AsError(errors.New("cache: the load returned a read that is older than asked for"))

// loadError makes what a load returned an error for its callers. Whether the
// load ran out of time is decided by ctx as well, because not every client
// keeps context.DeadlineExceeded in its chain.
func (c *Cache) loadError(ctx context.Context, err error) *secret.Error {
	var e *secret.Error
	switch {
	case errors.As(err, &e):
		return e
	case c.base.Err() != nil:
		return errClosed.WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
		return secret.Errorf(secret.ReasonStoreUnavailable,
			"the store has not answered within %s; look at the store and the way to it", c.cfg.LoadTimeout).WithCause(err)
	default:
		return secret.AsError(err)
	}
}

// gaveUp is the error of a caller whose context ended before its load did.
func gaveUp(cause error) *secret.Error {
	msg := "the store has not answered within the call's deadline; try again, with a longer deadline if this goes on"
	if errors.Is(cause, context.Canceled) {
		msg = "the call was cancelled before the store answered"
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s", msg).WithCause(cause)
}

// paced is the error of a caller that cannot wait for its turn to read.
func paced(wait time.Duration, cause error) *secret.Error {
	e := secret.Errorf(secret.ReasonOverloaded,
		"this secret was read a moment ago and is not read again at once; wait, or ask with a larger max_age").WithCause(cause)
	e.RetryAfter = wait
	return e
}
