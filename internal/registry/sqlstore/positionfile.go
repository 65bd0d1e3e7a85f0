package sqlstore

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// positionInterval is the minimum time between two writes of a PositionFile.
const positionInterval = 5 * time.Second

// PositionFile stores the latest Position in the database's history that the broker has
// seen, so that the next start detects a restored backup. It is not safe for concurrent
// use.
type PositionFile struct {
	path     string // "" if positions are not stored
	database string // that the position belongs to
	logger   *slog.Logger
	written  registry.Position
	warned   bool
}

// position is the content of the file.
type position struct {
	Database string `json:"database"`
	registry.Position
}

// NewPositionFile returns the PositionFile at path. database identifies the database that
// the position belongs to, by its file or its URL. If path is empty, positions are not
// stored.
func NewPositionFile(path, database string, log *slog.Logger) *PositionFile {
	return &PositionFile{path: path, database: database, logger: log}
}

// Read returns the stored Position, or the zero Position if none is stored for the
// database. It logs an error if the file cannot be read, and returns the zero Position.
func (p *PositionFile) Read() registry.Position {
	if p.path == "" {
		return registry.Position{}
	}
	data, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return registry.Position{}
	}
	var known position
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil {
		p.logger.Warn("the last known position in the integrations' database cannot be read; a backup restored while the broker was stopped would not be detected", "file", p.path, "error", err)
		return registry.Position{}
	}
	if known.Database != p.database {
		return registry.Position{} // another database was configured
	}
	p.written = known.Position
	return known.Position
}

// Run writes the result of current to the file every five seconds if it has changed, and
// once more when ctx ends.
func (p *PositionFile) Run(ctx context.Context, current func() registry.Position) {
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

func (p *PositionFile) write(now registry.Position) {
	if now == p.written {
		return
	}
	data, err := json.Marshal(position{p.database, now})
	if err == nil {
		err = keyfile.Replace(p.path, append(data, '\n'))
	}
	if err == nil {
		p.written, p.warned = now, false
		return
	}
	if !p.warned {
		p.warned = true
		p.logger.Warn("the position in the integrations' database cannot be stored; a backup restored while this broker is stopped will not be detected", "file", p.path, "error", err)
	}
}
