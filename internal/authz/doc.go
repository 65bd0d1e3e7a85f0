// Package authz decides who may read which secret through an integration.
//
// It is pure: no gRPC, cache, storage or clock, and no I/O. A Policy is compiled
// once from an integration's stores and grants and then only read, so that a
// decision costs the same with ten grants as with a hundred thousand. What is
// not granted is denied, and so is everything that a nil Policy is asked.
package authz
