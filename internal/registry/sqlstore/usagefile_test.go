package sqlstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// usageWorld is a UsageFile with a clock and a set of integrations.
type usageWorld struct {
	*testing.T
	path string
	now  time.Time
	gone map[string]bool
}

func newUsageWorld(t *testing.T) *usageWorld {
	return &usageWorld{T: t, path: filepath.Join(t.TempDir(), "audit.jsonl.usage"), now: time.Date(2027, 1, 10, 12, 0, 0, 0, time.UTC), gone: make(map[string]bool)}
}

func (w *usageWorld) open() *UsageFile {
	w.Helper()
	f, err := OpenUsageFile(w.Context(), w.path, UsageFileConfig{Now: func() time.Time { return w.now }, Keeps: func(id string) bool { return !w.gone[id] }})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *usageWorld) use(f *UsageFile, integration, secret string) {
	w.Helper()
	u := registry.Usage{Integration: integration, Principal: "dns:a.example.org", Store: "s", Secret: secret, GrantID: "g", Version: "v", FirstAt: w.now, LastAt: w.now}
	if err := f.MergeUsage(w.Context(), []registry.Usage{u}); err != nil {
		w.Fatal(err)
	}
}

func (w *usageWorld) has(f *UsageFile, integration string, want int) {
	w.Helper()
	all, err := f.Usage(w.Context(), integration, time.Time{}, 0)
	if err != nil || len(all) != want {
		w.Errorf("%s: %d uses, %v; want %d", integration, len(all), err, want)
	}
	last, err := f.LastUsed(w.Context())
	if _, used := last[integration]; err != nil || used != (want > 0) {
		w.Errorf("LastUsed: %v, %v", last, err)
	}
}

// TestUsageFileSurvivesRestarts: usage, and since when it is recorded, outlive the process, also
// if the clock has been set back.
func TestUsageFileSurvivesRestarts(t *testing.T) {
	w := newUsageWorld(t)
	f, began := w.open(), w.now
	w.use(f, "a", "one")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.now = began.Add(-24 * time.Hour)
	f = w.open()
	w.use(f, "a", "two")
	w.use(f, "a", "one")
	w.has(f, "a", 2)
	if r := f.Recording(); !r.Since.Equal(began) || !r.ReplicaOnly || f.Replaced() != 0 {
		t.Errorf("%+v", r)
	}
	w.now = began.Add(registry.DefaultUsageRetention + time.Hour)
	f.deleteUnkept(t.Context())
	w.has(f, "a", 0)
	if r := f.Recording(); !r.Since.Equal(began.Add(time.Hour)) {
		t.Errorf("after the retention: %v", r.Since)
	}
}

// TestUsageFileDropsDeleted: deleting an integration deletes its usage, also what arrives late.
// The usage of an integration that is missing at the start is not deleted.
func TestUsageFileDropsDeleted(t *testing.T) {
	w := newUsageWorld(t)
	f := w.open()
	w.use(f, "a", "one")
	w.use(f, "b", "one")
	w.gone["a"] = true
	f.deleteUnkept(t.Context())
	w.use(f, "a", "late")
	w.gone["a"] = false
	w.has(f, "a", 0)
	w.has(f, "b", 1)
	w.gone["b"] = true
	other := w.open() // a broker that starts without the directory
	other.deleteUnkept(t.Context())
	w.gone["b"] = false
	w.has(other, "b", 1)
}

// TestDamagedUsageFile: a damaged or removed database does not stop the broker. It is moved
// aside, and recording begins again.
func TestDamagedUsageFile(t *testing.T) {
	damage := map[string]func(path string) error{
		"not a database": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 8192), 0o600) },
		"an index page": func(path string) error {
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = file.WriteAt(bytes.Repeat([]byte{0xff}, 4096), 4096)
			return errors.Join(err, file.Close())
		},
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			w := newUsageWorld(t)
			f := w.open()
			w.use(f, "a", "one")
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if err := do(w.path); err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(time.Hour)
			f = w.open()
			w.has(f, "a", 0)
			w.use(f, "a", "two")
			w.has(f, "a", 1)
			if aside, _ := filepath.Glob(w.path + ".damaged-*"); len(aside) == 0 || f.Replaced() != 1 || !f.Recording().Since.Equal(w.now) {
				t.Errorf("moved to %v, replaced %d, since %v", aside, f.Replaced(), f.Recording().Since)
			}
		})
	}
	t.Run("removed while open", func(t *testing.T) {
		w := newUsageWorld(t)
		f := w.open()
		w.use(f, "a", "one")
		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Hour)
		w.use(f, "a", "two")
		w.has(f, "a", 1)
		if !f.Recording().Since.Equal(w.now) {
			t.Errorf("since %v", f.Recording().Since)
		}
	})
}

// TestUsageFileOfTwoProcesses: two processes can use one file.
func TestUsageFileOfTwoProcesses(t *testing.T) {
	w := newUsageWorld(t)
	files := []*UsageFile{w.open(), w.open()}
	var using sync.WaitGroup
	for n, f := range files {
		using.Go(func() {
			for i := range 20 {
				u := registry.Usage{Integration: "a", Principal: authz.Principal(fmt.Sprint("dns:", n)), Store: "s", Secret: fmt.Sprint(i), FirstAt: w.now, LastAt: w.now}
				if err := f.MergeUsage(t.Context(), []registry.Usage{u}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	using.Wait()
	w.has(files[0], "a", 40)
	if files[0].Replaced()+files[1].Replaced() != 0 {
		t.Error("a database was replaced")
	}
}

// TestUsageFileOnAFullDisk: while the disk is full, writes fail and nothing is lost or replaced; the
// caller, which keeps the uses in memory, writes them later.
func TestUsageFileOnAFullDisk(t *testing.T) {
	w := newUsageWorld(t)
	f := w.open()
	w.use(f, "a", "one")
	f.store.db.SetMaxOpenConns(1) // the limit below is that of a connection
	limit := func(pages int) {
		t.Helper()
		if _, err := f.store.db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	var batch []registry.Usage
	for i := range 500 {
		batch = append(batch, registry.Usage{Integration: "a", Principal: "dns:a", Store: "s", Secret: fmt.Sprint(i), FirstAt: w.now, LastAt: w.now})
	}
	if err := f.MergeUsage(t.Context(), batch); err == nil {
		t.Fatal("written to a full disk")
	}
	w.has(f, "a", 1)
	limit(1 << 20)
	if err := f.MergeUsage(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	w.has(f, "a", 501)
	if f.Replaced() != 0 {
		t.Error("the database was replaced")
	}
}
