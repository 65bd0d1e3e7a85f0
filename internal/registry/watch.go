package registry

import (
	"context"
	"io/fs"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

// debounce is how long Run waits after the first notice of a change: writing a
// file, or swapping a mounted ConfigMap, takes several steps.
const debounce = 100 * time.Millisecond

// Run makes changes take effect until ctx ends, and then returns nil. Changes
// in the directory are noticed at once where the system can notify, and make it
// read everything as Reload does; a poll finds those it does not tell of, and
// changes of the files that integrations name. Run is called once at most.
func (f *Files) Run(ctx context.Context) error {
	w := &watch{files: f}
	defer w.close()
	w.start()
	poll := time.NewTicker(f.poll)
	defer poll.Stop()
	// What changed since Open has not been notified of.
	f.Reload()
	var due <-chan time.Time // fires when the debounce is over
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.events():
			if due == nil {
				due = time.After(debounce)
			}
		case err := <-w.errors():
			// An overflow above all: something has changed, nobody knows what.
			f.log.Warn("notices of changes were lost", "dir", f.dir, "error", err)
			if due == nil {
				due = time.After(debounce)
			}
		case <-due:
			due = nil
			f.Reload()
		case <-poll.C:
			w.follow()
			f.update(true)
		}
	}
}

// watch is the system's notification of changes in the directory. Where there
// is none its channels are nil, which blocks, and the poll does all the work.
type watch struct {
	files   *Files
	watcher *fsnotify.Watcher
	watched fs.FileInfo // the directory that is watched, nil if none is
	warned  bool        // that it could not be watched
}

func (w *watch) start() {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		w.files.log.Warn("no notices of changes, polling only", "dir", w.files.dir, "error", err)
		return
	}
	w.watcher = watcher
	w.follow()
}

// follow begins to watch the directory, again if another one has taken its
// place since: what is watched is the directory, not its name.
func (w *watch) follow() {
	if w.watcher == nil {
		return
	}
	dir, err := os.Stat(w.files.dir)
	if err != nil {
		w.watched = nil // Reload reports it
		return
	}
	// A directory that is removed ends its watch; the next one may well get its
	// inode.
	if w.watched != nil && os.SameFile(dir, w.watched) && len(w.watcher.WatchList()) > 0 {
		return
	}
	_ = w.watcher.Remove(w.files.dir) // an error means that there was nothing to remove
	if err := w.watcher.Add(w.files.dir); err != nil {
		if !w.warned {
			w.files.log.Warn("no notices of changes, polling only", "dir", w.files.dir, "error", err)
		}
		w.watched, w.warned = nil, true
		return
	}
	w.watched, w.warned = dir, false
}

func (w *watch) events() <-chan fsnotify.Event {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w.watcher == nil {
		return nil
	}
	return w.watcher.Errors
}

func (w *watch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close() // nothing is written through it
	}
}
