// Package cache keeps secrets in memory for a short while and reads each one
// once, however many callers want it.
//
// It owns freshness: how old an answer may be, when a newer read replaces it,
// how failures are remembered, and how often one secret may be read. It knows
// neither callers nor stores: the caller of Get has checked the permission and
// passes the Loader that reads the store.
//
// Beneath lies ristretto, which bounds the memory and nothing more. It may drop
// or refuse an entry at any time, applies new entries late, keeps the first of
// two that are set in a row and knows keys only by a hash, so nothing here
// relies on an entry being there, being the newest or being the right one:
//
//   - an entry carries its full Key and the time of its read, and both are
//     checked on every hit;
//   - a call that waited for a load is answered from the load, not from ristretto;
//   - loads of one key never overlap, and a load is over only when ristretto
//     shows its entry or none.
package cache
