package dirstore

import (
	"context"
	"io/fs"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
)

// debounce is how long Run waits after the first notification of a change: writing a file,
// or swapping a mounted ConfigMap, takes several steps.
const debounce = 100 * time.Millisecond

// maxNotices is the maximum number of notified files that are read individually. Beyond
// it, a poll of all files is as fast.
const maxNotices = 1000

// follow is Run without the bounded wait for a look that hangs.
func (f *Store) follow(ctx context.Context) {
	w := &watch{files: f}
	defer w.close()
	w.start()
	poll := time.NewTicker(f.interval)
	defer poll.Stop()
	// The watch does not report changes made between Open and its start.
	f.update(f.poll)
	var due <-chan time.Time // fires at the end of the debounce
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
			// Typically an overflow: something has changed, but it is unknown what.
			f.log.Warn("the file system lost notifications of changes", "dir", f.dir, "error", err)
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
		case <-f.overdue:
			w.follow()
			f.update(f.poll)
			f.late.end() // also if the look has failed
		}
	}
}

// watch receives the system's notifications of changes in the directory. Without system
// support its channels are nil and never ready, and only polls find changes.
type watch struct {
	files   *Store
	watcher *fsnotify.Watcher
	watched fs.FileInfo // the watched directory, or nil
	warned  bool        // whether the failure to watch has been logged
}

func (w *watch) start() {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		w.files.log.Warn("the file system reports no changes; the broker polls instead", "dir", w.files.dir, "error", err)
		return
	}
	w.watcher = watcher
	w.follow()
}

// follow starts watching the directory, and does so again if another directory has
// replaced it: the system watches the directory itself, not its path.
func (w *watch) follow() {
	if w.watcher == nil {
		return
	}
	dir, err := os.Stat(w.files.dir)
	if err != nil {
		w.watched = nil // Reload reports it
		return
	}
	// Removing a directory ends its watch, and a new directory may have the same inode.
	if w.watched != nil && os.SameFile(dir, w.watched) && len(w.watcher.WatchList()) > 0 {
		return
	}
	_ = w.watcher.Remove(w.files.dir) // fails only if there is nothing to remove
	if err := w.watcher.Add(w.files.dir); err != nil {
		if !w.warned {
			w.files.log.Warn("the file system reports no changes; the broker polls instead", "dir", w.files.dir, "error", err)
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
		_ = w.watcher.Close() // nothing to flush
	}
}
