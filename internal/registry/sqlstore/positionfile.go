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
)

// positionInterval is the time between two writes of a PositionFile.
const positionInterval = 5 * time.Second

// PositionFile stores the last Position in the history of its database that the
// broker saw, so that the next start notices a restored backup. One goroutine uses
// it at a time.
type PositionFile struct {
	path     string // "" for none
	database string // what the position belongs to
	logger   *slog.Logger
	written  Position
	warned   bool
}

// position is what the file holds.
type position struct {
	Database string `json:"database"`
	Position
}

// NewPositionFile returns the PositionFile at path. database identifies the database
// that the position belongs to: its file or its URL. An empty path keeps nothing.
func NewPositionFile(path, database string, log *slog.Logger) *PositionFile {
	return &PositionFile{path: path, database: database, logger: log}
}

// Read returns the stored Position, or the zero Position if none is stored for the
// database. A file that cannot be read is logged and otherwise ignored.
func (p *PositionFile) Read() Position {
	if p.path == "" {
		return Position{}
	}
	data, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Position{}
	}
	var known position
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil {
		p.logger.Warn("what was last seen of the integrations' database is not known; a backup that was restored since goes unnoticed", "file", p.path, "error", err)
		return Position{}
	}
	if known.Database != p.database {
		return Position{} // another one was configured
	}
	p.written = known.Position
	return known.Position
}

// Run writes what current returns, every five seconds if it changed and once more when
// ctx ends.
func (p *PositionFile) Run(ctx context.Context, current func() Position) {
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

func (p *PositionFile) write(now Position) {
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
		p.logger.Warn("what was last seen of the integrations' database cannot be noted; a backup that is restored while this broker is stopped goes unnoticed", "file", p.path, "error", err)
	}
}
