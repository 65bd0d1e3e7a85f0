package registry

// Position is a position in the history of a database. Two databases, or one database
// before and after a restore, have the same Position only if they hold the same
// integrations.
type Position struct {
	// Revision counts changes. Stamp is a random value that identifies the change; it is
	// "" before the first change.
	Revision int64  `json:"revision"`
	Stamp    string `json:"stamp"`
}

// Restored reports that a database has gone back to an earlier state: a backup was
// restored, a failover lost commits, or the database was replaced by another one. The
// Store serves what the database holds now, because all replicas must follow the same
// database and no replica could keep what it alone remembers. Grants that had been revoked
// may therefore be in force again.
type Restored struct {
	// Was is the position that was seen last, Is the database's current one.
	Was, Is Position
	// Known is false if the change was found at start: then Was comes from an earlier
	// process, and Reversals are unknown.
	Known bool
	// Reversals are the integrations that differ, sorted by ID.
	Reversals []Reversal
	// LostDenials are the subjects of denials that the restored database does not have.
	LostDenials []string
}

// Reversal is an integration that differs in the restored database.
type Reversal struct {
	ID string
	// Before is the document that was seen last, After the one in the database; nil if
	// there is none. They are equal if only the credentials differ.
	Before, After []byte
}
