//go:build unix

package audit

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFileProblems: Problem reports that the open file is no longer at its path.
func TestFileProblems(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		do   func(path string) error
		want string
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"removed", os.Remove, "no such file"},
		{"moved", func(path string) error { return os.Rename(path, path+".1") }, "no such file"},
		{"replaced", func(path string) error {
			if err := os.Rename(path, path+".1"); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o600)
		}, "no longer the one at"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "link.jsonl")
			must(os.Symlink("audit.jsonl", path)) // a symbolic link to the file
			l, err := Open(Config{Path: path})
			must(err)
			defer l.Close()
			must(tt.do(filepath.Join(dir, "audit.jsonl")))
			if p := l.Problem(); (p == "") != (tt.want == "") || !strings.Contains(p, tt.want) {
				t.Errorf("problem %q", p)
			}
			must(l.Write(t.Context(), []Event{{RequestID: "a"}})) // the event is recorded nevertheless
			must(l.Reopen())
			if p := l.Problem(); p != "" {
				t.Errorf("problem after Reopen: %q", p)
			}
		})
	}
}

func TestFailedWriteIsAProblem(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip(err)
	}
	l, err := Open(Config{Path: full})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Write(t.Context(), []Event{{Connector: "not-in-messages"}}); err == nil {
		t.Error("a full device accepted an event")
	}
	if p := l.Problem(); !strings.Contains(p, "no space left") || strings.Contains(p, "not-in-messages") {
		t.Errorf("problem %q", p)
	}
}

// TestPipesAreRefused: a FIFO is refused, because its reader could block or lose the log.
func TestPipesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		if _, err := Open(Config{Path: path}); err == nil || !strings.Contains(err.Error(), "neither a regular file") {
			t.Errorf("Open %s: %v", when, err)
		}
		if err := l.Reopen(); err == nil {
			t.Errorf("Reopen %s", when)
		}
	}
	refused("without a reader")
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	refused("with a reader")
	if err := l.Write(t.Context(), []Event{{RequestID: "a"}}); err != nil {
		t.Error(err)
	}
	if lines := read(t, path+".1"); len(lines) != 1 {
		t.Errorf("the old file is not in use any more: %q", lines)
	}
}
