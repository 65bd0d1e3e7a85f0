package dirstore

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

// maxNotices is how many files are looked at by their names; when more have
// changed, it is as quick to look at all.
const maxNotices = 1000

// follow is Run without its end while a look hangs.
func (f *Store) follow(ctx context.Context) {
	w := &watch{files: f}
	defer w.close()
	w.start()
	poll := time.NewTicker(f.interval)
	defer poll.Stop()
	// What changed since Open has not been notified of.
	f.update(f.poll)
	var due <-chan time.Time // fires when the debounce is over
	notices, lost := make(map[string]struct{}), false
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.events():
			if len(notices) <= maxNotices {
				notices[e.Name] = struct{}{}
			}
			if due == nil {
				due = time.After(debounce)
			}
		case err := <-w.errors():
			// An overflow above all: something has changed, nobody knows what.
			f.log.Warn("notices of changes were lost", "dir", f.dir, "error", err)
			lost = true
			if due == nil {
				due = time.After(debounce)
			}
		case <-due:
			if lost {
				f.lookAtAll(false)
			} else {
				f.update(func() error { return f.noticed(notices) })
			}
			clear(notices)
			due, lost = nil, false
		case <-poll.C:
			w.follow()
			f.update(f.poll)
		}
	}
}

// watch is the system's notification of changes in the directory. Where there
// is none its channels are nil, which blocks, and the poll does all the work.
type watch struct {
	files   *Store
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
