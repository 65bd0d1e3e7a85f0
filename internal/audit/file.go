package audit

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// Stdout is the file name that stands for standard output.
const Stdout = "stdout"

// Open opens the log for appending, creating it readable to its owner only. A
// path may be a symbolic link; it leads to a regular file or a character device.
func Open(path string) (*Log, error) {
	if path == Stdout {
		l := newLog(path, os.Stdout)
		go l.run()
		return l, nil
	}
	l := newLog(path, nil)
	if err := l.open(); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// open makes the file at path the one that is written. On error the old one
// stays. Only the writer calls it, or Open, before there is one.
func (l *Log) open() error {
	f, info, err := openFile(l.path)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	old := l.w
	l.w, l.torn = f, info.Mode().IsRegular() && endsWithinLine(l.path)
	l.mu.Lock()
	l.file = info
	l.mu.Unlock()
	if c, ok := old.(io.Closer); ok {
		if err := c.Close(); err != nil {
			return fmt.Errorf("close the audit log's old file: %w", err)
		}
	}
	return nil
}

// openFile opens path without ever waiting for somebody at the other end.
func openFile(path string) (*os.File, os.FileInfo, error) {
	// Asked before, since opening may do something to a device or to whoever
	// reads a FIFO, and after, since it may have become another file meanwhile.
	if info, err := os.Stat(path); err == nil {
		if err := checkKind(path, info.Mode()); err != nil {
			return nil, nil, err
		}
	}
	// O_NONBLOCK matters for the opening alone: a FIFO without a reader fails.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkKind(path, info.Mode())
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

// endsWithinLine reports whether a crash or a full disk left the file without a
// final newline, so that the next record does not run into a torn one.
func endsWithinLine(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	end, err := f.Seek(-1, io.SeekEnd)
	if err != nil || end < 0 {
		return false
	}
	last := make([]byte, 1)
	_, err = f.Read(last)
	return err == nil && last[0] != '\n'
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
	return strings.Join(all, "; ")
}
