// Package authz decides which caller may read which secret through an integration,
// and which caller may manage integrations.
//
// # Scope
//
// The package owns the identity of a caller (Principal), the grants of an
// integration in compiled form (Policy), and roles (Roles, Authority). Access that
// is not granted is denied, and a nil Policy denies everything.
//
// The package is pure: it does no I/O and has no clock. It must not know gRPC,
// certificates, caches, storage or how a policy is written in a file. Its callers
// derive the Principal from a verified certificate, and parse and canonicalize
// references; see package secret.
//
// # Reading order
//
//  1. principal.go: Principal, and the syntax of patterns that match principals.
//  2. policy.go: Grant, NewPolicy and Decide, which every Resolve calls for each
//     reference. patterns.go is the map behind it.
//  3. role.go: Roles, Action and Authority, for the management of integrations.
//     holders.go finds the roles of a principal among those of many integrations.
//  4. explain.go and rule.go: the questions of operators, such as who can read a
//     secret and what a change of a policy grants. They examine every grant and must
//     not be used on the path of a Resolve.
//
// # Patterns have one open end
//
// A pattern is a literal text, or a literal prefix followed by "*"; a pattern for
// principals can also end in "/**" or begin with "dns:*.". There are no other
// wildcards and no regular expressions. NewPolicy can therefore store every pattern
// in a map, and Decide only looks up the prefixes of the caller's ID and of the
// secret's name. A decision takes the same time with ten grants as with a hundred
// thousand, and a reader of a policy sees directly what a pattern matches.
//
// # One grant must allow everything
//
// A request is allowed only if a single grant matches the principal, the store, the
// secret and the key. Parts of different grants never combine: a grant for one key
// of a secret and a grant for another store do not yield the key in that store.
//
// # Denied and StoreNotAllowed
//
// StoreNotAllowed is returned only to callers that a grant matches in everything
// except the integration's list of stores. It tells these callers what to fix. All
// others get Denied, so that a caller without a grant cannot find out which stores
// an integration lists.
//
// # Two implementations
//
// Decide uses the compiled maps; explain.go compares pattern by pattern. Tests
// compare Decide with a third, simple implementation for generated policies, and
// check that each explanation agrees with the decision.
package authz
