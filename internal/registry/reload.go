package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// file is what is known of one file of the directory.
type file struct {
	path string
	// stat was taken before the content was read, so that a write in between
	// shows as a change.
	stat fs.FileInfo
	sum  digest // of the content
	parsed
	// contents belong to parsed.refs.
	contents []content
	// settled: to a poll, equal stats mean equal content from now on.
	settled bool
	// serving is what is served from this file, nil if nothing is.
	serving *Integration
}

// settleTime is how old a change has to be before its time stamp tells it from
// the next one: the coarsest clock of a file system in use is 2 s.
const settleTime = 2 * time.Second

// scan returns the files of the directory. With trust, those that look as they
// did are as they are in f.files; without, every file is read.
func (f *Files) scan(trust bool) (map[string]*file, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
			paths = append(paths, filepath.Join(f.dir, e.Name()))
		}
	}
	// A start and a reload that reads everything are quicker on all CPUs; a poll
	// leaves them to the calls.
	workers := 1
	if !trust {
		workers = min(runtime.GOMAXPROCS(0), len(paths)/filesPerWorker+1)
	}
	loaded := make([]*file, len(paths))
	var loading sync.WaitGroup
	for w := range workers {
		loading.Go(func() {
			look := newInspector()
			look.blind = f.blind
			for i := w; i < len(paths); i += workers {
				loaded[i] = f.loadIfThere(paths[i], look, trust)
			}
		})
	}
	loading.Wait()
	files := make(map[string]*file, len(paths))
	for i, file := range loaded {
		if file != nil {
			files[paths[i]] = file
		}
	}
	return files, nil
}

// filesPerWorker is how many files are worth a goroutine.
const filesPerWorker = 100

// loadIfThere is load, or nil for a file that is gone. It changes nothing of f.
func (f *Files) loadIfThere(path string, look *inspector, trust bool) *file {
	if look.stat(path) == nil {
		// Only what is gone may be forgotten: a link that leads nowhere, or a
		// file that cannot be looked at, is a fault.
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return f.load(path, f.files[path], look, trust)
}

// load reads the file at path unless trust says that old, which may be nil, still
// holds if it looks the same.
func (f *Files) load(path string, old *file, look *inspector, trust bool) *file {
	stat := look.stat(path)
	if trust && old != nil && old.settled && old.sameStats(stat, look) {
		return old
	}
	next := &file{path: path, stat: stat}
	if old != nil {
		next.serving = old.serving
	}
	data, fault := look.readPage(path)
	if fault != "" {
		next.faults = strictyaml.Faults{{File: path, Text: fault}}
		return next
	}
	next.sum = sha256.Sum256(data)
	if old != nil && old.sum == next.sum && old.sameContents(look) {
		next.parsed = old.parsed
	} else {
		next.parsed = parseIntegration(path, data, func(r reference) string { return look.read(r).fault })
	}
	for _, r := range next.refs {
		next.contents = append(next.contents, look.read(r))
	}
	if next.in != nil && next.in.Revision == "" {
		next.in.Revision = next.revision()
	}
	next.settled = next.isSettled(f.now().Add(-settleTime))
	return next
}

// revision is a hash over the content of the file and of all that it names, but
// for federated tokens.
// Hashing fixed-length hashes keeps apart what stands in which file.
func (f *file) revision() string {
	h := sha256.New()
	h.Write(f.sum[:])
	for _, c := range f.contents {
		h.Write(c.sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// isSettled leaves out files at fault, because what mends them need not show in
// their stats (an owner, a directory's mode).
func (f *file) isSettled(before time.Time) bool {
	if len(f.faults) > 0 || !unchangedSince(f.stat, before) {
		return false
	}
	return !slices.ContainsFunc(f.contents, func(c content) bool { return !unchangedSince(c.stat, before) })
}

// unchangedSince reports whether a file's time stamps are all from before then.
func unchangedSince(stat fs.FileInfo, then time.Time) bool {
	return stat != nil && stat.ModTime().Before(then) && changeTime(stat).Before(then)
}

func (f *file) sameStats(stat fs.FileInfo, look *inspector) bool {
	if !sameStat(f.stat, stat) {
		return false
	}
	for i, r := range f.refs {
		if !sameStat(f.contents[i].stat, look.stat(r.path)) {
			return false
		}
	}
	return true
}

func (f *file) sameContents(look *inspector) bool {
	for i, r := range f.refs {
		if c := look.read(r); c.sum != f.contents[i].sum || c.fault != f.contents[i].fault {
			return false
		}
	}
	return true
}

func sameStat(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return false
	}
	return a.Size() == b.Size() && a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime()) &&
		changeTime(a).Equal(changeTime(b)) && os.SameFile(a, b)
}

// settle decides which file serves which id, given what was served last, and
// notes it in the files.
func settle(files map[string]*file, last *snapshot) *snapshot {
	paths := slices.Sorted(maps.Keys(files))
	claims := make(map[string][]*file, len(files))
	for _, path := range paths {
		if id := files[path].claim(); id != "" {
			claims[id] = append(claims[id], files[path])
		}
	}
	next := &snapshot{
		byID:   make(map[string]*Integration, len(files)),
		sorted: make([]*Integration, 0, len(files)),
		source: make(map[string]*file, len(files)),
	}
	for _, path := range paths {
		f := files[path]
		faults := f.faults
		candidate := f.in
		if rival := f.rival(claims[f.claim()], last); rival != nil {
			faults = append(slices.Clone(faults), f.duplicate(rival))
			candidate = nil
		}
		if candidate == nil && f.serving != nil && (f.in == nil || len(claims[f.serving.ID]) == 0) {
			candidate = f.serving
		}
		f.serving = next.serve(candidate, f, last)
		if len(faults) > 0 {
			ff := FileFault{File: path, Faults: faults}
			if f.serving != nil {
				ff.Serving = f.serving.ID
			}
			next.faults = append(next.faults, ff)
		}
	}
	slices.SortFunc(next.sorted, func(a, b *Integration) int { return strings.Compare(a.ID, b.ID) })
	return next
}

// serve adds in, which may be nil. One that is the same as before stays the
// very same, also if its file has been renamed.
func (s *snapshot) serve(in *Integration, from *file, last *snapshot) *Integration {
	if in == nil {
		return nil
	}
	if old := last.byID[in.ID]; old != nil && old.Revision == in.Revision {
		in = old
	}
	s.byID[in.ID] = in
	s.source[in.ID] = from
	s.sorted = append(s.sorted, in)
	return in
}

// claim is the id that f asks for. A broken file goes on claiming what is
// served from it; one that never was good claims what can be made out, so that
// no other file takes its place.
func (f *file) claim() string {
	if f.in == nil && f.serving != nil {
		return f.serving.ID
	}
	return f.claims
}

// rival returns a file that keeps f from having the id that both claim: the one
// that it was served from last or, if that is neither, any other.
func (f *file) rival(claimants []*file, last *snapshot) *file {
	if len(claimants) < 2 {
		return nil
	}
	incumbent := last.source[f.claim()]
	var rival *file
	for _, c := range claimants {
		switch {
		case incumbent != nil && c.path == incumbent.path:
			if c == f {
				return nil
			}
			return c
		case c != f && rival == nil:
			rival = c
		}
	}
	return rival
}

func (f *file) duplicate(rival *file) strictyaml.Fault {
	return strictyaml.Fault{File: f.path, Line: f.line, Path: "id",
		Text: "also claimed by " + filepath.Base(rival.path) + "; give each integration an id of its own"}
}
