package dirstore

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// file is what is known of one file of the directory. But for the last two fields,
// which are Files.reload's, it does not change: what has changed makes another one.
type file struct {
	path string
	// stamp was taken before the content was read, so that a write in between
	// shows as a change.
	stamp filestamp.Stamp
	sum   integration.Digest // of the content
	integration.ParsedFile
	// contents belong to ParsedFile.Files.
	contents []integration.Content
	// stable: to a poll, equal stamps mean equal content from now on.
	stable bool
	// linked: which content the file has or names is up to further names in the
	// directory, as in a mounted ConfigMap.
	linked bool
	// serving is what is served from this file, nil if nothing is.
	serving *integration.Integration
	// indexedID is the id under which Store.declared has the file, "" for none.
	indexedID string
}

// stampResolution is how old a change has to be before its time stamp tells it from
// the next one: the coarsest clock of a file system in use is 2 s.
const stampResolution = 2 * time.Second

// filesPerWorker is how many files are worth a goroutine.
const filesPerWorker = 100

// read returns what the files at paths hold now, nil for those that are gone. It
// changes nothing of f. Calls are not held up: whoever else wants to run goes
// first after each file.
func (f *Store) read(paths []string, workers int) []*file {
	loaded := make([]*file, len(paths))
	workers = min(workers, len(paths)/filesPerWorker+1)
	var loading sync.WaitGroup
	for w := range workers {
		loading.Go(func() {
			look := integration.NewLook()
			look.Blind = f.blind
			for i := w; i < len(paths); i += workers {
				loaded[i] = f.load(paths[i], f.files[paths[i]], look)
				runtime.Gosched()
			}
		})
	}
	loading.Wait()
	return loaded
}

// load reads the file at path. It returns old, which may be nil, if nothing at
// all has changed, and nil if there is no such file.
func (f *Store) load(path string, old *file, look *integration.Look) *file {
	// Only what is gone may be forgotten: a link that leads nowhere, or a file
	// that cannot be looked at, is a fault.
	entry, err := os.Lstat(path)
	if os.IsNotExist(err) || (err == nil && entry.IsDir()) {
		return nil
	}
	next := &file{path: path, stamp: look.Stamp(path), linked: err == nil && isLink(entry)}
	if old != nil {
		next.serving = old.serving
	}
	data, fault := look.ReadPage(path)
	if fault != "" {
		next.Faults = strictyaml.Faults{{File: path, Text: fault}}
		return next.orSame(old)
	}
	next.sum = sha256.Sum256(data)
	if old != nil && old.sum == next.sum && old.sameContents(look) {
		next.ParsedFile = old.ParsedFile
	} else {
		next.ParsedFile = f.kinds.ParseFile(path, data, func(r integration.NamedFile) string { return look.Read(r).Fault })
	}
	for _, r := range next.Files {
		next.contents = append(next.contents, look.Read(r))
		next.linked = next.linked || f.leadsOn(r.Path)
	}
	if next.Integration != nil && next.Integration.Revision == "" {
		next.Integration.Revision = integration.Revision(next.sum, next.contents)
		next.Integration.ReadRevision = integration.ReadRevision(next.Integration, integration.FilesSum(next.contents), nil)
	}
	next.stable = next.isStable(f.now().Add(-stampResolution))
	return next.orSame(old)
}

// orSame returns old if it says the same as f.
func (f *file) orSame(old *file) *file {
	if old == nil || old.stamp != f.stamp || old.sum != f.sum || old.stable != f.stable || old.linked != f.linked ||
		!slices.Equal(old.contents, f.contents) || old.Faults.Error() != f.Faults.Error() {
		return f
	}
	return old
}

func isLink(entry os.FileInfo) bool { return entry.Mode()&os.ModeSymlink != 0 }

// leadsOn reports whether what lies at path is up to an entry of the directory
// that has another name.
func (f *Store) leadsOn(path string) bool {
	if entry, err := os.Lstat(path); err == nil && isLink(entry) {
		return true
	}
	below, ok := strings.CutPrefix(path, f.dir+string(filepath.Separator))
	return ok && strings.ContainsRune(below, filepath.Separator)
}

// isStable leaves out files at fault, because what mends them need not show in
// their stamps (an owner, a directory's mode).
func (f *file) isStable(then time.Time) bool {
	if len(f.Faults) > 0 || !f.stamp.Before(then) {
		return false
	}
	return !slices.ContainsFunc(f.contents, func(c integration.Content) bool { return !c.Stamp.Before(then) })
}

func (f *file) sameContents(look *integration.Look) bool {
	for i, r := range f.Files {
		if c := look.Read(r); c.Sum != f.contents[i].Sum || c.Fault != f.contents[i].Fault {
			return false
		}
	}
	return true
}
