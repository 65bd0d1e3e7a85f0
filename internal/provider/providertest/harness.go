// Package providertest tests what every kind of store has to do.
//
// Run runs one suite for all kinds, against a small World that each kind's tests start.
// A store that cannot have a case declares an exception, with the reason. Env is the
// environment for the tests that a kind has beside the suite.
//
// The package knows the contract of provider.Provider and no store.
package providertest

import (
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
)

// Harness is how the suite gets at one kind of store.
type Harness struct {
	// Start starts a store with nothing in it and everything in order. What it
	// needs ends with the test.
	Start func(t testing.TB) *World
	// Biggest is the largest value that the store takes, in bytes.
	Biggest int
	// Exceptions are the cases that this store cannot have, by name, each with
	// the reason: a property of the store, or of the server that stands for it.
	Exceptions map[string]string
}

// World is one running store and an integration that may read it. The functions
// whose cases are exceptions may be nil.
type World struct {
	Integration *integration.Integration
	Opener      provider.Opener
	// Ref returns the reference to the current version of the secret that Put
	// sets under that name, which consists of lower-case letters and hyphens.
	Ref func(name string) string
	// Foreign is a reference of the kind to a store that the integration does not
	// list.
	Foreign string
	// Put sets the current version of a secret and returns its identifier, as
	// Secret.Version has it and as it stands after "#" in a reference. The value
	// is valid UTF-8, or the store has the case Binary.
	Put func(t testing.TB, name string, value []byte) (version string)
	// Document makes the value that the suite puts of text. Nil means text itself;
	// a store whose secrets are documents makes one of it.
	Document func(text string) string
	// UnknownVersion is an identifier that no version has.
	UnknownVersion string
	// Become brings a secret's current version into a state.
	Become func(t testing.TB, name string, state State)
	// Suffer makes the store, from now on, answer every read so.
	Suffer func(t testing.TB, trouble Trouble)
	// Login says what becomes of the integration's credential from now on.
	Login func(t testing.TB, fate Fate)
	// Reads counts the requests for secrets that have reached the store.
	Reads func() int
	// Private are texts beside the values that must not be in any error or log:
	// passwords and tokens.
	Private []string
	// Log returns what the provider has logged.
	Log func() string
}

// State is what can be the matter with a secret.
type State string

// The states.
const (
	Disabled    State = "disabled"
	Destroyed   State = "destroyed" // this version for good
	Deleted     State = "deleted"   // the secret, with all versions
	Expired     State = "expired"
	NotYetValid State = "not yet valid"
	Forbidden   State = "forbidden" // to the integration's identity
)

// Trouble is what can be the matter with a store.
type Trouble string

// The troubles.
const (
	Throttling  Trouble = "throttling"
	Silent      Trouble = "silent" // takes requests, and answers none
	Unreachable Trouble = "unreachable"
	Failing     Trouble = "failing" // answers with its own failure, such as HTTP 500
	Redirecting Trouble = "redirecting"
	Garbling    Trouble = "garbling"  // answers 200 with something else than its protocol has
	Confusing   Trouble = "confusing" // answers with another secret of the same store
)

// Fate is what can become of a credential.
type Fate string

// The fates.
const (
	Refused Fate = "refused" // the login fails
	Revoked Fate = "revoked" // what was issued so far is refused, a new login succeeds
)
