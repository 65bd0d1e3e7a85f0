package sqlstore

import "github.com/secretbroker/secretbroker/internal/registry"

// Position returns the position in the database's history that is being served.
func (s *Store) Position() registry.Position {
	return s.current.Load().position()
}

func (n *snapshot) position() registry.Position {
	return registry.Position{Revision: n.revision, Stamp: n.stamp}
}

// wentBack reports whether the database's state does not follow from the position that was
// seen last. logged is the stamp that the change log has for that revision, or "" if the
// log does not have it, for example after very many changes.
func wentBack(last registry.Position, st *state, logged string) bool {
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
func reversals(last, next *snapshot, ids []string) []registry.Reversal {
	var all []registry.Reversal
	for _, id := range ids {
		r := registry.Reversal{ID: id}
		old, now := last.get(id), next.get(id)
		if old != nil {
			r.Before = []byte(old.spec)
		}
		if now != nil {
			r.After = []byte(now.spec)
		}
		if old != nil || now != nil {
			all = append(all, r)
		}
	}
	return all
}

// noteRestored reports that the database has gone back to an earlier state.
func (s *Store) noteRestored(last, next *snapshot, ids []string) {
	r := registry.Restored{Was: last.position(), Is: next.position(), Known: last.read}
	if last.read {
		r.Reversals = reversals(last, next, ids)
		r.LostDenials = lostDenials(last.denials, next.denials, s.cfg.Now())
	}
	s.cfg.Logger.Warn("the integrations' database has gone back: a backup was restored, or a failover lost changes; grants that were revoked may be in force again, and denials be lost",
		"backend", s.d.name, "was_revision", r.Was.Revision, "is_revision", r.Is.Revision, "integrations_that_differ", len(r.Reversals), "differences_known", r.Known, "lost_denials", r.LostDenials)
	if s.cfg.OnRestored != nil {
		s.cfg.OnRestored(r)
	}
}
