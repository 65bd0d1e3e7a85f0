package audit

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/syslog"
)

// Stdout is the file name that means standard output.
const Stdout = "stdout"

// Config says where records go. Only Path is required.
type Config struct {
	// Path is the file to append to, or Stdout. It must be a regular file or a
	// character device, or a symbolic link to one.
	Path string
	// Sync makes the writer call fsync for every batch before its Writes return. It has
	// no effect on files that are not regular.
	Sync bool
	// Key, if not nil, is needed to compute the chain.
	Key *chain.Key
	// Copies are the collectors that receive a copy of every record.
	Copies []syslog.Copy
	// Logger receives errors that concern no single call. Nil discards them.
	Logger *slog.Logger
}

// Open opens the log for appending and continues the chain in its file. It creates the
// file if needed, readable by its owner only. It fails if another process writes the file.
func Open(cfg Config) (*Log, error) {
	l := newLog(cfg.Path, nil)
	l.sync, l.header, l.linker = cfg.Sync, chain.Opened, chain.NewLinker(cfg.Key)
	if cfg.Path == Stdout {
		l.w = os.Stdout
		l.linker.SetRun()
	} else if err := l.openFirst(); err != nil {
		return nil, err
	}
	if cfg.Logger != nil {
		l.logger = cfg.Logger
	}
	for _, c := range cfg.Copies {
		l.copies = append(l.copies, syslog.NewCopier(c, l.logger))
	}
	go l.run()
	return l, nil
}

// openFirst opens the file at path and reads the end of its chain.
func (l *Log) openFirst() error {
	f, info, err := openFile(l.path)
	if err == nil && info.Mode().IsRegular() {
		l.head, l.unchained, l.midline, err = chain.ReadTail(f, info.Size())
		if err != nil {
			_ = f.Close() // nothing was written to it
		}
	}
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	l.use(f, info)
	return l.syncDir()
}

// reopen switches to the file that is at path now. If it is another file, its first record
// is a segment header that names the head of the old one. On error the Log keeps the old
// file. Only the writer calls reopen.
func (l *Log) reopen() error {
	f, info, err := openFileUnless(l.path, l.file)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	if f == nil {
		return nil
	}
	old := l.w
	l.midline = info.Mode().IsRegular() && endsWithinLine(f, info.Size())
	l.unchained.EndLine()
	if l.header == "" || l.header == chain.Torn {
		l.header = chain.Rotated
	}
	l.use(f, info)
	if c, ok := old.(io.Closer); ok {
		if err := c.Close(); err != nil {
			return fmt.Errorf("close the audit log's old file: %w", err)
		}
	}
	return l.syncDir()
}

func (l *Log) use(f *os.File, info os.FileInfo) {
	l.w, l.regular = f, info.Mode().IsRegular()
	l.mu.Lock()
	l.file = info
	l.mu.Unlock()
}

// syncDir makes a new file's directory entry as durable as its records. It ignores file
// systems that cannot sync a directory.
func (l *Log) syncDir() error {
	if !l.sync || !l.regular {
		return nil
	}
	dir, err := os.Open(filepath.Dir(l.path))
	if err != nil {
		return nil //nolint:nilerr // the directory may be searchable but not readable
	}
	_ = dir.Sync()
	return dir.Close()
}

// openFileUnless opens and locks the file at path. It returns nil if that is the file that
// is open already: the Log's own lock on it would make openFile fail.
func openFileUnless(path string, open os.FileInfo) (*os.File, os.FileInfo, error) {
	if info, err := os.Stat(path); err == nil && open != nil && os.SameFile(info, open) {
		return nil, nil, nil
	}
	return openFile(path)
}

// openFile opens path, and locks it if it is a regular file. It never blocks, as opening a
// FIFO without a reader would.
func openFile(path string) (*os.File, os.FileInfo, error) {
	// Check the kind before opening, because opening may affect a device or the reader of
	// a FIFO, and again after it, because the path may have been replaced meanwhile.
	if info, err := os.Stat(path); err == nil {
		if err := checkKind(path, info.Mode()); err != nil {
			return nil, nil, err
		}
	}
	// O_NONBLOCK affects the open only: it makes a FIFO without a reader fail.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkKind(path, info.Mode())
	}
	if err == nil && info.Mode().IsRegular() {
		if err = lock(f); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	if err != nil {
		_ = f.Close() // nothing was written to it
		return nil, nil, err
	}
	return f, info, nil
}

// checkKind refuses files that cannot be appended to, and those that block by nature.
func checkKind(path string, mode fs.FileMode) error {
	if mode.IsRegular() || mode&fs.ModeCharDevice != 0 {
		return nil
	}
	return fmt.Errorf("%s is neither a regular file nor a character device; for a pipe use %q", path, Stdout)
}

// endsWithinLine reports whether a non-empty file lacks its last newline.
func endsWithinLine(f *os.File, size int64) bool {
	last := make([]byte, 1)
	_, err := f.ReadAt(last, size-1)
	return size > 0 && err == nil && last[0] != '\n'
}

// Refuses reports whether Writes currently fail: the log is closed, the last commit
// failed, or the current one takes too long. After a failure the Log tries again at least
// every ten seconds, so Refuses becomes false without any Write.
func (l *Log) Refuses() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed || l.failed != nil || !l.busySince.IsZero() && time.Since(l.busySince) >= l.patience
}

// Problem describes for an operator what is wrong with the log now, "" if nothing is. It
// calls stat on the path.
func (l *Log) Problem() string {
	l.mu.Lock()
	closed, full, failed, since, file := l.closed, l.full, l.failed, l.busySince, l.file
	l.mu.Unlock()

	var all []string
	if closed {
		all = append(all, errClosed.Error())
	}
	if failed != nil {
		all = append(all, "the last write failed: "+failed.Error())
	}
	if full {
		all = append(all, errFull.Error())
	}
	if busy := time.Since(since); !since.IsZero() && busy >= l.patience {
		// Do not stat the path: that may hang like the write.
		all = append(all, fmt.Sprintf("%v (for %v so far)", errStuck, busy.Round(time.Second)))
	} else if file != nil {
		switch now, err := os.Stat(l.path); {
		case err != nil:
			all = append(all, fmt.Sprintf("the file being written is no longer at its path: %v; send SIGHUP to reopen it", err))
		case !os.SameFile(now, file):
			all = append(all, fmt.Sprintf("the file being written is no longer the one at %s; send SIGHUP to reopen it", l.path))
		}
	}
	for _, c := range l.copies {
		if text := c.Problem(); text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}
