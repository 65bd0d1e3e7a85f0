package sqlstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// backedUp creates a database with 300 integrations and a backup of it with 130 of them,
// each with a grant that was revoked after the backup. It returns the open database, with
// changes in its write-ahead log.
func backedUp(t *testing.T, dir string) (s *Store, file, backup string) {
	t.Helper()
	file, backup = filepath.Join(dir, "r.db"), filepath.Join(dir, "backup.db")
	made := made(t)
	for path, data := range map[string][]byte{file: made[0], backup: made[1]} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openSQLite(t, file, Config{Kinds: kinds.All(), MaxIntegrations: 1000})
	for i := range 10 {
		update(t, s, document(fmt.Sprintf("i%03d", i), "abc", "dns:another.example.org"))
	}
	return s, file, backup
}

var (
	making   sync.Mutex
	madeOnce [2][]byte
)

// made returns the files of a database and of its backup. They take long to create, so
// tests share them.
func made(t *testing.T) [2][]byte {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	if madeOnce[0] != nil {
		return madeOnce
	}
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "r.db"), filepath.Join(dir, "backup.db")}
	s := openSQLite(t, files[0], Config{Kinds: kinds.All(), MaxIntegrations: 1000})
	for i := range 300 {
		id := fmt.Sprintf("i%03d", i)
		create(t, s, document(id, "abc", "dns:w.example.org"))
		if i == 129 {
			execute(t, s, "VACUUM INTO '"+files[1]+"'")
		}
	}
	for i := range 130 {
		update(t, s, document(fmt.Sprintf("i%03d", i), "abc", "dns:other.example.org"))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i, file := range files {
		var err error
		if madeOnce[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return madeOnce
}

// checkRestored fails the test unless the database has the content of the backup.
func checkRestored(t *testing.T, s *Store, restored bool) {
	t.Helper()
	want := 300
	if restored {
		want = 130
	}
	if got := len(s.List()); got != want {
		t.Errorf("%d integrations, want %d", got, want)
	}
	for _, in := range s.List()[:130] {
		if may, err := allowed(s, in.ID, "dns:w.example.org"); err != nil || may != restored {
			t.Fatalf("%s: %v, %v", in.ID, may, err)
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBackupPutInPlaceWhileOpen: the broker neither continues in the old file nor mixes
// the two files, reports the replacement, and has the content of the backup after a
// restart.
func TestBackupPutInPlaceWhileOpen(t *testing.T) {
	for range 3 {
		s, file, backup := backedUp(t, t.TempDir())
		rename(t, backup, file)
		s.Reload()
		if st := s.Status(); !strings.Contains(st.Problem, "the file "+file+" was replaced") || !strings.Contains(st.Problem, "remove "+file+"-wal") {
			t.Errorf("Status: %+v", st)
		}
		_, err := s.Create(t.Context(), registry.Change{Document: document("new", "abc", "dns:w.example.org")})
		if !errors.Is(err, registry.ErrUnavailable) || !strings.Contains(err.Error(), "was replaced while") {
			t.Errorf("Create: %v", err)
		}
		if err := s.Delete(t.Context(), "i000", ""); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("Delete: %v", err)
		}
		if s.Status().WriteProblem == "" {
			t.Error("no problem with writes")
		}
		checkRestored(t, s, false) // the last snapshot is served until MaxOutage
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		checkRestored(t, openSQLite(t, file, Config{Kinds: kinds.All()}), true)
	}
}

// TestFileIsGone removes the file while the broker has it open, and puts it back.
func TestFileIsGone(t *testing.T) {
	s, file, _ := backedUp(t, t.TempDir())
	rename(t, file, file+".away")
	s.Reload()
	if st := s.Status(); !strings.Contains(st.Problem, file+" was removed or renamed") {
		t.Errorf("Status: %+v", st)
	}
	rename(t, file+".away", file)
	s.Reload()
	if st := s.Status(); st.Problem != "" {
		t.Errorf("Status: %+v", st)
	}
	update(t, s, document("i000", "abc", "dns:other.example.org"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	checkRestored(t, openSQLite(t, file, Config{Kinds: kinds.All()}), false)
}

// crashed returns a database file as a killed broker leaves it, with its write-ahead log,
// and a backup of it.
func crashed(t *testing.T) (file, backup string) {
	t.Helper()
	_, open, backup := backedUp(t, t.TempDir())
	file = filepath.Join(t.TempDir(), "r.db")
	for _, suffix := range []string{"", walSuffix, shmSuffix} {
		copyFile(t, open+suffix, file+suffix)
	}
	if info, err := os.Stat(file + walSuffix); err != nil || info.Size() == 0 {
		t.Fatalf("no write-ahead log: %v", err)
	}
	return file, backup
}

// TestLogOfACrashIsApplied: a crash loses no committed change.
func TestLogOfACrashIsApplied(t *testing.T) {
	file, _ := crashed(t)
	checkRestored(t, openSQLite(t, file, Config{Kinds: kinds.All()}), false)
}

// TestLogOfAnotherFile: the file of a killed broker was replaced by a backup, but its
// write-ahead log was not removed.
func TestLogOfAnotherFile(t *testing.T) {
	for range 3 {
		file, backup := crashed(t)
		copyFile(t, backup, file)
		later := time.Now().Add(time.Minute) // the log was written before the backup was restored
		if err := os.Chtimes(file, later, later); err != nil {
			t.Fatal(err)
		}
		_, err := OpenSQLite(t.Context(), file, Config{Kinds: kinds.All()})
		if err == nil || !strings.Contains(err.Error(), "remove "+file+"-wal") {
			t.Fatalf("opened: %v", err)
		}
		if _, err := ReadSQLite(t.Context(), file); err == nil || !strings.Contains(err.Error(), "remove "+file+"-wal") {
			t.Errorf("read: %v", err)
		}
		for _, suffix := range []string{walSuffix, shmSuffix} {
			if err := os.Remove(file + suffix); err != nil {
				t.Fatal(err)
			}
		}
		checkRestored(t, openSQLite(t, file, Config{Kinds: kinds.All()}), true)
	}
}

// TestDamagedTable: a corrupt table is refused at start, not served in part.
func TestDamagedTable(t *testing.T) {
	s, file, _ := backedUp(t, t.TempDir())
	var page, size int64
	if err := s.db.QueryRowContext(t.Context(), `SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'integrations'`).Scan(&page, &size); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root := make([]byte, size)
	if _, err := f.ReadAt(root, (page-1)*size); err != nil {
		t.Fatal(err)
	}
	root[5], root[6] = root[5]^0x01, root[6]^0x10 // the offset of the cells
	root[12] ^= 0x40                              // the offset of the first one
	if _, err := f.WriteAt(root, (page-1)*size); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSQLite(t.Context(), file, Config{Kinds: kinds.All()}); err == nil || !strings.Contains(err.Error(), "integrations") || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("opened: %v", err)
	}
}
