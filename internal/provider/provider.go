// Package provider is the way to the secret stores: what one store has to do
// (Provider), how one is made from an integration (Opener), and the set of open
// ones (Set). Each store has a folder of its own below it, the only places that
// import a cloud SDK.
//
// It knows integrations and secrets. It knows no callers, policies or caches:
// whoever calls Fetch has already been allowed to.
package provider

import (
	"context"
	"encoding/base64"
	"unicode/utf8"

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
	// Fetch reads the current version of the secret that ref names, or the
	// version it pins. ref.Key is not looked at. A secret that is disabled,
	// expired or not yet valid is an error, whatever the store says. What a store
	// keeps as binary, and what is not UTF-8, becomes its text in standard base64,
	// so that ?decode=base64 gives the bytes.
	Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error)
	// Close releases connections. No Fetch may be under way or follow.
	Close() error
}

// Keeper is a Provider whose credential is lost for good when it is not renewed in
// time.
type Keeper interface {
	// Keep has the credential renewed until Close, beginning now, and waits for nothing.
	Keep()
}

// Opener makes the Provider of an integration. It reads credential files but
// contacts nobody.
type Opener func(ctx context.Context, in *integration.Integration) (Provider, error)

// CheckRef refuses a Ref of another kind and one that secret.ParseRef has not
// made: whoever sends a name to a store relies on its form. The error has
// ReasonInvalidReference.
func CheckRef(ref secret.Ref, kind secret.Kind) error {
	if canonical, err := secret.ParseRef(ref.String()); err != nil || canonical != ref || ref.Kind != kind {
		return secret.Errorf(secret.ReasonInvalidReference, "the reference is not in canonical form; use one that was parsed")
	}
	return nil
}

// Text returns what a Secret holds of a store's bytes: themselves if they are
// UTF-8, else their text in standard base64, with b overwritten. It takes over b.
func Text(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	text := base64.StdEncoding.AppendEncode(nil, b)
	clear(b)
	return text
}
