package dirstore

import (
	"path/filepath"

	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// expected is the state with which a poll compares the files. It stores the stamps
// contiguously, because the integrations are spread over the heap: reading the stamps of
// ten thousand integrations from there would take as long as the system calls.
type expected struct {
	groups []*group
	// apart are the integrations' files that a poll checks individually: those that are
	// not stable, and those that changed after expected was built.
	apart   map[string]struct{}
	changes int
}

// maxChanges is the maximum number of changed files that polls check individually. Beyond
// it, expected is built again.
const maxChanges = 250

// group is the files of one directory. A poll opens the directory while it checks them, so
// that the system resolves one name per file instead of the whole path, which takes a
// third of the time.
type group struct {
	dir   string // with a separator at its end, or ""
	files []expectedFile
}

// expectedFile is a file with its stamp from when it was read.
type expectedFile struct {
	name  string
	stamp filestamp.Stamp
	// affects are the integrations' files to read if the stamp differs: the file itself,
	// or the files that refer to it.
	affects []string
}

// newExpected builds the expected state from the known files.
func newExpected(files map[string]*file) *expected {
	type position struct {
		group *group
		index int
	}
	ex := &expected{apart: make(map[string]struct{})}
	groups := make(map[string]*group)
	add := func(path string, s filestamp.Stamp, affects []string) position {
		dir, name := filepath.Split(path)
		g := groups[dir]
		if g == nil {
			g = &group{dir: dir}
			groups[dir] = g
			ex.groups = append(ex.groups, g)
		}
		g.files = append(g.files, expectedFile{name, s, affects})
		return position{g, len(g.files) - 1}
	}
	named := make(map[string]position, len(files)) // files that several integrations may refer to
	for path, f := range files {
		if !f.stable {
			ex.apart[path] = struct{}{}
			continue
		}
		itself := []string{path}
		add(path, f.stamp, itself)
		for i, r := range f.Files {
			p, ok := named[r.Path]
			if ok && p.group.files[p.index].stamp == f.contents[i].Stamp {
				e := &p.group.files[p.index]
				e.affects = append(e.affects, path)
				continue
			}
			named[r.Path] = add(r.Path, f.contents[i].Stamp, itself)
		}
	}
	return ex
}

// changed records that the state of the file at path was replaced.
func (ex *expected) changed(path string) {
	ex.apart[path] = struct{}{}
	ex.changes++
}

// unlike returns the integrations' files to read: those affected by a file whose stamp
// differs, and those that are not stable. The result may contain duplicates.
func (ex *expected) unlike(files map[string]*file) (paths []string) {
	for _, g := range ex.groups {
		paths = g.unlike(paths, ex.apart)
	}
	look := integration.NewLook()
	for path := range ex.apart {
		if f := files[path]; f != nil && !f.looksSame(look) {
			paths = append(paths, path)
		}
	}
	return paths
}

// looksSame reports whether a poll may assume that nothing has changed.
func (f *file) looksSame(look *integration.Look) bool {
	if !f.stable || f.stamp != look.Stamp(f.path) {
		return false
	}
	for i, r := range f.Files {
		if f.contents[i].Stamp != look.Stamp(r.Path) {
			return false
		}
	}
	return true
}

func (g *group) unlike(paths []string, apart map[string]struct{}) []string {
	dir := filestamp.NoDirectory
	if len(g.files) > 1 {
		if dir = filestamp.OpenDirectory(g.dir); dir != filestamp.NoDirectory {
			defer filestamp.CloseDirectory(dir)
		}
	}
	for i := range g.files {
		e := &g.files[i]
		name := e.name
		if dir == filestamp.NoDirectory {
			name = g.dir + name
		}
		if filestamp.At(dir, name) == e.stamp {
			continue
		}
		for _, path := range e.affects {
			if _, ok := apart[path]; !ok {
				paths = append(paths, path)
			}
		}
	}
	return paths
}
