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

// dbFile is the file of a SQLite database that is open. SQLite opens it by its name
// once for each connection and never looks at the name again: if another file is
// put there, old connections go on in the old file, new ones open the new file, and
// both use the write-ahead log of the old one.
type dbFile struct {
	path string
	info os.FileInfo // of the file that was opened

	mu  sync.Mutex
	log os.FileInfo // of its write-ahead log, nil as long as there was none
}

// The files that SQLite puts beside a database.
const (
	walSuffix = "-wal"
	shmSuffix = "-shm"
)

// restoreSteps is what to do, for errors.
func restoreSteps(path string) string {
	return fmt.Sprintf("stop the broker, remove %[1]s-wal and %[1]s-shm, put the file of the backup in place as %[1]s, and start the broker", path)
}

// unmoved returns an error unless the file at the path is the one that was opened.
func (f *dbFile) unmoved() error {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the file %s is gone; this broker no longer writes to it: to restore a backup, %s", f.path, restoreSteps(f.path))
	case err != nil:
		return err
	case !os.SameFile(info, f.info):
		return fmt.Errorf("another file was put in the place of %s while this broker had it open, so that it neither reads nor writes it; %s", f.path, restoreSteps(f.path))
	}
	if log, err := os.Stat(f.path + walSuffix); err == nil {
		f.mu.Lock()
		f.log = log
		f.mu.Unlock()
	}
	return nil
}

// setAside renames the write-ahead log of a file that another one has replaced: the
// next start would apply it to the new file, and undo what was restored. It is
// called when the database is closed.
func (f *dbFile) setAside() error {
	info, err := os.Stat(f.path)
	if err != nil || os.SameFile(info, f.info) {
		return nil //nolint:nilerr // it is the same, or there is none that could be damaged
	}
	f.mu.Lock()
	ours := f.log
	f.mu.Unlock()
	if log, err := os.Stat(f.path + walSuffix); err != nil || ours == nil || !os.SameFile(log, ours) {
		return nil //nolint:nilerr // there is none, or it is the new file's
	}
	err = os.Rename(f.path+walSuffix, f.path+walSuffix+".replaced")
	if e := os.Remove(f.path + shmSuffix); err == nil && !errors.Is(e, fs.ErrNotExist) {
		err = e
	}
	return err
}

// walSlack is how much later than its write-ahead log a database's file may have
// been changed: SQLite writes into the file only what is in the log already.
const walSlack = 5 * time.Second

// checkLog refuses a write-ahead log that was there before the file beside it. After
// a crash the log belongs to the file and has to be applied; after a backup was put
// in the file's place it is the old file's and would undo that, or mix the two.
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
	return fmt.Errorf("%[1]s was changed later than %[1]s-wal beside it, which may belong to another file and would undo a restored backup: if %[1]s was restored, remove %[1]s-wal and %[1]s-shm; if it was not, run: touch %[1]s-wal", path)
}

// checkTables refuses a file whose tables of integrations are damaged, as they are
// after the write-ahead log of another file was applied.
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
