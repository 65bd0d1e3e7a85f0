package sqlstore

import (
	"bytes"
)

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
}

// Reversal is an integration that differs in the restored database.
type Reversal struct {
	ID string
	// Before is the document that was seen last, After the one in the database; nil if
	// there is none. They are equal if only the credentials differ.
	Before, After []byte
}

// Position returns the position in the database's history that is being served.
func (s *Store) Position() Position {
	n := s.current.Load()
	return Position{n.revision, n.stamp}
}

// wentBack reports whether the database's state does not follow from the position that was
// seen last. logged is the stamp that the change log has for that revision, or "" if the
// log does not have it, for example after very many changes.
func wentBack(last Position, st *state, logged string) bool {
	switch {
	case last.Stamp == "":
		return false // no position is known yet
	case st.revision < last.Revision:
		return true
	case st.revision == last.Revision:
		return st.stamp != last.Stamp
	default:
		return logged != "" && logged != last.Stamp
	}
}

// reversals returns those of the given integrations that differ in next. ids are sorted.
func reversals(last, next *snapshot, ids []string) []Reversal {
	var all []Reversal
	for _, id := range ids {
		r := Reversal{ID: id}
		old, now := last.get(id), next.get(id)
		if old != nil {
			r.Before = bytes.Clone(old.spec)
		}
		if now != nil {
			r.After = bytes.Clone(now.spec)
		}
		if old != nil || now != nil {
			all = append(all, r)
		}
	}
	return all
}

// noteRestored reports that the database has gone back to an earlier state.
func (s *Store) noteRestored(last, next *snapshot, ids []string) {
	r := Restored{Was: Position{last.revision, last.stamp}, Is: Position{next.revision, next.stamp}, Known: last.read}
	if last.read {
		r.Reversals = reversals(last, next, ids)
	}
	s.cfg.Logger.Warn("the integrations' database has gone back: a backup was restored, or a failover lost changes; grants that were revoked may be in force again",
		"backend", s.d.name, "was_revision", r.Was.Revision, "is_revision", r.Is.Revision, "integrations_that_differ", len(r.Reversals), "differences_known", r.Known)
	if s.cfg.OnRestored != nil {
		s.cfg.OnRestored(r)
	}
}
