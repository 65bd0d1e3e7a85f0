package dirstore

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// snapshot is what the Store serves at one point in time. It is immutable.
type snapshot struct {
	byID   map[string]served
	sorted []*integration.Integration // sorted by ID
	faults []registry.FileFault       // sorted by File, the directory's fault first
	// unserved are the integrations of invalid files of which nothing is in effect, sorted
	// by id.
	unserved []unserved
	// held are the files that vanished together, with the time at which they did.
	held map[string]time.Time
}

// served is an integration and the file that defines it.
type served struct {
	in       *integration.Integration
	from     *file
	document string
	modified time.Time
}

// unserved is an integration of which nothing is in effect.
type unserved struct {
	id, path string
	faults   strictyaml.Faults
}

// index lists files by a key (a declared id, or the path of a referenced file), sorted by
// path. It is kept between reloads, because searching ten thousand files for one change
// would take longer than all other work.
type index map[string][]*file

func byPath(f *file, path string) int { return strings.Compare(f.path, path) }

// add adds f. It replaces an entry with the same path.
func (x index) add(key string, f *file) {
	i, found := slices.BinarySearchFunc(x[key], f.path, byPath)
	if !found {
		x[key] = slices.Insert(x[key], i, f)
	}
	x[key][i] = f
}

// remove removes the file with this path.
func (x index) remove(key, path string) {
	i, found := slices.BinarySearchFunc(x[key], path, byPath)
	if !found {
		return
	}
	if x[key] = slices.Delete(x[key], i, i+1); len(x[key]) == 0 {
		delete(x, key)
	}
}

// effectiveID returns the id that f declares. A file that has become invalid keeps the id
// that is served from it. A file that never was valid has the id that can be determined
// from it, so that no other file can take over this id.
func (f *file) effectiveID() string {
	if f.Integration == nil && f.serving != nil {
		return f.serving.ID
	}
	return f.DeclaredID
}

// affected is what a reload has to decide on. A change affects no other file and no other
// id.
type affected struct {
	files map[string]*file // keyed by path
	ids   map[string]bool
}

func (c *affected) add(f *file) {
	c.files[f.path] = f
	if f.serving != nil {
		c.ids[f.serving.ID] = true
	}
}

// replace records the new states of these files, nil for a removed one, and returns what
// the change affects. last is the snapshot that is served.
func (f *Store) replace(paths []string, loaded []*file, last *snapshot) affected {
	c := affected{files: make(map[string]*file), ids: make(map[string]bool)}
	touched := make(map[string]bool) // ids
	for i, path := range paths {
		old, now := f.files[path], loaded[i]
		if old == now {
			continue
		}
		if f.expected != nil {
			f.expected.changed(path)
		}
		if old != nil {
			touched[old.indexedID] = true
			if old.serving != nil {
				touched[old.serving.ID] = true
			}
		}
		if now != nil {
			now.indexedID = now.effectiveID()
		}
		f.forget(old, now)
		if now != nil {
			touched[now.indexedID] = true
			f.know(now)
			c.add(now)
		}
	}
	for id := range touched {
		c.ids[id] = true
		for _, other := range f.declared[id] {
			c.add(other)
		}
		if s, ok := last.byID[id]; ok && f.files[s.from.path] != nil {
			c.add(f.files[s.from.path])
		}
	}
	return c
}

// know adds a file to the known files and the indexes.
func (f *Store) know(now *file) {
	f.files[now.path] = now
	if now.indexedID != "" {
		f.declared.add(now.indexedID, now)
	}
	for _, r := range now.Files {
		f.named.add(r.Path, now)
	}
	if now.linked {
		f.linked++
	}
}

// forget removes old from the known files and the indexes, except for entries that now
// will replace. Both may be nil.
func (f *Store) forget(old, now *file) {
	if old == nil {
		return
	}
	delete(f.files, old.path)
	delete(f.faulty, old.path)
	if now == nil || now.indexedID != old.indexedID {
		f.declared.remove(old.indexedID, old.path)
	}
	for _, r := range old.Files {
		if now == nil || !now.names(r.Path) {
			f.named.remove(r.Path, old.path)
		}
	}
	if old.linked {
		f.linked--
	}
}

func (f *file) names(path string) bool {
	return slices.ContainsFunc(f.Files, func(r integration.NamedFile) bool { return r.Path == path })
}

// nextSnapshot decides which file serves which id, given the last snapshot, and records
// the result in the files. It decides only on what the change affects; the rest remains
// unchanged.
func (f *Store) nextSnapshot(c affected, last *snapshot) *snapshot {
	next := &snapshot{byID: maps.Clone(last.byID)}
	for id := range c.ids {
		delete(next.byID, id)
	}
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		from := c.files[path]
		faults := from.Faults
		candidate := from.valid()
		if other := from.conflicting(f.declared[from.indexedID], last); other != nil {
			faults = append(slices.Clone(faults), from.duplicate(other))
			candidate = nil
		}
		if candidate == nil && from.serving != nil && (from.Integration == nil || len(f.declared[from.serving.ID]) == 0) {
			candidate = from.serving
		}
		from.serving = next.serve(candidate, from, last)
		if from.serving != nil {
			c.ids[from.serving.ID] = true
		}
		if delete(f.faulty, path); len(faults) > 0 {
			f.faulty[path] = fileFault(from, faults)
		}
	}
	next.sorted = merge(last.sorted, next, c.ids)
	f.describeFaults(next)
	return next
}

// describeFaults sets the fields of a snapshot that say what is at fault.
func (f *Store) describeFaults(next *snapshot) {
	next.faults, next.held = f.atFault(), f.vanished.held
	byID := make(map[string]unserved)
	for _, ff := range next.faults {
		from := f.files[ff.File]
		if from == nil || from.serving != nil {
			continue
		}
		id := from.probableID()
		if _, isServed := next.byID[id]; id == "" || isServed {
			continue
		}
		u, found := byID[id]
		if !found {
			u = unserved{id: id, path: ff.File}
		}
		u.faults = append(u.faults, ff.Faults...)
		byID[id] = u
	}
	next.unserved = slices.SortedFunc(maps.Values(byID), func(a, b unserved) int { return strings.Compare(a.id, b.id) })
}

// probableID returns the id that f declares or, if its content is too damaged to tell, the
// file's name without its extension, as "secretbroker integration export" names files.
func (f *file) probableID() string {
	if f.DeclaredID != "" {
		return f.DeclaredID
	}
	name := filepath.Base(f.path)
	if id := strings.TrimSuffix(name, filepath.Ext(name)); integration.ValidID(id) {
		return id
	}
	return ""
}

func fileFault(f *file, faults strictyaml.Faults) registry.FileFault {
	ff := registry.FileFault{File: f.path, Faults: faults}
	if f.serving != nil {
		ff.Serving = f.serving.ID
	}
	return ff
}

// atFault returns the current faults, in the order of snapshot.faults.
func (f *Store) atFault() []registry.FileFault {
	var list []registry.FileFault
	if faults := f.directoryFaults(); len(faults) > 0 {
		list = append(list, registry.FileFault{File: f.dir, Faults: faults})
	}
	for _, path := range slices.Sorted(maps.Keys(f.faulty)) {
		list = append(list, f.faulty[path])
	}
	return list
}

// directoryFaults returns the faults of the directory itself.
func (f *Store) directoryFaults() (faults strictyaml.Faults) {
	for _, text := range []string{f.unreadable, f.heldFault()} {
		if text != "" {
			faults = append(faults, strictyaml.Fault{File: f.dir, Text: text})
		}
	}
	return faults
}

// serve adds v, which may be nil. If it equals the integration served before, the
// previous object is kept, even if its file was renamed.
func (s *snapshot) serve(v *version, from *file, last *snapshot) *version {
	if v == nil {
		return nil
	}
	if old, ok := last.byID[v.ID]; ok && old.in.Revision == v.Revision {
		v = &version{old.in, v.document, v.modified}
	}
	s.byID[v.ID] = served{v.Integration, from, v.document, v.modified}
	return v
}

// merge returns the integrations of next, sorted by ID. They differ from last only in ids.
func merge(last []*integration.Integration, next *snapshot, ids map[string]bool) []*integration.Integration {
	sorted := make([]*integration.Integration, 0, len(next.byID))
	rest := last
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		at, found := slices.BinarySearchFunc(rest, id, func(in *integration.Integration, id string) int { return strings.Compare(in.ID, id) })
		sorted = append(sorted, rest[:at]...)
		if found {
			at++
		}
		rest = rest[at:]
		if s, ok := next.byID[id]; ok {
			sorted = append(sorted, s.in)
		}
	}
	return append(sorted, rest...)
}

// conflicting returns a file because of which f cannot have the id that both declare: the
// file from which the id was last served or, if it is neither of them, any other.
func (f *file) conflicting(declaring []*file, last *snapshot) *file {
	if len(declaring) < 2 {
		return nil
	}
	incumbent := ""
	if s, ok := last.byID[f.indexedID]; ok {
		incumbent = s.from.path
	}
	var other *file
	for _, c := range declaring {
		switch {
		case c.path == incumbent:
			if c == f {
				return nil
			}
			return c
		case c != f && other == nil:
			other = c
		}
	}
	return other
}

func (f *file) duplicate(other *file) strictyaml.Fault {
	return strictyaml.Fault{File: f.path, Line: f.Line, Path: "id",
		Text: "also claimed by " + filepath.Base(other.path) + "; give each integration an id of its own"}
}
