//go:build unix

package keyfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("k3y-of-this-test"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, mode := range []os.FileMode{0o600, 0o400, 0o700} {
		if data, err := Read(write("good", mode), 16); err != nil || string(data) != "k3y-of-this-test" {
			t.Errorf("mode %o: %q, %v", mode, data, err)
		}
	}
	for _, mode := range []os.FileMode{0o644, 0o604, 0o602, 0o620, 0o660, 0o601} {
		if _, err := Read(write("open", mode), 16); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := Read(write("long", 0o600), 15); err == nil || !strings.Contains(err.Error(), "larger than 15 bytes") || strings.Contains(err.Error(), "k3y") {
		t.Errorf("a long file: %v", err)
	}
	if _, err := Read(filepath.Join(dir, "nowhere"), 16); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir} {
		if _, err := Read(path, 16); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// info is the os.FileInfo of a file with the given owner and mode.
type info struct {
	mode os.FileMode
	uid  uint32
}

func (info) Name() string        { return "key" }
func (info) Size() int64         { return 0 }
func (i info) Mode() fs.FileMode { return i.mode }
func (info) ModTime() time.Time  { return time.Time{} }
func (info) IsDir() bool         { return false }
func (i info) Sys() any          { return &syscall.Stat_t{Uid: i.uid} }

// TestGroupOfRoots: the group may read a file of root, such as a mounted Kubernetes secret.
func TestGroupOfRoots(t *testing.T) {
	for _, tt := range []struct {
		info
		process int
		refused bool
	}{
		{info{0o440, 0}, 1000, false},
		{info{0o640, 0}, 1000, false},
		{info{0o440, 0}, 0, true},
		{info{0o440, 1000}, 1000, true},
		{info{0o460, 0}, 1000, true},
		{info{0o444, 0}, 1000, true},
	} {
		if got := tooOpenFor(tt.info, tt.process); (got != "") != tt.refused {
			t.Errorf("mode %o of %d, read by %d: %q", tt.mode, tt.uid, tt.process, got)
		}
	}
}

func TestReadRegularAndReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"one", "two"} {
		if err := Replace(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadRegular(path, 3); err != nil || string(got) != content {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRegular(path, 3); err != nil {
		t.Errorf("a file that others may read: %v", err)
	}
	if _, err := ReadRegular(path, 2); err == nil {
		t.Error("a file that is too large was read")
	}
	if _, err := ReadRegular(dir, 3); err == nil {
		t.Error("a directory was read")
	}
	if err := Replace(dir, nil); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}
