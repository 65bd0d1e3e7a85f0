package dirstore

import (
	"path/filepath"

	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// expected is what a poll compares with. The stamps stand side by side in memory
// and are not read from the integrations one by one: of ten thousand, those are
// all over the heap, and to get at them takes as long as to ask the system.
type expected struct {
	groups []*group
	// apart are the integrations' files that are looked at one by one: those that
	// are not stable, and those that have changed since.
	apart   map[string]struct{}
	changes int
}

// maxChanges is how many changes are looked at one by one, before what is
// expected is put together anew.
const maxChanges = 250

// group are files of one directory, which is held open while a poll looks at
// them: the system then walks one name for each and not the whole path, which
// takes a third of the time.
type group struct {
	dir   string // with a separator at its end, or ""
	files []expectedFile
}

// expectedFile is a file as it looked when it was read.
type expectedFile struct {
	name  string
	stamp filestamp.Stamp
	// affects are the integrations' files that are to be read if it looks
	// otherwise: itself, or those that name it.
	affects []string
}

// newExpected says what files look like if nothing has changed.
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
	named := make(map[string]position, len(files)) // what several may name
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

// changed notes that another file is known of that path.
func (ex *expected) changed(path string) {
	ex.apart[path] = struct{}{}
	ex.changes++
}

// unlike returns those of the integrations' files, perhaps more than once, that
// are affected by what looks otherwise, or are not stable.
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

// looksSame reports whether a poll takes it that nothing has changed.
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
