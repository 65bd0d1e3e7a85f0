// Package secret is the vocabulary of the broker: a reference to a secret
// (Ref), what a store answered (Secret), the value inside (Value), and the
// reasons for which there is none (Reason, Error).
//
// It imports nothing internal and knows neither callers, gRPC, caches nor any
// store's SDK. What it does know is how each kind of store spells and compares
// its names, because policy and cache must compare them as the store does.
package secret
