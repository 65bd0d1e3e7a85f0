//go:build unix

package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// disk is a file whose writes and fsyncs wait for the test.
type disk struct {
	*gate
	fsync chan error
}

func (d *disk) Sync() error { return <-d.fsync }

func newDiskLog(d *disk) *Log {
	l := newLog("", d)
	l.sync, l.regular = true, true
	go l.run()
	return l
}

// TestSyncBatch: Writes return when their batch is on the disk, and fail if it may not be.
func TestSyncBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{newGate(), make(chan error)}
		l := newDiskLog(d)
		first := write(t.Context(), l, "a")
		second, third := write(t.Context(), l, "b"), write(t.Context(), l, "c")
		d.let <- allowance{everything, nil}
		synctest.Wait()
		if len(first) != 0 {
			t.Error("a Write returned before its fsync")
		}
		d.fsync <- nil
		if err := <-first; err != nil {
			t.Error(err)
		}
		d.let <- allowance{everything, nil}
		broken := errors.New("input/output error")
		d.fsync <- broken // one for both
		if err := <-second; !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if err := <-third; !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if p := l.Problem(); !strings.Contains(p, "input/output error") {
			t.Errorf("problem %q", p)
		}
		fourth := write(t.Context(), l, "d")
		d.let <- allowance{len(d.String()) / 6, errors.New("no space left on device")} // the written part is synced, too
		d.fsync <- nil
		if err := <-fourth; err == nil {
			t.Error("a torn write succeeded")
		}
		last := write(t.Context(), l, "e")
		d.let <- allowance{everything, nil}
		d.fsync <- nil
		if err := errors.Join(<-last, l.Close()); err != nil {
			t.Error(err)
		}
		if s := l.Stats(); s.Failures != 3 || s.Batches != 4 || s.QueueBytes != 0 {
			t.Errorf("%+v", s)
		}
		// The lines of failed Writes are in the file if they could be written.
		if ids, _ := d.lines(); !strings.HasPrefix(strings.Join(ids, ""), "abc") || !strings.HasSuffix(strings.Join(ids, ""), "e") {
			t.Errorf("got %q", ids)
		}
		if r := verifyText(t, l.Head(), d.String()); r.Break != "" {
			t.Error(r.Break)
		}
	})
}

// TestEveryTornWrite: wherever and however often writes are cut off, the log declares the
// partial lines and is intact.
func TestEveryTornWrite(t *testing.T) {
	for room := range 700 {
		w := &tornWriter{room: room}
		l := New(w)
		for range 4 { // each attempt gets a few bytes further
			_ = l.Write(t.Context(), []Event{{RequestID: "lost", Outcome: Served}})
			w.room = room % 90
		}
		w.room = 1 << 20
		writeIDs(t, l, "one", "two")
		head := l.Head()
		closeLog(t, l)
		if r := verifyText(t, head, w.String()); r.Break != "" {
			t.Fatalf("room for %d bytes: %s in\n%s", room, r.Break, w.String())
		}
	}
}

// TestTornThenRotated: the partial line that a full disk left at the end of a file is
// declared in the next file.
func TestTornThenRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	w := &tornWriter{room: 1 << 20}
	l := newLog(path, w)
	go l.run()
	writeIDs(t, l, "a")
	w.room = 50
	if err := l.Write(t.Context(), []Event{{RequestID: "b"}}); err == nil {
		t.Fatal("a write to a full disk succeeded")
	}
	if err := os.WriteFile(path+".1", []byte(w.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	writeIDs(t, l, "c")
	closeLog(t, l)
	if r := verify(t, path+".1", path); r.Break != "" || r.UnchainedBytes == 0 {
		t.Errorf("%+v", r)
	}
}

// TestRemovedFile: the Log does not write to a file that has been removed.
func TestRemovedFile(t *testing.T) {
	for _, sync := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l := open(t, Config{Path: path, Sync: sync})
		writeIDs(t, l, "a")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		writeIDs(t, l, "b")
		if lines := readAll(t, path); len(lines) != 2 || !strings.Contains(lines[0], `"cause":"rotated"`) {
			t.Errorf("got %q", lines)
		}
		if p := l.Problem(); p != "" {
			t.Error(p)
		}
		if r := verify(t, path); r.Break != "" || r.First != 3 {
			t.Errorf("%+v", r)
		}
		// If no new file can be created, Write fails.
		if err := os.Rename(filepath.Dir(path), filepath.Dir(path)+".away"); err != nil {
			t.Fatal(err)
		}
		away := filepath.Join(filepath.Dir(path)+".away", "audit.jsonl")
		if err := os.Remove(away); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), []Event{{RequestID: "c"}}); err == nil {
			t.Error("a Write to a removed file succeeded")
		}
		if err := os.Rename(filepath.Dir(path)+".away", filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		writeIDs(t, l, "d")
		if lines := read(t, path); len(lines) != 1 {
			t.Errorf("got %q", lines)
		}
		closeLog(t, l)
	}
}

func TestOneProcessPerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, Config{Path: path})
	writeIDs(t, l, "a")
	if _, err := Open(Config{Path: path}); !errors.Is(err, errLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second log on the file: %v", err)
	}
	if err := l.Reopen(); err != nil { // a hangup without a rotation
		t.Errorf("Reopen: %v", err)
	}
	// After a rotation the Log locks the new file, and does not switch to a file that
	// another Log has locked.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	other := open(t, Config{Path: path})
	if err := l.Reopen(); !errors.Is(err, errLocked) {
		t.Errorf("Reopen onto another's file: %v", err)
	}
	writeIDs(t, l, "b") // the Log keeps the old file
	closeLog(t, other)
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
	if _, err := Open(Config{Path: path}); !errors.Is(err, errLocked) {
		t.Errorf("a second log on the new file: %v", err)
	}
	closeLog(t, l)
	closeLog(t, open(t, Config{Path: path}))
	if lines := read(t, path+".1"); len(lines) != 2 {
		t.Errorf("got %q", lines)
	}
}

// TestFileSizeLimit starts a process whose limit of the file size acts as a full disk, and
// then raises the limit: the log continues.
func TestFileSizeLimit(t *testing.T) {
	const env = "AUDIT_TEST_FILE"
	if path := os.Getenv(env); path != "" {
		fillDisk(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFileSizeLimit$")
	cmd.Env = append(os.Environ(), env+"="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := verify(t, path); r.Break != "" || r.UnchainedBytes == 0 {
		t.Errorf("%+v", r)
	}
	if lines := read(t, path); !strings.Contains(lines[len(lines)-1], `"after"`) {
		t.Errorf("the last line: %q", lines[len(lines)-1])
	}
}

func fillDisk(t *testing.T, path string) {
	signal.Ignore(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip(err)
	}
	all := limit.Cur
	limit.Cur = 2000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Skip(err)
	}
	l := open(t, Config{Path: path, Sync: true})
	n := 0
	for l.Write(t.Context(), []Event{{RequestID: "before"}}) == nil {
		n++
	}
	if n == 0 || n > 20 {
		t.Errorf("%d records in 2000 bytes", n)
	}
	if err := l.Write(t.Context(), []Event{{RequestID: "full"}}); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("got %v", err)
	}
	if l.Problem() == "" {
		t.Error("no problem")
	}
	limit.Cur = all
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	writeIDs(t, l, "after")
	if p := l.Problem(); p != "" {
		t.Error(p)
	}
	closeLog(t, l)
}

// TestStdoutReaderGone: a broken pipe fails the calls, and neither blocks nor ends the process.
func TestStdoutReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(Stdout, w)
	go l.run()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Write(t.Context(), []Event{{RequestID: "a"}}); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("got %v", err)
		}
	}
	closeLog(t, l)
	if err := w.Close(); err != nil {
		t.Error("the log closed standard output")
	}
}

// TestChainOfStdout: the chain of standard output begins with a segment header.
func TestChainOfStdout(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(Stdout, w)
	l.header = chain.Opened
	go l.run()
	writeIDs(t, l, "a", "b")
	head := l.Head()
	closeLog(t, l)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if r := verifyText(t, head, string(data)); r.Break != "" || !bytes.Contains(data, []byte(`"cause":"opened"`)) {
		t.Errorf("%s in %s", r.Break, data)
	}
}
