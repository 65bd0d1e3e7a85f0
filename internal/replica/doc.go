// Package replica lets the replicas of the broker share which versions of secrets they have
// seen, so that a replica does not answer with an old version after another one has seen a
// new one. It never sees a value.
//
// # Sightings
//
// A Table in the database has one row for each secret of an integration: the version that
// was seen last and when. A replica keeps a mirror of it. A read whose version is not the
// mirror's writes a row, in the background (Tracker.Saw). Each row has a sequence number,
// which grows in the order of the commits. Every replica polls the rows after the last
// number that it has applied; a notification only makes it poll earlier. For each new row it
// removes the entry of its cache that is older, and tells the watchers of the secret to
// read it now. A call that is answered from the cache does not use this package.
//
// # Order
//
// Versions have no order, so reads are ordered by time. The row has the time at which the
// read had ended. A read with another version that began before that time may be older, so
// it is dropped, and the next call reads the secret again. If two reads overlap, both are
// dropped: each replica drops its own when it gets the row of the other. That a secret was
// deleted or disabled is a version like others (Tracker.SawNone): a replica that is told of it
// asks the store.
//
// No clock of one machine is compared with that of another. A writer sends how long ago its
// read ended, and the database subtracts that from its own clock. A reader gets the age of
// the row by the same clock, and subtracts it from its monotonic clock. A delay on the way
// makes a row appear newer than the read was, which costs another read. If the writer waits
// for a connection, and another replica reads a newer version meanwhile, that replica drops
// it; the old version remains where it was read until a call reads the secret again or its
// time-to-live ends. A jump of the database's clock shows as a row that is older than the
// last poll that did not have it; the replica then takes the row for new.
//
// # Watched secrets
//
// A replica whose clients watch a secret reads it again in time. After such a read it writes
// when the read began (Tracker.ReadWatched), with the version that the row has already. The
// other replicas postpone their own reads (Config.Fresh). If they do not get the row, they
// read. What is not known makes a row appear older here, because an old row causes a read.
//
// # Limits
//
// Two replicas that see versions in turns, because a store is not consistent, drop each
// other's reads. The number of drops of one secret is limited (see dropBurst), and beyond
// it they are delayed.
//
// # Leases
//
// Each replica has a lease with the last sequence number that it has applied.
// Tracker.Confirm writes rows and waits until every lease has their number. A lease that
// has expired is that of a replica that is dead, or alive and without the database. Such a
// replica answers from its cache, and stops only after Config.ServesFor. Until then Confirm
// names it. A replica that stops deletes its lease, and one that replaces a dead process of
// the same name deletes that of its predecessor.
package replica
