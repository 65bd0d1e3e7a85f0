// Package events reads secrets when a cloud says that they have changed.
//
// A Receiver has one goroutine for each source of events (source.go): a queue that an
// integration configures for its own stores, or one that the operator configures for many
// integrations. The goroutine receives messages, matches each event with the integrations
// that it may concern (match.go), requests reads, and acknowledges the messages. A source
// that hangs delays no other.
//
// An event is a hint. It causes a read of the store through the resolver, and nothing else:
// the load tells the watch.Hub and the other replicas what it has seen. Only what is held is
// read (held.go): what this replica has in its cache, what is watched through it, and what
// another replica has read lately. A secret that has the version of the event is not read.
// So duplicates, the order of messages and forged messages do not matter: the worst that a
// message can cause is a few reads.
//
// The reads are limited (reads.go): one read of a secret in two seconds, and limits on the
// rate and the number of concurrent reads of one source and of all. Sources take turns. The
// memory depends on the number of secrets that are held, not on that of messages.
//
// The package never sees the value of a secret, and keeps nothing of a message but the
// version in it.
package events
