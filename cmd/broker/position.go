package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
)

// positionInterval is how often the position in the database's history is noted.
const positionInterval = 5 * time.Second

// positionFile keeps beside the audit log which position in the history of its
// database the broker has seen, so that a start notices a restored backup.
type positionFile struct {
	path     string // "" where the audit log is no file
	database string // what the position belongs to
	log      *slog.Logger
	written  sqlstore.Position
	warned   bool
}

// position is what the file holds.
type position struct {
	Database string `json:"database"`
	sqlstore.Position
}

// newPositionFile is for a configuration with a database.
func newPositionFile(cfg *config.Config, log *slog.Logger) *positionFile {
	p := &positionFile{database: cfg.Registry.SQLite.File + cfg.Registry.Postgres.URL, log: log}
	if info, err := os.Stat(cfg.Audit.File); err == nil && //nolint:gosec // G703: the operator names it
		info.Mode().IsRegular() && cfg.Audit.File != audit.Stdout {
		p.path = cfg.Audit.File + ".registry"
	}
	return p
}

// read returns the zero Position if nothing is known of the database.
func (p *positionFile) read() sqlstore.Position {
	if p.path == "" {
		return sqlstore.Position{}
	}
	data, err := os.ReadFile(p.path) //nolint:gosec // G703: beside a file that the operator names
	if errors.Is(err, fs.ErrNotExist) {
		return sqlstore.Position{}
	}
	var known position
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil {
		p.log.Warn("what was last seen of the integrations' database is not known; a backup that was restored since goes unnoticed", "file", p.path, "error", err)
		return sqlstore.Position{}
	}
	if known.Database != p.database {
		return sqlstore.Position{} // another one was configured
	}
	p.written = known.Position
	return known.Position
}

// run keeps the file up to date until ctx ends.
func (p *positionFile) run(ctx context.Context, current func() sqlstore.Position) {
	if p.path == "" {
		return
	}
	ticker := time.NewTicker(positionInterval)
	defer ticker.Stop()
	for {
		p.write(current())
		select {
		case <-ctx.Done():
			p.write(current())
			return
		case <-ticker.C:
		}
	}
}

func (p *positionFile) write(now sqlstore.Position) {
	if now == p.written {
		return
	}
	data, err := json.Marshal(position{p.database, now})
	if err == nil {
		err = replaceFile(p.path, append(data, '\n'))
	}
	if err == nil {
		p.written, p.warned = now, false
		return
	}
	if !p.warned {
		p.warned = true
		p.log.Warn("what was last seen of the integrations' database cannot be noted; a backup that is restored while this broker is stopped goes unnoticed", "file", p.path, "error", err)
	}
}

// replaceFile writes a file of the owner's alone in one step.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path) //nolint:gosec // G703: as above
	}
	if err != nil {
		_ = os.Remove(f.Name()) //nolint:gosec // G703: as above
	}
	return err
}
