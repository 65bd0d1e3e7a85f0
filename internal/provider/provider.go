// Package provider reads secrets from stores.
//
// Start with Provider, which reads the stores of one integration; each kind of store
// implements it in a folder below this one. An Opener makes the Provider of an
// integration, with a Config that all kinds share.
//
// A Set holds the open Providers. It keeps one handle per revision of an integration, so
// that a changed integration is read with its new settings at once, while reads that are
// under way finish with the old ones. It has one limiter per store and integration:
//
//   - The queue shares the concurrent reads fairly among callers. A read whose turn
//     cannot come before its deadline is refused immediately, because waiting would only
//     delay the answer and hold memory.
//   - The rate controller slows down after the store throttled, and finds the store's
//     rate by itself: the quota is shared with other clients, so it cannot be configured.
//   - The circuit breaker stops reads of a store that does not respond, except one probe
//     every few seconds. Any response counts as a sign of life (storeerror.ErrAnswered).
//
// Callers names the callers of a Fetch, which the queue charges for it.
//
// The package knows integrations and secrets. It does not know policies or caches: the
// caller of Fetch has been authorized before.
package provider

import (
	"context"
	"errors"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Provider reads secrets from the stores of one integration.
//
// Implementations are safe for concurrent use, honour ctx, contact no host but
// those the integration lists, and return errors that are *secret.Error: the
// SDK's own error is translated where it arises and is kept as the cause only
// if it cannot hold a value.
type Provider interface {
	// Fetch reads the current version of the secret that ref names, or the version that
	// ref pins. It ignores ref.Key. A secret that is disabled, expired or not yet valid is
	// an error, even if the store returns it. The value of binary secrets, and of secrets
	// that are not UTF-8, is their base64, see secret.Form, so that ?decode=base64
	// results in the original bytes.
	Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error)
	// Close releases connections. No Fetch may be running or follow.
	Close() error
}

// Peeker is a Provider that can tell which version of a secret is current without reading the
// secret.
type Peeker interface {
	// Peek returns the Version that Fetch would return, or another text while no version can
	// be read. The error is a *secret.Error; ErrCannotPeek is in its chain if the store does
	// not permit it.
	Peek(ctx context.Context, ref secret.Ref) (state string, err error)
}

// ErrCannotPeek means that only Fetch tells which version of a secret is current.
var ErrCannotPeek = errors.New("provider: the version can only be read")

// Keeper is a Provider whose credential is lost permanently unless it is renewed in time.
type Keeper interface {
	// Keep starts renewing the credential, until Close. It does not block.
	Keep()
}

// Opener opens the Provider of an integration. It reads credential files but sends no
// request.
type Opener func(ctx context.Context, in *integration.Integration) (Provider, error)

// CheckRef refuses a Ref of another kind, and a Ref that secret.ParseRef did not return,
// because providers rely on its canonical form. The error has ReasonInvalidReference.
func CheckRef(ref secret.Ref, kind secret.Kind) error {
	if canonical, err := secret.ParseRef(ref.String()); err != nil || canonical != ref || ref.Kind != kind {
		return secret.Errorf(secret.ReasonInvalidReference, "the reference is not in canonical form; parse it before use")
	}
	return nil
}
