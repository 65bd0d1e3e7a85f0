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

// holdTime is how long the integrations of files that vanished together are still served.
// It gives people time to notice, for example, an unmounted volume, and it bounds how long
// a grant remains in force that was revoked by removing several files.
const holdTime = 5 * time.Minute

// vanished tracks files that are no longer in the directory.
//
// Deleting one file may be a revocation and takes effect at once. If several files vanish
// in one look, or all of them with the directory, the likely cause is an accident, such as
// an unmounted volume or a wrong checkout. These files are held.
type vanished struct {
	// held are the files whose integrations are still served, with the time at which they
	// vanished.
	held map[string]time.Time
	// absent and replaced are whether, at the last look, the directory did not exist, or
	// was not the same directory as before.
	absent, replaced bool
	// confirmed is set during Reload, which confirms that the current content is intended.
	confirmed bool
}

// holdVanished returns the missing files whose removal takes effect now, and holds the
// others. loaded is the new state of the changed files. missing must include all missing
// files.
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

// losses returns the missing files whose integration no other file has taken over. A
// renamed file takes over its integration. If the directory does not exist, losses returns
// all missing files.
func (f *Store) losses(missing, changed []string, loaded []*file) map[string]bool {
	lost := make(map[string]bool)
	if len(missing) == 0 {
		return lost
	}
	apart := make(map[string]bool, len(missing)+len(changed)) // files whose previous ids do not count
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

// heldServing returns the number of integrations that are served from held files.
func (f *Store) heldServing() (n int64) {
	for path := range f.vanished.held {
		if f.files[path].serving != nil {
			n++
		}
	}
	return n
}

// heldText returns the fault of one held file.
func heldText(since time.Time) string {
	return fmt.Sprintf("the file vanished together with others, and its last content is in effect until %s; put the file back, or send SIGHUP if it was meant to be removed",
		since.Add(holdTime).UTC().Format(time.RFC3339))
}

// maxNamed is the maximum number of held files that a fault lists.
const maxNamed = 5

// heldFault returns the fault that lists the held files, or "".
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
