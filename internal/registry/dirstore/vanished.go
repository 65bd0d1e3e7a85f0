package dirstore

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
)

// holdTime is how long the integrations of files that vanished together are still
// served. It gives people the time to notice that a volume is not mounted, and
// bounds how long a grant lives that was taken away by removing several files.
const holdTime = 5 * time.Minute

// vanished is what is known of files that are no longer in the directory.
//
// One file that is deleted may be a revocation and takes effect at once. Several
// that vanish in one look, or all of them with their directory, are more likely an
// accident: a volume that is not mounted, a wrong checkout. These are held.
type vanished struct {
	// held are the files whose integrations are still served, and since when.
	held map[string]time.Time
	// absent and replaced say of the last look that there was no directory, or
	// another one than before.
	absent, replaced bool
	// confirmed: somebody has asked for a reload, and means what is there now.
	confirmed bool
}

// holdVanished returns those of the files that are not in the directory whose
// removal takes effect now, and holds the others. loaded are what the changed files
// hold now. Callers pass all files that are missing.
func (f *Store) holdVanished(missing, changed []string, loaded []*file) (removed []string) {
	now := f.now()
	lost := f.losses(missing, changed, loaded)
	fresh := 0
	for path := range lost {
		if _, held := f.vanished.held[path]; !held {
			fresh++
		}
	}
	together := f.vanished.absent || fresh > 1 || (f.vanished.replaced && len(missing) == len(f.files))
	held := make(map[string]time.Time)
	for _, path := range missing {
		since, was := f.vanished.held[path]
		if !was {
			since = now
		}
		if lost[path] && !f.vanished.confirmed && (was || together) && elapsed.Between(since, now) < holdTime {
			held[path] = since
		} else {
			removed = append(removed, path)
		}
	}
	f.vanished.held = held
	return removed
}

// losses returns those of the missing files whose integration no other file has
// taken over, as it does when files are renamed. Without a directory that is all of
// them.
func (f *Store) losses(missing, changed []string, loaded []*file) map[string]bool {
	lost := make(map[string]bool)
	if len(missing) == 0 {
		return lost
	}
	apart := make(map[string]bool, len(missing)+len(changed)) // files whose ids do not count as they are
	for _, path := range slices.Concat(missing, changed) {
		apart[path] = true
	}
	taken := make(map[string]bool) // ids
	for _, next := range loaded {
		if next != nil && next.Integration != nil {
			taken[next.Integration.ID] = true
		}
	}
	for _, path := range missing {
		serving := f.files[path].serving
		if f.vanished.absent {
			lost[path] = true
			continue
		}
		if serving == nil || taken[serving.ID] {
			continue
		}
		if !slices.ContainsFunc(f.declared[serving.ID], func(c *file) bool { return !apart[c.path] && c.Integration != nil }) {
			lost[path] = true
		}
	}
	return lost
}

// heldServing is how many integrations are served although their files vanished.
func (f *Store) heldServing() (n int64) {
	for path := range f.vanished.held {
		if f.files[path].serving != nil {
			n++
		}
	}
	return n
}

// maxNamed is how many of the files that are held a fault names.
const maxNamed = 5

// heldFault says which files are held; "" if none are.
func (f *Store) heldFault() string {
	if len(f.vanished.held) == 0 {
		return ""
	}
	paths := slices.Sorted(maps.Keys(f.vanished.held))
	first := f.vanished.held[paths[0]]
	names := make([]string, 0, maxNamed)
	for i, path := range paths {
		if since := f.vanished.held[path]; since.Before(first) {
			first = since
		}
		if i < maxNamed {
			names = append(names, filepath.Base(path))
		}
	}
	more := ""
	if n := len(paths) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("integrations are served although their files vanished together: %s%s; put the files back, or send SIGHUP if they were meant to be removed; without either, the removal takes effect at %s",
		strings.Join(names, ", "), more, first.Add(holdTime).UTC().Format(time.RFC3339))
}
