package localfile

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// changesOf starts a notifier for directories. The returned func calls change and waits until
// the notifier has reported the events of want, each as "DIRECTORY NAME" relative to parent.
// Events that were wanted before may arrive again, because a change can take several steps;
// others must not. If nothing arrives, it calls change again.
func changesOf(t *testing.T, parent string, limits watchLimits, dirs ...string) (expect func(change func(), want ...string)) {
	t.Helper()
	n := newNotifier(slog.New(slog.NewTextHandler(t.Output(), nil)), dirs)
	n.limits = limits
	t.Cleanup(func() { must(t, n.Close()) })
	known := make(map[string]bool)
	for _, dir := range dirs { // until the directories are watched
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		known[strings.TrimPrefix(dir, parent+"/")+" begin"] = true
		for begun := false; !begun; {
			write(t, filepath.Join(dir, "begin"), "x")
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			messages, err := n.Receive(ctx)
			must(t, err)
			cancel()
			begun = len(messages) > 0
		}
	}
	return func(change func(), want ...string) {
		t.Helper()
		end := time.Now().Add(time.Minute)
		change()
		missing := make(map[string]bool)
		for _, w := range want {
			known[w], missing[w] = true, true
		}
		for len(missing) > 0 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			messages, err := n.Receive(ctx)
			cancel()
			must(t, err)
			must(t, n.Acknowledge(t.Context(), messages))
			for _, e := range eventsOf(t, parent, messages) {
				if !known[e] {
					t.Fatalf("event %q, want %q", e, want)
				}
				delete(missing, e)
			}
			if time.Now().After(end) {
				t.Fatalf("no event %v", missing)
			}
			if len(messages) == 0 {
				change()
			}
		}
	}
}

func eventsOf(t *testing.T, parent string, messages []provider.EventMessage) (events []string) {
	t.Helper()
	for _, m := range messages {
		if m.SentAt.IsZero() || m.Problem != "" || len(m.Events) == 0 {
			t.Fatalf("messages %+v", messages)
		}
		for _, e := range m.Events {
			if e.Version != "" || e.Label != "" || e.At.IsZero() || (e.Name == "") != (e.Type == directoryChanged) {
				t.Errorf("event %+v", e)
			}
			events = append(events, strings.TrimPrefix(e.Store, "file://"+parent+"/")+" "+e.Name)
		}
	}
	return events
}

// never is the limits with which only notifications lead to events.
var never = watchLimits{dirs: 100, listed: 1000, look: time.Hour, retry: time.Hour, settle: 10 * time.Millisecond}

func TestEventsOfFiles(t *testing.T) {
	parent := t.TempDir()
	dir, other := filepath.Join(parent, "a"), filepath.Join(parent, "b")
	nested := filepath.Join(dir, "nested", "more")
	must(t, os.MkdirAll(nested, 0o700))
	must(t, os.Mkdir(other, 0o700))
	expect := changesOf(t, parent, never, dir, other)
	writing := func(path ...string) func() {
		return func() { write(t, filepath.Join(path...), "x") }
	}

	expect(writing(dir, "new"), "a new")
	expect(writing(dir, "new"), "a new") // in place
	expect(func() {
		write(t, filepath.Join(dir, "temporary"), "z")
		must(t, os.Rename(filepath.Join(dir, "temporary"), filepath.Join(dir, "renamed")))
	}, "a temporary", "a renamed")
	write(t, filepath.Join(dir, "removed"), "x")
	expect(func() { _ = os.Remove(filepath.Join(dir, "removed")) }, "a removed")
	expect(writing(other, "file.properties"), "b file.properties")
	expect(writing(nested, "deep"), "a nested/more/deep")

	// No reference names these files, so their changes concern no secret.
	write(t, filepath.Join(dir, "ünnameable"), "x")
	write(t, filepath.Join(dir, "..hidden"), "x")
	expect(writing(dir, "last"), "a last")
}

// A file of a nested listed directory is a secret of both.
func TestEventsOfNestedDirectories(t *testing.T) {
	parent := t.TempDir()
	inner := filepath.Join(parent, "a", "b")
	must(t, os.MkdirAll(inner, 0o700))
	expect := changesOf(t, parent, never, filepath.Join(parent, "a"), inner)
	expect(func() { write(t, filepath.Join(inner, "file"), "x") }, "a b/file", "a/b file")
}

// Directories that appear, move or disappear change everything that can be below them, and
// are watched at their new place.
func TestEventsOfMovedDirectories(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	must(t, os.Mkdir(dir, 0o700))
	expect := changesOf(t, parent, never, dir)
	move := func(from, to string) {
		if err := os.Rename(from, to); !os.IsNotExist(err) { // moved before
			must(t, err)
		}
	}
	expect(func() { must(t, os.MkdirAll(filepath.Join(dir, "one", "two"), 0o700)) }, "a ")
	expect(func() { write(t, filepath.Join(dir, "one", "two", "file"), "x") }, "a one/two/file")
	expect(func() { move(filepath.Join(dir, "one"), filepath.Join(dir, "three")) }, "a ")
	expect(func() { write(t, filepath.Join(dir, "three", "two", "file"), "y") }, "a three/two/file")
	expect(func() { move(filepath.Join(dir, "three"), filepath.Join(parent, "outside")) }, "a ")
	write(t, filepath.Join(parent, "outside", "two", "other"), "z") // not reported
	expect(func() { write(t, filepath.Join(dir, "last"), "x") }, "a last")
}

// With symbolic links, a file changes under more names than the reported one, as in
// Kubernetes' volumes.
func TestEventsOfVolume(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	mount := func(stamp, content string) {
		must(t, os.MkdirAll(filepath.Join(dir, stamp), 0o700))
		write(t, filepath.Join(dir, stamp, "password"), content)
		must(t, os.Symlink(stamp, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	mount("..1", "one")
	must(t, os.Symlink("..data/password", filepath.Join(dir, "password")))
	expect := changesOf(t, parent, never, dir)
	expect(func() {
		mount("..2", "two")
		must(t, os.RemoveAll(filepath.Join(dir, "..1")))
	}, "a ")
	expect(func() { write(t, filepath.Join(dir, "..2", "password"), "three") }, "a ")
}

// Directories that appear later, or are replaced, are found without a notification.
func TestEventsOfReplacedDirectory(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "current")
	another := filepath.Join(parent, "another") // its events show that the first look is over
	must(t, os.Mkdir(another, 0o700))
	limits := never
	limits.look = 5 * time.Millisecond
	expect := changesOf(t, parent, limits, dir, another)
	writing := func() { write(t, filepath.Join(dir, "file"), "x") }
	for _, release := range []string{"1", "2"} {
		expect(func() {
			must(t, os.MkdirAll(filepath.Join(parent, release), 0o700))
			must(t, os.Symlink(release, dir+".tmp"))
			must(t, os.Rename(dir+".tmp", dir))
		}, "current ")
		expect(writing, "current file")
	}
	for range 3 { // perhaps with the same inode
		expect(func() { must(t, os.RemoveAll(dir)) }, "current ")
		expect(func() { must(t, os.MkdirAll(dir, 0o700)) }, "current ")
		expect(writing, "current file")
	}
}

// Changes that no caller takes are merged, and many of one directory are one event.
func TestEventsMerged(t *testing.T) {
	n := newNotifier(slog.New(slog.DiscardHandler), nil)
	defer n.Close()
	now := time.Now()
	report := func(dir string, names ...string) {
		c := &change{at: now}
		for _, name := range names {
			c.add(name)
		}
		n.report(map[string]*change{"/p/" + dir: c})
	}
	for i := range maxNames + 1 {
		report("many", fmt.Sprint("file-", i))
	}
	report("few", "x", "y")
	report("few", "y", "z")
	report("all", "x")
	report("all", "")
	messages, err := n.take()
	must(t, err)
	if diff := cmp.Diff([]string{"all ", "few x", "few y", "few z", "many "}, eventsOf(t, "/p", messages)); diff != "" {
		t.Error(diff)
	}
	if messages, err := n.take(); len(messages) != 0 || err != nil {
		t.Errorf("taken twice: %v, %v", messages, err)
	}
	for i := range maxMessages + 1 {
		report(fmt.Sprint("dir-", i), "x")
	}
	first, _ := n.take()
	<-n.wake
	second, _ := n.take()
	if len(first) != maxMessages || len(second) != 1 {
		t.Errorf("%d messages, then %d", len(first), len(second))
	}
}

// What exceeds the limits is not watched, and Check and the log say so.
func TestEventsBounded(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "a")
	for i := range 5 {
		must(t, os.MkdirAll(filepath.Join(dir, fmt.Sprintf("sub-%d", i)), 0o700))
	}
	var log strings.Builder
	n := newNotifier(slog.New(slog.NewTextHandler(&log, nil)), []string{dir})
	n.limits = watchLimits{dirs: 3, listed: 100, look: time.Hour, retry: time.Hour, settle: 10 * time.Millisecond}
	w, err := newWatcher(n)
	must(t, err)
	defer w.Close()
	w.look()
	if len(w.WatchList()) != 3 || !strings.Contains(log.String(), "too many directories") {
		t.Errorf("watched %v, logged %s", w.WatchList(), log.String())
	}
	n.limits.dirs, n.limits.retry = 100, 0
	w.look()
	if len(w.WatchList()) != 6 || w.roots[0].problem != "" {
		t.Errorf("tried again: watched %v, problem %q", w.WatchList(), w.roots[0].problem)
	}
	n.limits.listed = 3
	w.lost()
	if w.roots[0].problem == "" || !w.pending[dir].all {
		t.Error("after lost notifications, the listing was not bounded or not everything has changed")
	}
}

func TestEventSourceCheck(t *testing.T) {
	dir := t.TempDir()
	n := newNotifier(slog.New(slog.DiscardHandler), []string{dir, filepath.Join(dir, "missing"), "/proc/self"})
	defer n.Close()
	steps := n.Check(t.Context())
	for i, unchecked := range []bool{false, true, true} {
		if s := steps[i]; s.Step != provider.StepEvents || s.Unchecked != unchecked || s.Err != nil || s.Found == "" || s.Store == "" {
			t.Errorf("step %d: %+v", i, s)
		}
	}
}

func TestEventSourceLife(t *testing.T) {
	in := newIntegration(t.TempDir())
	if in.EventSource() == "" {
		t.Error("the integration has no source")
	}
	source, err := EventOpener(provider.Config{})(t.Context(), in)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if messages, err := source.Receive(ctx); len(messages) != 0 || err != nil {
		t.Errorf("Receive = %v, %v", messages, err)
	}
	must(t, source.Close())
	if _, err := source.Receive(t.Context()); secret.AsError(err).Reason != storeerror.Closed().Reason {
		t.Errorf("Receive after Close: %v", err)
	}
	in.Settings = &Settings{Environment: []string{"PASSWORD"}}
	if in.EventSource() != "" {
		t.Error("environment variables have a source")
	}
	if _, err := EventOpener(provider.Config{})(t.Context(), in); err == nil {
		t.Error("opened without directories")
	}
}
