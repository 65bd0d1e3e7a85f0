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

// Stdout is the file name that stands for standard output.
const Stdout = "stdout"

// Config says where records go. Only Path is required.
type Config struct {
	// Path is the file to append to, or Stdout. It may be a symbolic link; it
	// leads to a regular file or a character device.
	Path string
	// Sync forces the records of every group commit to the disk (fsync) before
	// its Writes return. It has no effect on what is not a regular file.
	Sync bool
	// Key, if not nil, makes the chain one that cannot be computed without it.
	Key *chain.Key
	// Copies are sent every record as well.
	Copies []syslog.Copy
	// Logger is told of what no caller can be told; nil is silence.
	Logger *slog.Logger
}

// Open opens the log for appending, creating its file readable to its owner
// only, and goes on with the chain that stands in it. The error says so if
// another process writes the file.
func Open(cfg Config) (*Log, error) {
	l := newLog(cfg.Path, nil)
	l.sync, l.header, l.linker = cfg.Sync, chain.Opened, chain.NewLinker(cfg.Key)
	if cfg.Path == Stdout {
		l.w = os.Stdout
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

// openFirst opens the file at path and takes up the chain in it.
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

// reopen makes the file now at path the one that is written; if that is another
// one, a segment header in it names the head of the old one. On error the old file
// stays. Only the writer calls it.
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

// syncDir makes a new file's name as durable as its records. A file system that
// cannot do so for a directory is no reason to refuse it.
func (l *Log) syncDir() error {
	if !l.sync || !l.regular {
		return nil
	}
	dir, err := os.Open(filepath.Dir(l.path))
	if err != nil {
		return nil //nolint:nilerr // a directory that may be searched but not read
	}
	_ = dir.Sync()
	return dir.Close()
}

// openFileUnless opens and locks the file at path, unless it is the one that is
// open already, which our own lock would refuse.
func openFileUnless(path string, open os.FileInfo) (*os.File, os.FileInfo, error) {
	if info, err := os.Stat(path); err == nil && open != nil && os.SameFile(info, open) {
		return nil, nil, nil
	}
	return openFile(path)
}

// openFile opens path without ever waiting for somebody at the other end, and
// locks it if it is a regular file.
func openFile(path string) (*os.File, os.FileInfo, error) {
	// Asked before, since opening may do something to a device or to whoever
	// reads a FIFO, and after, since it may have become another file meanwhile.
	if info, err := os.Stat(path); err == nil {
		if err := checkKind(path, info.Mode()); err != nil {
			return nil, nil, err
		}
	}
	// O_NONBLOCK matters for the opening alone: a FIFO without a reader fails.
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

// checkKind refuses what a log cannot be appended to, or what blocks by nature.
func checkKind(path string, mode fs.FileMode) error {
	if mode.IsRegular() || mode&fs.ModeCharDevice != 0 {
		return nil
	}
	return fmt.Errorf("%s is neither a regular file nor a character device; for a pipe use %q", path, Stdout)
}

// endsWithinLine reports whether a file that is not empty lacks its last
// newline.
func endsWithinLine(f *os.File, size int64) bool {
	last := make([]byte, 1)
	_, err := f.ReadAt(last, size-1)
	return size > 0 && err == nil && last[0] != '\n'
}

// Refuses reports whether every Write fails just now: the last write of the file
// failed, or the one under way takes too long. It becomes false by itself: after a
// failure the Log tries again, at least every ten seconds.
func (l *Log) Refuses() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed || l.failed != nil || !l.busySince.IsZero() && time.Since(l.busySince) >= l.patience
}

// Problem says what is wrong with the log just now, in words for an operator;
// it is empty if all is well. It costs one stat of the path.
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
		// The path is not looked at: that may hang where the write does.
		all = append(all, fmt.Sprintf("%v, for %v now", errStuck, busy.Round(time.Second)))
	} else if file != nil {
		switch now, err := os.Stat(l.path); {
		case err != nil:
			all = append(all, fmt.Sprintf("the file being written is no longer at its path: %v; send SIGHUP to open it anew", err))
		case !os.SameFile(now, file):
			all = append(all, fmt.Sprintf("the file being written is no longer the one at %s; send SIGHUP to open it anew", l.path))
		}
	}
	for _, c := range l.copies {
		if text := c.Problem(); text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}
