// Package sqlstore implements registry.Store and registry.UsageStore with a database:
// SQLite for one broker, PostgreSQL for many. It owns the tables, their migrations, and
// how a change reaches every replica. Package integration parses the documents, package
// seal seals the credentials.
//
// # Reading
//
// Calls never query the database. A Store keeps a snapshot of all integrations in
// memory, immutable and replaced as a whole, and Get answers from it without a lock. So
// a slow database does not slow down a call, and a database that is down for a while
// does not fail one. Record, Records and changes that are only validated use the snapshot
// as well. Before it derives a change from a Record, a caller brings the snapshot up to
// date with Refresh, which is one look.
//
// One loop, in Run, keeps the snapshot up to date. It looks at the database every
// PollInterval, and earlier when PostgreSQL notifies it of a change; a lost notification
// therefore only costs time. A look reads one row, registry_state, over a connection
// that is used for nothing else. The row has the revision, which counts the changes, and
// the stamp, a random value that identifies the last one. If both are those of the
// snapshot, nothing has changed. Otherwise the Store loads what has.
//
// # Age
//
// Every successful look sets the time at which the snapshot was known to be current: the
// time when the look began, since a change may be committed while it runs. Get serves
// the snapshot while that time is at most MaxOutage ago, and otherwise refuses. This
// bounds how long a revoked grant can remain in use, and it does not depend on the loop
// being healthy: a look that hangs, or a loop that has stopped, lets the snapshot age. A
// process that was suspended, for example in a paused virtual machine, cannot have
// noticed an outage meanwhile. It recognizes this by a look that is overdue, and lets
// calls wait briefly for a new one.
//
// A look that a standby or a read-only server answers counts as failed: after a
// failover, a former primary may answer for hours without receiving any change.
//
// # Loading changes
//
// The table registry_changes is a log of the last changes: revision, stamp, the previous
// stamp, and the integration. If the log connects the snapshot's stamp to the current
// one without a gap, the Store reads only the integrations that it lists. If it does
// not, the Store reads the ids and etags of all integrations and then those that differ.
// This second way depends on no history, so its result is correct after any event.
//
// # Writing
//
// A write takes two round trips, and holds no lock between them. The first reads the
// integration, its credentials and the number of integrations. The Store then checks the
// change and seals new credentials. The second is one pipelined transaction: it
// increments the revision, which locks the row of registry_state and so makes it the
// only writer; appends to the log; writes the integration on the condition that its etag
// is still the one that was read; and notifies the replicas. If the etag has changed,
// another write was faster, and the write starts again. After the commit, the Store
// loads the change before it returns, so that callers of this replica can read their own
// write.
//
// # Restored databases
//
// A restored backup, a failover that lost commits, and a replaced database all look the
// same: the snapshot's stamp is no longer part of the database's history. All
// replicas must follow the same database, so the Store serves what the database now
// holds, but it reports what differs (OnRestored), because revoked grants may be in
// force again. A PositionFile keeps the revision and stamp across restarts, so that a
// restore while the broker is stopped is found as well. SQLite adds the danger that a
// replaced file is combined with the write-ahead log of the old one; see dbFile.
package sqlstore
