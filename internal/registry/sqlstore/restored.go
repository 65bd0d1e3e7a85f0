package sqlstore

import (
	"bytes"
)

// Position is a place in the history of a database. Two databases, or one before
// and after a backup was restored, have the same Position only if they hold the
// same integrations.
type Position struct {
	// Revision counts changes. Stamp is random and belongs to the change; it is ""
	// where there was none.
	Revision int64  `json:"revision"`
	Stamp    string `json:"stamp"`
}

// Restored says that a database has gone back: a backup was restored, a failover
// lost commits, or somebody has put another database in its place. What it holds
// now is served, since all replicas have to go by the same database and no replica
// could hold on to what it alone remembers; so grants that were revoked may be in
// force again.
type Restored struct {
	// Was is what was seen last, Is what the database has now.
	Was, Is Position
	// Known is false if it was found out at start: then Was is that of an earlier
	// process, and Reversals are not known.
	Known bool
	// Reversals are the integrations that differ, by ID.
	Reversals []Reversal
}

// Reversal is an integration that a restored database has otherwise.
type Reversal struct {
	ID string
	// Before is the document that was seen last, After that of the database; nil for
	// none. They are equal if only credentials differ.
	Before, After []byte
}

// Position returns the place in the database's history that is served.
func (s *Store) Position() Position {
	n := s.current.Load()
	return Position{n.revision, n.stamp}
}

// wentBack reports whether what the database holds does not follow from what was
// seen last. logged is the stamp that the log of changes has for the revision that
// was seen last, "" if it has none, as when there were very many changes since.
func wentBack(last Position, st *state, logged string) bool {
	switch {
	case last.Stamp == "":
		return false // nothing was seen yet
	case st.revision < last.Revision:
		return true
	case st.revision == last.Revision:
		return st.stamp != last.Stamp
	default:
		return logged != "" && logged != last.Stamp
	}
}

// reversals are the integrations of these ids, sorted, that next has otherwise.
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

// noteRestored tells of a database that has gone back.
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
