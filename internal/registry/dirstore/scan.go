package dirstore

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/filestamp"
)

// listing is the state of the directory when it was last listed.
type listing struct {
	// stamp is the directory's own stamp, taken before the directory was read.
	stamp filestamp.Stamp
	// stable is whether an equal stamp implies an unchanged set of files.
	stable bool
	at     time.Time
}

// isIntegration reports whether a file with this name defines an integration.
func isIntegration(name string) bool {
	ext := filepath.Ext(name)
	return (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(name, ".")
}

// list lists the directory. It returns the files that are new and the known files that are
// missing; missing is not nil. If the directory does not exist, it returns all known files
// as missing, and an error.
func (f *Store) list() (added, missing []string, err error) {
	next := listing{stamp: filestamp.At(filestamp.NoDirectory, f.dir), at: f.now()}
	dir, err := os.Open(f.dir)
	f.vanished.absent = errors.Is(err, fs.ErrNotExist)
	missing = make([]string, 0, len(f.vanished.held))
	if f.vanished.absent {
		return nil, slices.AppendSeq(missing, maps.Keys(f.files)), err
	}
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close() // opened for reading only
	there := make(map[*file]bool, len(f.files))
	for {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			if e.IsDir() || !isIntegration(e.Name()) {
				continue
			}
			path := filepath.Join(f.dir, e.Name())
			if known := f.files[path]; known != nil {
				there[known] = true
			} else {
				added = append(added, path)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if len(there) < len(f.files) {
		for path, known := range f.files {
			if !there[known] {
				missing = append(missing, path)
			}
		}
	}
	next.stable = next.stamp.Before(next.at.Add(-stampResolution))
	f.vanished.replaced = f.listing.stamp != (filestamp.Stamp{}) && (f.listing.stamp.Device != next.stamp.Device || f.listing.stamp.Inode != next.stamp.Inode)
	f.listing = next
	return added, missing, nil
}

// relistAfter is the maximum age of a listing. On some file systems, especially remote
// ones, the stamp of a directory does not change with its files.
const relistAfter = 30 * time.Second

// poll applies the changes that stamps reveal. It lists the directory only if its stamp
// has changed, files are held, or the last listing is too old, and it reads only the files
// that have changed.
func (f *Store) poll() (err error) {
	began := f.now()
	var changed, missing []string
	if !f.listing.stable || len(f.vanished.held) > 0 || f.now().Sub(f.listing.at) >= relistAfter || f.listing.stamp != filestamp.At(filestamp.NoDirectory, f.dir) {
		if changed, missing, err = f.list(); err != nil && !f.vanished.absent {
			return err
		}
	}
	if f.expected == nil || f.expected.changes > maxChanges {
		f.expected = newExpected(f.files)
	}
	f.takeUp(append(changed, f.expected.unlike(f.files)...), missing, runtime.GOMAXPROCS(0))
	f.looked(began)
	return err
}

// readAll applies all changes, without relying on stamps. It takes longer than poll, and
// uses one CPU to leave the others to calls.
func (f *Store) readAll() error {
	began := f.now()
	added, missing, err := f.list()
	if err != nil && !f.vanished.absent {
		return err
	}
	f.takeUp(slices.AppendSeq(added, maps.Keys(f.files)), missing, 1)
	f.looked(began)
	return err
}

// noticed applies the changes of the given files. It finds the affected integrations by
// path. If a path may be linked to others, a file is missing, or the directory itself is
// affected, it polls all files instead.
func (f *Store) noticed(paths map[string]struct{}) error {
	if _, itself := paths[f.dir]; itself || f.unreadable != "" || len(f.vanished.held) > 0 || len(paths) > maxNotices {
		return f.poll()
	}
	var concerned []string
	unknown := false
	for path := range paths {
		namers, integration := f.named[path], isIntegration(filepath.Base(path))
		if integration {
			concerned = append(concerned, path)
		}
		for _, namer := range namers {
			concerned = append(concerned, namer.path)
		}
		unknown = unknown || (!integration && len(namers) == 0)
	}
	if gone := f.takeUp(concerned, nil, runtime.GOMAXPROCS(0)); gone || (unknown && f.linked > 0) {
		return f.poll()
	}
	return nil
}

// takeUp reads the changed files and publishes the result, without the missing files that
// are not held; missing is nil if the directory was not listed. It reports whether some
// changed files did not exist. Only a listing proves that a file was removed, because all
// files are missing for a moment while another directory replaces theirs.
func (f *Store) takeUp(changed, missing []string, workers int) (gone bool) {
	slices.Sort(missing)
	slices.Sort(changed)
	changed = slices.DeleteFunc(slices.Compact(changed), func(path string) bool {
		_, ok := slices.BinarySearch(missing, path)
		return ok
	})
	loaded := f.read(changed, workers)
	for i, file := range loaded {
		if file == nil {
			loaded[i], gone = f.files[changed[i]], true
		}
	}
	if gone {
		f.listing.stable = false
	}
	var removed []string
	if missing != nil {
		removed = f.holdVanished(missing, changed, loaded)
	}
	f.install(slices.Concat(changed, removed), append(loaded, make([]*file, len(removed))...))
	return gone
}
