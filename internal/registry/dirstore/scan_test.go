package dirstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/filestamp"
)

// notice handles notifications of these files, as Run does.
func (w *world) notice(names ...string) {
	w.removed, w.changed = nil, nil
	paths := make(map[string]struct{})
	for _, name := range names {
		paths[w.path(name)] = struct{}{}
	}
	w.files.update(func() error { return w.files.noticed(paths) })
}

// TestNoticedAlone: a notification causes reads of the affected files only.
func TestNoticedAlone(t *testing.T) {
	w := newWorld(t, map[string]string{
		"a.yaml": managed("a", "aaa"), "b.yaml": managed("b", "bbb"), "c.yaml": withSecret("c", "password"), "password": "hunter2",
	})
	w.write("a.yaml", managed("a", "changed"))
	w.write("b.yaml", managed("b", "changed"))
	w.write("password", "hunter3")
	w.notice("a.yaml", "a.yaml.tmp", ".hidden.yaml")
	w.told(nil, []string{"a"})
	w.notice("password")
	w.told(nil, []string{"c"})
	w.poll()
	w.told(nil, []string{"b"})

	w.write("d.yaml", managed("d", "ddd"))
	w.notice("d.yaml")
	w.told(nil, []string{"d"})
	w.remove("d.yaml")
	w.notice("d.yaml")
	w.told([]string{"d"}, nil)
	if err := os.Mkdir(w.path("e.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.notice("e.yaml")
	w.told(nil, nil)
	w.faulty()
	w.serves("a", "b", "c")
}

// A file with a notification is read even if its stamp is unchanged.
func TestNoticedTrustsNoStamps(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	w.overwrite("a.yaml", managed("a", "bbb"))
	w.files.files[w.path("a.yaml")].stamp = filestamp.At(filestamp.NoDirectory, w.path("a.yaml"))
	w.poll()
	w.told(nil, nil)
	w.notice("a.yaml")
	w.told(nil, []string{"a"})
}

// TestNoticedLink: a change of a link to which no integration refers directly may change
// a file to which one refers.
func TestNoticedLink(t *testing.T) {
	for what, lay := range map[string]func(w *world){
		"file": func(w *world) {
			if err := os.Symlink("current/a.yaml", w.path("a.yaml")); err != nil {
				t.Fatal(err)
			}
		},
		"credential": func(w *world) {
			if err := os.Symlink("current/password", w.path("password")); err != nil {
				t.Fatal(err)
			}
			w.write("a.yaml", withSecret("a", "password"))
		},
		"credential below": func(w *world) { w.write("a.yaml", withSecret("a", "current/password")) },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, nil)
			release := func(name, secret string) {
				if err := os.Mkdir(w.path(name), 0o700); err != nil {
					t.Fatal(err)
				}
				w.write(filepath.Join(name, "a.yaml"), withSecret("a", w.path("current/password")))
				w.write(filepath.Join(name, "password"), secret)
				if err := os.Symlink(name, w.path("next")); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(w.path("next"), w.path("current")); err != nil {
					t.Fatal(err)
				}
			}
			release("1", "hunter2")
			lay(w)
			w.reload()
			w.serves("a")
			release("2", "hunter3")
			w.notice("2", "next", "current")
			w.told(nil, []string{"a"})
			w.faulty()
		})
	}
}

// TestNoticedWithoutDirectory: files that are missing for a moment, while another
// directory replaces theirs, remove no integration.
func TestNoticedWithoutDirectory(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": managed("b", "bbb")})
	moved := w.dir + ".moved"
	if err := os.Rename(w.dir, moved); err != nil {
		t.Fatal(err)
	}
	w.notice("a.yaml", "b.yaml")
	w.serves("a", "b")
	w.told(nil, nil)
	w.faulty(filepath.Base(w.dir))
	// The same holds if the directory is removed after it was listed.
	if gone := w.files.takeUp([]string{w.path("a.yaml"), w.path("b.yaml")}, nil, 1); !gone {
		t.Error("that files are gone was not noticed")
	}
	w.serves("a", "b")
	if err := os.Rename(moved, w.dir); err != nil {
		t.Fatal(err)
	}
	// A file that the new directory does not contain is held.
	w.remove("b.yaml")
	w.notice("a.yaml")
	w.told(nil, nil)
	w.serves("a", "b")
	w.faulty(filepath.Base(w.dir))
	w.reload()
	w.told([]string{"b"}, nil)
	w.faulty()
}

// TestSharedCredential: integrations that refer to the same file may have read it at
// different times.
func TestSharedCredential(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": withSecret("a", "password"), "b.yaml": withSecret("b", "password"), "password": "hunter2"})
	w.poll()
	w.write("password", "hunter3")
	w.write("b.yaml", withSecret("b", "password")+"display_name: b\n")
	w.notice("b.yaml")
	w.told(nil, []string{"b"})
	w.poll()
	w.told(nil, []string{"a"})
	w.write("password", "hunter4")
	w.poll()
	w.told(nil, []string{"a", "b"})
	w.remove("password")
	w.poll()
	w.told(nil, nil)
	w.faulty("a.yaml serves a", "b.yaml serves b")
	w.write("password", "hunter5")
	w.poll()
	w.told(nil, []string{"a", "b"})
	w.faulty()
}

// TestPollAfterManyChanges: a poll finds a change whether the file is checked individually
// or in a group.
func TestPollAfterManyChanges(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": withSecret("a", "password"), "b.yaml": withSecret("b", "password"), "password": "hunter2"})
	for i := range maxChanges + 3 {
		w.write("a.yaml", withSecret("a", "password")+fmt.Sprintf("display_name: %d\n", i))
		w.poll()
		w.told(nil, []string{"a"})
		w.poll()
		w.told(nil, nil)
	}
	w.write("password", "hunter3")
	w.poll()
	w.told(nil, []string{"a", "b"})
}

// TestNoticedMuch: after very many notifications everything is read.
func TestNoticedMuch(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	w.write("a.yaml", managed("a", "bbb"))
	names := make([]string, maxNotices+1)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	w.notice(names...)
	w.told(nil, []string{"a"})
}

// TestPollLists: a poll lists the directory if its stamp has changed, and from time to
// time in case the stamp does not reveal a change.
func TestPollLists(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	listed := func() bool {
		before := w.files.listing.at
		w.clock = w.clock.Add(time.Second)
		w.poll()
		return w.files.listing.at != before
	}
	if listed() {
		t.Error("a directory that has not changed is listed")
	}
	w.write("a.yaml", managed("a", "bbb"))
	if listed() {
		t.Error("a directory is listed because of what is in a file")
	}
	w.told(nil, []string{"a"})
	tick(t, w.dir)
	w.write("b.yaml", managed("b", "bbb"))
	if !listed() {
		t.Error("a directory that has changed is not listed")
	}
	w.told(nil, []string{"b"})
	w.clock = w.clock.Add(relistAfter)
	if !listed() {
		t.Error("an old list is believed")
	}
	// A stamp does not reveal changes within one tick of the directory's clock.
	w.clock = time.Unix(0, filestamp.At(filestamp.NoDirectory, w.dir).Changed)
	w.files.Reload()
	for range 2 {
		if !listed() {
			t.Error("a list is believed that is as old as the directory")
		}
	}
}
