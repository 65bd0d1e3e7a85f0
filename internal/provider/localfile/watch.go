package localfile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// watchLimits bound the work of one watcher.
type watchLimits struct {
	// dirs is the maximum number of directories that are watched. The kernel limits those of
	// all processes of a user (fs.inotify.max_user_watches).
	dirs int
	// listed is the maximum number of directory entries that are read at once to find
	// directories.
	listed int
	// look is the interval between looks for directories of the integration that have
	// appeared, or that others have replaced: the kernel watches a directory itself and not
	// its path. retry is the time until the directories that are not watched are tried again.
	look, retry time.Duration
	// settle is how long no change must have been reported before the changes are passed on.
	// A program that overwrites a file first empties it, and a read must not see that.
	settle time.Duration
}

var defaultLimits = watchLimits{dirs: 1024, listed: 20_000, look: 2 * time.Second, retry: time.Minute, settle: 100 * time.Millisecond}

// maxSettleTime is the longest that watchLimits.settle delays a change.
const maxSettleTime = time.Second

// watcher watches the directories of a notifier. It belongs to one goroutine.
type watcher struct {
	*fsnotify.Watcher
	n       *notifier
	roots   []*root
	dirs    map[string]struct{} // all watched directories
	pending map[string]*change  // by root
	first   time.Time           // when the first of pending was reported
	settled *time.Timer
}

// root is a directory that the integration lists.
type root struct {
	dir string
	// info is that of the watched directory; nil if it does not exist, or was removed.
	info   fs.FileInfo
	looked bool
	// links is whether there may be symbolic links below it. A file is then known by names
	// under which its changes are not reported.
	links bool
	// problem is why some of the directories below it are not watched, if they are not, and
	// tried when it was found.
	problem string
	tried   time.Time
}

// watch reports changes of the notifier's directories to it until ctx ends. It returns an
// error if the kernel has no way to watch directories.
func watch(ctx context.Context, n *notifier) error {
	w, err := newWatcher(n)
	if err != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s", whyUnwatched(err)).WithCause(err)
	}
	defer func() { _ = w.Close() }() // nothing to flush
	defer w.settled.Stop()
	look := time.NewTicker(n.limits.look)
	defer look.Stop()
	w.look()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			w.handle(e)
		case err := <-w.Errors: // typically an overflow of the kernel's queue
			n.log.Warn("the file system lost notifications of changes", "error", err)
			w.lost()
		case <-look.C:
			w.look()
		case <-w.settled.C:
			n.report(w.pending)
			w.pending = make(map[string]*change)
		}
	}
}

func newWatcher(n *notifier) (*watcher, error) {
	f, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{Watcher: f, n: n, dirs: make(map[string]struct{}), pending: make(map[string]*change), settled: time.NewTimer(time.Hour)}
	w.settled.Stop()
	for _, dir := range n.dirs {
		w.roots = append(w.roots, &root{dir: dir})
	}
	return w, nil
}

// tryWatch returns why a directory cannot be watched, or "".
func tryWatch(dir string) (why string) {
	w, err := newWatcher(&notifier{dirs: []string{dir}, limits: defaultLimits})
	if err != nil {
		return whyUnwatched(err)
	}
	defer func() { _ = w.Close() }() // nothing to flush
	r := w.roots[0]
	w.lookAt(r)
	if r.info == nil {
		return "there is no such directory that can be read"
	}
	return r.problem
}

// lost begins again after the kernel lost notifications of changes.
func (w *watcher) lost() {
	for _, r := range w.roots {
		if r.info != nil {
			r.info = nil
			w.note(r, "")
		}
	}
	w.look()
}

func (w *watcher) look() {
	for _, r := range w.roots {
		before := r.problem
		w.lookAt(r)
		if r.problem != "" && r.problem != before {
			w.n.log.Warn("not all changes of files are reported; the broker reads watched files every few seconds instead", "dir", r.dir, "problem", r.problem)
		}
	}
}

// lookAt starts watching a root if it is not being watched. Everything in a directory that
// appears at its path, or is no longer there, has changed.
func (w *watcher) lookAt(r *root) {
	info, err := os.Stat(r.dir)
	if err == nil && !info.IsDir() {
		err = fs.ErrNotExist
	}
	if real, e := filepath.EvalSymlinks(r.dir); err == nil && (e != nil || isKernel(real)) {
		err = fs.ErrNotExist
	}
	first := !r.looked
	r.looked = true
	switch {
	case err != nil && r.info == nil:
		return
	case err != nil:
		w.drop(r.dir)
		r.info = nil
	case r.info != nil && os.SameFile(info, r.info):
		if r.problem != "" && time.Since(r.tried) > w.n.limits.retry {
			r.problem = ""
			w.watch(r, r.dir)
		}
		return
	default:
		w.drop(r.dir)
		r.links, r.problem = false, ""
		w.watch(r, r.dir)
		r.info = info
	}
	if !first {
		w.note(r, "")
	}
}

// watch watches a directory of a root and those below it, the closest first.
func (w *watcher) watch(r *root, dir string) {
	left := w.n.limits.listed
	r.tried = time.Now()
	for queue := []string{dir}; len(queue) > 0; queue = queue[1:] {
		dir := queue[0]
		if _, known := w.dirs[dir]; !known && len(w.dirs) >= w.n.limits.dirs || left <= 0 {
			r.problem = "it has too many directories or files below it"
			return
		}
		if err := w.Add(dir); err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // else removed meanwhile
				r.problem = whyUnwatched(err)
			}
			continue
		}
		w.dirs[dir] = struct{}{}
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		entries, _ := f.ReadDir(left + 1) // of a directory that is removed meanwhile, some
		_ = f.Close()                     // it was only read
		left -= len(entries)
		for _, e := range entries {
			switch {
			case e.IsDir():
				queue = append(queue, filepath.Join(dir, e.Name()))
			case e.Type()&fs.ModeSymlink != 0:
				r.links = true
			}
		}
	}
}

// drop stops watching a directory and those below it. It returns false if none of them was
// watched.
func (w *watcher) drop(dir string) (watched bool) {
	for d := range w.dirs {
		if _, ok := below(dir, d); ok {
			_ = w.Remove(d) // fails if the directory has been removed
			delete(w.dirs, d)
			watched = true
		}
	}
	return watched
}

// handle notes the change that the kernel reports.
func (w *watcher) handle(e fsnotify.Event) {
	gone := e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename)
	directory := gone && w.drop(e.Name)
	var link bool
	if e.Has(fsnotify.Create) {
		if info, err := os.Lstat(e.Name); err == nil {
			directory, link = directory || info.IsDir(), info.Mode()&fs.ModeSymlink != 0
		}
	}
	for _, r := range w.roots {
		name, ok := below(r.dir, e.Name)
		if !ok {
			if _, above := below(e.Name, r.dir); above && gone {
				r.info = nil // looked for with the next look
				w.note(r, "")
			}
			continue
		}
		if gone && name == "" {
			r.info = nil
		}
		r.links = r.links || link
		if directory && e.Has(fsnotify.Create) {
			w.watch(r, e.Name)
		}
		switch {
		case name == "" || directory || r.links:
			w.note(r, "")
		case referable(r.dir, name):
			w.note(r, name)
		}
	}
}

// note records that a file of a root has changed, or any of them if name is "".
func (w *watcher) note(r *root, name string) {
	now := time.Now()
	if len(w.pending) == 0 {
		w.first = now
	}
	c := w.pending[r.dir]
	if c == nil {
		c = &change{at: now}
		w.pending[r.dir] = c
	}
	c.add(name)
	w.settled.Reset(min(w.n.limits.settle, w.first.Add(maxSettleTime).Sub(now)))
}

// below returns the path of a file relative to dir, "" for dir itself. ok is false if the file
// is neither dir nor below it.
func below(dir, file string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(file, dir)
	if !ok || rest == "" {
		return "", ok
	}
	return strings.CutPrefix(rest, "/")
}

// referable reports whether a reference can name the file.
func referable(dir, name string) bool {
	want := secret.Ref{Kind: secret.KindLocalFile, Store: StoreOf(dir), Name: name}
	ref, err := secret.ParseRef(want.Store + "::" + name)
	return err == nil && ref == want
}

// whyUnwatched describes why the kernel does not watch a directory.
func whyUnwatched(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EMFILE):
		return "the kernel's limit of watches is reached; raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"
	case errors.Is(err, fs.ErrPermission):
		return "the broker's user may not list a directory; grant it the permission"
	default:
		return "the kernel does not report changes of this file system"
	}
}
