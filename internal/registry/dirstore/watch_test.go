package dirstore

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
)

type change struct{ Removed, Changed []string }

// running starts Run on a directory and returns the changes that OnChange reports.
func running(t *testing.T, dir string, poll time.Duration) (f *Store, changes <-chan change) {
	t.Helper()
	told := make(chan change, 100)
	f, err := Open(Config{
		Kinds:        kinds.All(),
		Dir:          dir,
		PollInterval: poll,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
		OnChange:     func(removed, changed []*integration.Integration) { told <- change{ids(removed), ids(changed)} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f, told
}

func write(t *testing.T, path, content string) {
	t.Helper()
	// Renaming, because a half-written file must not be read; other tests cover that.
	if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, changes <-chan change, want change) {
	t.Helper()
	select {
	case got := <-changes:
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	case <-time.After(time.Minute): // so that a failure does not hang
		t.Fatalf("nobody told of %+v", want)
	}
}

// never is a poll interval longer than any test: only notifications reveal changes.
const never = time.Hour

func TestRunNotified(t *testing.T) {
	dir := t.TempDir()
	_, changes := running(t, dir, never)
	write(t, filepath.Join(dir, "a.yaml"), managed("a", "aaa"))
	expect(t, changes, change{nil, []string{"a"}})
	write(t, filepath.Join(dir, "a.yaml"), managed("a", "bbb"))
	expect(t, changes, change{nil, []string{"a"}})
	if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	expect(t, changes, change{[]string{"a"}, nil})
}

func TestRunConfigMapSwap(t *testing.T) {
	dir := t.TempDir()
	mount := func(stamp, content string) {
		if err := os.Mkdir(filepath.Join(dir, stamp), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, stamp, "a.yaml"), content)
		if err := os.Symlink(stamp, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", managed("a", "aaa"))
	if err := os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f, changes := running(t, dir, never)
	mount("..2", managed("a", "bbb"))
	expect(t, changes, change{nil, []string{"a"}})
	if in, err := f.Get("a"); err != nil || in.Settings.StoreNames()[0] != "https://bbb.vault.azure.net" {
		t.Errorf("Get = %+v, %v", in, err)
	}
}

// Credential files are in another directory, which is not watched.
func TestRunPolls(t *testing.T) {
	dir, credential := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	write(t, credential, "hunter2")
	write(t, filepath.Join(dir, "a.yaml"), withSecret("a", credential))
	_, changes := running(t, dir, 10*time.Millisecond)
	write(t, credential, "hunter3")
	expect(t, changes, change{nil, []string{"a"}})
}

// Another directory replaces the watched one.
func TestRunFollowsDirectory(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "current")
	for _, release := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(parent, release), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	swap := func(release string) {
		if err := os.Symlink(release, dir+".tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+".tmp", dir); err != nil {
			t.Fatal(err)
		}
	}
	swap("1")
	write(t, filepath.Join(dir, "a.yaml"), managed("a", "aaa"))
	write(t, filepath.Join(dir, "c.yaml"), managed("c", "ccc"))
	write(t, filepath.Join(parent, "2", "c.yaml"), managed("c", "ccc"))
	f, changes := running(t, dir, 10*time.Millisecond)
	swap("2")
	expect(t, changes, change{[]string{"a"}, nil})
	write(t, filepath.Join(dir, "b.yaml"), managed("b", "bbb"))
	expect(t, changes, change{nil, []string{"b"}})
	if _, err := f.Get("b"); err != nil {
		t.Error(err)
	}
}

func TestWatchFollow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	remake := func() {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	remake()
	f, err := Open(Config{Kinds: kinds.All(), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{files: f}
	w.start()
	defer w.close()
	for i := range 4 {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		<-w.events()  // for the removal
		if i%2 == 0 { // else the directory returns before Run looks, perhaps with the same inode
			w.follow()
		}
		remake()
		w.follow()
		write(t, filepath.Join(dir, "a.yaml"), "x")
		if e := <-w.events(); filepath.Dir(e.Name) != dir {
			t.Errorf("an event of %s", e.Name)
		}
		if err := os.Remove(filepath.Join(dir, "a.yaml")); err != nil {
			t.Fatal(err)
		}
		for e := range w.events() {
			if filepath.Base(e.Name) == "a.yaml" && e.Op.String() == "REMOVE" {
				break
			}
		}
	}
}
