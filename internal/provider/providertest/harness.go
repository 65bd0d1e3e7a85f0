// Package providertest tests the contract that every kind of store must meet.
//
// Run runs one suite for all kinds, against a small World that each kind's tests
// start. A kind that cannot have a case declares an exception, with the reason. Env
// is the environment for the tests that a kind has in addition to the suite.
//
// The package knows the contract of provider.Provider and no store.
package providertest

import (
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
)

// Harness connects the suite to one kind of store.
type Harness struct {
	// Start starts an empty store without faults. Its resources are released at the
	// end of the test.
	Start func(t testing.TB) *World
	// Biggest is the size of the largest value that the store accepts, in bytes.
	Biggest int
	// Exceptions maps each case that this store cannot have to the reason: a property
	// of the store, or of the server that replaces it in the test.
	Exceptions map[string]string
}

// World is one running store and an integration that may read it. The functions
// whose cases are exceptions may be nil.
type World struct {
	Integration *integration.Integration
	Opener      provider.Opener
	// Ref returns the reference to the current version of the secret that Put sets
	// under that name. The name consists of lower-case letters and hyphens.
	Ref func(name string) string
	// Foreign is a reference of the kind to a store that the integration does not
	// list.
	Foreign string
	// Put sets the current version of a secret and returns its identifier, as in
	// Secret.Version and after "#" in a reference. The value is valid UTF-8 unless
	// the case "binary" is not an exception.
	Put func(t testing.TB, name string, value []byte) (version string)
	// Document converts the suite's text to a value of the store. Nil means that the
	// value is the text itself; a store whose secrets are documents returns a
	// document that contains it.
	Document func(text string) string
	// UnknownVersion is an identifier that no version has.
	UnknownVersion string
	// Become puts a secret's current version into a state.
	Become func(t testing.TB, name string, state State)
	// Suffer makes the store respond to every later read with the trouble.
	Suffer func(t testing.TB, trouble Trouble)
	// Login changes the integration's credential from now on.
	Login func(t testing.TB, fate Fate)
	// Reads returns the number of requests for secrets that have reached the store.
	Reads func() int
	// Private are texts other than the values that must not be in any error or log:
	// passwords and tokens.
	Private []string
	// Log returns what the provider has logged.
	Log func() string
}

// State is the state of a secret.
type State string

// The states.
const (
	Disabled    State = "disabled"
	Destroyed   State = "destroyed" // only this version, permanently
	Deleted     State = "deleted"   // the secret, with all versions
	Expired     State = "expired"
	NotYetValid State = "not yet valid"
	Forbidden   State = "forbidden" // for the integration's identity
)

// Trouble is a fault of a store.
type Trouble string

// The troubles.
const (
	Throttling  Trouble = "throttling"
	Silent      Trouble = "silent" // accepts requests and does not respond
	Unreachable Trouble = "unreachable"
	Failing     Trouble = "failing" // responds with an error of its own, such as HTTP 500
	Redirecting Trouble = "redirecting"
	Garbling    Trouble = "garbling"  // responds with 200 and a body that is not of its protocol
	Confusing   Trouble = "confusing" // responds with another secret of the same store
)

// Fate is what happens to a credential.
type Fate string

// The fates.
const (
	Refused Fate = "refused" // the login fails
	Revoked Fate = "revoked" // everything issued so far is refused, a new login succeeds
)
