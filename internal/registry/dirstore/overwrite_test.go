package dirstore

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/filestamp"
)

// overwrite writes a file in place with content of the same length, and resets its
// modification time.
func (w *world) overwrite(name, content string) {
	w.Helper()
	before, err := os.Stat(w.path(name))
	if err != nil || before.Size() != int64(len(content)) {
		w.Fatalf("%v, or another length than %d", err, len(content))
	}
	w.write(name, content)
	if err := os.Chtimes(w.path(name), time.Time{}, before.ModTime()); err != nil {
		w.Fatal(err)
	}
}

// Reload finds a change whatever the time stamps are. A poll finds it where the system
// records a change time, which writers cannot set.
func TestOverwrittenInPlace(t *testing.T) {
	looks := map[string]func(*world){"Reload": (*world).reload}
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
		looks["poll"] = (*world).poll
	}
	for name, look := range looks {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": withSecret("b", "password"), "password": "hunter2"})
			w.serves("a", "b")
			tick(t, w.path("a.yaml"), w.path("password"))
			w.overwrite("a.yaml", managed("a", "bbb"))
			look(w)
			w.told(nil, []string{"a"})
			if got := w.get("a").Settings.StoreNames()[0]; got != "https://bbb.vault.azure.net" {
				t.Errorf("the change went unnoticed: %s", got)
			}
			w.overwrite("password", "hunter3")
			look(w)
			w.told(nil, []string{"b"})
			look(w)
			w.told(nil, nil)
			w.faulty()
		})
	}
}

// tick returns once the file system's clock has advanced since these files were written.
func tick(t *testing.T, paths ...string) {
	t.Helper()
	written := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	probe := filepath.Join(t.TempDir(), "probe")
	for _, path := range paths {
		for now := written(path); !now.After(written(path)); now = written(probe) {
			if err := os.WriteFile(probe, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Reload relies on no time stamp.
func TestReloadTrustsNoStats(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": withSecret("b", "password"), "password": "hunter2"})
	w.overwrite("a.yaml", managed("a", "bbb"))
	w.overwrite("password", "hunter3")
	for _, f := range w.files.files { // as if no stamp had changed
		f.stamp = filestamp.At(filestamp.NoDirectory, f.path)
		for i, r := range f.Files {
			f.contents[i].Stamp = filestamp.At(filestamp.NoDirectory, r.Path)
		}
	}
	w.poll()
	w.told(nil, nil)
	w.reload()
	w.told(nil, []string{"a", "b"})
}
