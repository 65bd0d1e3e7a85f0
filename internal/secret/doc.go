// Package secret defines the terms that the rest of the broker shares: a
// reference to a secret (Ref), the secret that a store returned (Secret), one
// value of it (Value), and the reasons for a failure (Reason, Error).
//
// # Scope
//
// The package owns the syntax of references and the memory that holds secrets.
// It knows how each kind of store spells and compares names, because policy and
// cache must compare names in the same way as the store. Otherwise a caller could
// get around a policy, or split the cache, by spelling a name differently.
//
// The package must not know callers, policies, gRPC, caches or any store's SDK,
// and it imports no other internal package. Clients use it too, to check a
// reference before they send it.
//
// # Reading order
//
//  1. reason.go: Reason and Error, which every other file returns.
//  2. kind.go: the kinds of stores, and the functions that each kind supplies.
//  3. ref.go: Ref and ParseRef, the only constructor of a Ref. text.go and host.go
//     contain the checks that all kinds share; azure.go, aws.go, gcp.go, vault.go
//     and local.go contain the rules of one kind each.
//  4. secret.go and payload.go: Secret, its reference count and its JSON members,
//     which members.go finds.
//  5. value.go, hidden.go and decode.go: Value, which a caller owns and wipes.
//
// # Rejections never quote their input
//
// A user who pastes a password where a reference belongs must not find it in an
// error, a log or an audit record. Every rejection is therefore a fixed text. It
// may contain a number that depends on the input, such as a byte position, and
// nothing else. A fuzz test compares the texts with the complete list.
//
// # Secret and Value: one shared buffer, many copies
//
// One read of a store can answer many callers, so its document is shared. A
// document that the garbage collector frees stays in memory until something else
// overwrites it. The broker therefore overwrites it as soon as the last user is
// done, which requires a count of the users: Secret has Retain and Release for
// that. Select copies the requested value out of the document while it holds a
// reference. A caller thus gets either the complete value or an error, never a
// value that is half overwritten, and it can wipe its copy without coordinating
// with other callers.
//
// Wiping works only if no other copy exists. This is why members.go does not
// decode the document with encoding/json, which allocates strings that cannot be
// overwritten, and why buffers are allocated at their final size: append leaves
// the old array behind when it grows a slice.
//
// # Printing
//
// A String method does not protect a value in an unexported field: package fmt
// reads such fields by reflection and does not call their methods. Secret and
// Value therefore keep their bytes behind an unsafe.Pointer, which reflection
// cannot follow because it does not know the type of the target. See hidden.
package secret
