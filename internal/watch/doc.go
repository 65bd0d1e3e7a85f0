// Package watch tells callers when the secrets that they hold change. It never sees a
// value: it compares versions.
//
// A Hub knows which secrets are watched and by which streams. Each watched secret is one
// target, however many streams watch it. The Hub reads a target again once per
// time-to-live of its integration (clock.go), and learns from every other read that the
// cache makes (Hub.Loaded), which then takes the place of the next one of its own. Hints
// cause a read and nothing else: a state comes only from a read.
//
// A Stream has the items of one caller (stream.go). It is level-triggered: a change marks
// the items of the target, and the stream's own goroutine compares each marked item with
// what it has said before. An item has one mark and one last state, so the memory of a
// stream does not depend on how often secrets change or how slowly its caller reads.
//
// The decision whether the caller may know is made in that comparison, for every notice. A
// change of an integration marks all of its items, so that a lost grant is noticed without
// a change of the secret.
//
// The package knows neither gRPC nor the audit log. Package resolve opens streams and
// records what they tell.
package watch
