package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// dbFile is the open file of a SQLite database. SQLite opens the file by name for every
// connection and never compares them: if another file replaces it, existing connections
// continue in the old file, new ones open the new file, and both use the write-ahead log
// of the old one. That corrupts both, so dbFile detects it.
type dbFile struct {
	path string
	info os.FileInfo // of the file when it was opened

	mu  sync.Mutex
	log os.FileInfo // of its write-ahead log; nil if there was none yet
}

// Suffixes of the files that SQLite creates next to a database.
const (
	walSuffix = "-wal"
	shmSuffix = "-shm"
)

// restoreSteps returns the steps for restoring a backup, for use in errors.
func restoreSteps(path string) string {
	return fmt.Sprintf("stop the broker, remove %[1]s-wal and %[1]s-shm, copy the backup to %[1]s, and start the broker", path)
}

// unmoved returns an error unless path still leads to the file that was opened.
func (f *dbFile) unmoved() error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the file %s was removed or renamed; this broker no longer writes to it; to restore a backup, %s", f.path, restoreSteps(f.path))
	case err != nil:
		return err
	case !os.SameFile(info, f.info):
		return fmt.Errorf("the file %s was replaced while this broker had it open, so the broker neither reads nor writes it; %s", f.path, restoreSteps(f.path))
	}
	if log, err := os.Stat(f.path + walSuffix); err == nil {
		f.mu.Lock()
		f.log = log
		f.mu.Unlock()
	}
	return nil
}

// setAside renames the write-ahead log of a file that has been replaced. Otherwise the
// next start would apply the log to the new file and undo the restore. It is called when
// the database is closed.
func (f *dbFile) setAside() error {
	info, err := os.Stat(f.path)
	if err != nil || os.SameFile(info, f.info) {
		return nil //nolint:nilerr // the file is the same, or there is none to protect
	}
	f.mu.Lock()
	ours := f.log
	f.mu.Unlock()
	if log, err := os.Stat(f.path + walSuffix); err != nil || ours == nil || !os.SameFile(log, ours) {
		return nil //nolint:nilerr // there is no log, or it belongs to the new file
	}
	err = os.Rename(f.path+walSuffix, f.path+walSuffix+".replaced")
	if e := os.Remove(f.path + shmSuffix); err == nil && !errors.Is(e, fs.ErrNotExist) {
		err = e
	}
	return err
}

// walSlack is how much newer than its write-ahead log a database file may be. SQLite
// writes to the file only what the log already contains, so a file that is much newer than
// its log was not written by SQLite.
const walSlack = 5 * time.Second

// checkLog refuses a write-ahead log that is older than the database file. After a crash,
// the log belongs to the file and must be applied. After the file was replaced by a
// backup, the log belongs to the old file, and applying it would undo the restore or mix
// both contents.
func checkLog(path string) error {
	log, err := os.Stat(path + walSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if log.Size() == 0 || !lastChange(path).After(lastChange(path+walSuffix).Add(walSlack)) {
		return nil
	}
	return fmt.Errorf("%[1]s is newer than its write-ahead log %[1]s-wal, which may belong to another file and would then undo a restored backup: if %[1]s was restored, remove %[1]s-wal and %[1]s-shm; otherwise run: touch %[1]s-wal", path)
}

// checkTables refuses a file whose tables of integrations are corrupt, for example because
// the write-ahead log of another file was applied to it.
func checkTables(ctx context.Context, db *sql.DB, path string) error {
	for _, table := range []string{"registry_state", "integrations", "credentials"} {
		var there int
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?`, table).Scan(&there); err != nil {
			return err
		}
		if there == 0 {
			continue // a new file
		}
		var result string
		if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(`+table+`)`).Scan(&result); err != nil {
			return err
		}
		if result != "ok" {
			return fmt.Errorf("the table %s in %s is damaged (%s); to restore a backup, %s", table, path, result, restoreSteps(path))
		}
	}
	return nil
}
