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

// file is the state of one file of the directory. It is immutable except for the last two
// fields, which Store.reload guards; a change of the file creates a new one.
type file struct {
	path string
	// stamp was taken before the content was read, so that a write during the read is
	// detected as a change.
	stamp filestamp.Stamp
	sum   integration.Digest // of the content
	// document is the content if it is valid.
	document string
	integration.ParsedFile
	// contents are the contents of ParsedFile.Files, in the same order.
	contents []integration.Content
	// stable is whether a poll may conclude from an equal stamp that the content is equal.
	stable bool
	// linked is whether the content of the file, or of a file that it refers to, depends
	// on other names in the directory, as in a mounted ConfigMap.
	linked bool
	// serving is the version of this file that is in effect, or nil.
	serving *version
	// indexedID is the id under which Store.declared lists the file, or "".
	indexedID string
}

// version is valid content of a file.
type version struct {
	*integration.Integration
	document string
	modified time.Time // zero if unknown
}

// valid returns the current content of the file, or nil if it is invalid.
func (f *file) valid() *version {
	if f.Integration == nil {
		return nil
	}
	v := &version{Integration: f.Integration, document: f.document}
	if f.stamp != (filestamp.Stamp{}) {
		v.modified = time.Unix(0, f.stamp.Modified).UTC()
	}
	return v
}

// stampResolution is the age from which the time stamp of a change differs from that of
// the next change: the coarsest clock of a file system in use has a resolution of 2 s.
const stampResolution = 2 * time.Second

// filesPerWorker is the number of files that justifies another goroutine.
const filesPerWorker = 100

// read returns the current state of the files at paths, nil for those that do not exist.
// It does not modify f. It yields the CPU after each file, so that it does not delay
// calls.
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

// load reads the file at path. It returns old, which may be nil, if nothing has changed,
// and nil if the file does not exist.
func (f *Store) load(path string, old *file, look *integration.Look) *file {
	// Only a file that does not exist may be dropped. A dangling link, or a file whose
	// attributes cannot be read, is a fault.
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
		next.ParsedFile, next.document = old.ParsedFile, old.document
	} else {
		next.ParsedFile = f.kinds.ParseFile(path, data, func(r integration.NamedFile) string { return look.Read(r).Fault })
		if next.Integration != nil {
			next.document = string(data) // a copy: data is reused
		}
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

// orSame returns old if it has the same content as f.
func (f *file) orSame(old *file) *file {
	if old == nil || old.stamp != f.stamp || old.sum != f.sum || old.stable != f.stable || old.linked != f.linked ||
		!slices.Equal(old.contents, f.contents) || old.Faults.Error() != f.Faults.Error() {
		return f
	}
	return old
}

func isLink(entry os.FileInfo) bool { return entry.Mode()&os.ModeSymlink != 0 }

// leadsOn reports whether the content at path depends on another entry of the directory.
func (f *Store) leadsOn(path string) bool {
	if entry, err := os.Lstat(path); err == nil && isLink(entry) {
		return true
	}
	below, ok := strings.CutPrefix(path, f.dir+string(filepath.Separator))
	return ok && strings.ContainsRune(below, filepath.Separator)
}

// isStable returns false for files at fault, because a fix, such as a change of the owner
// or of a directory's mode, need not change their stamps.
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
