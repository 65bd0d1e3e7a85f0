package secretsmanager

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// Config configures a Server with a file.
type Config struct {
	// Path is a YAML file with regions. The Server checks it on every request. While it
	// cannot be read or is invalid, the Server uses the last valid content.
	Path     string
	Identity Identity
	// Logger receives the changes of the file and its problems, but never its content. Nil
	// discards them.
	Logger *slog.Logger
	// Now returns the time for signatures and sessions. Nil means time.Now.
	Now func() time.Time
}

// Open reads the file and returns a Server that serves it. If the file is invalid, the error
// has the position and quotes no value.
func Open(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := New(&State{Identity: cfg.Identity}, cfg.Now)
	if err != nil {
		return nil, err
	}
	f := &secretsfile.File[document]{Path: cfg.Path, Store: "Secrets Manager", Logger: cfg.Logger, Use: func(doc *document) error {
		return s.Replace(&State{Identity: cfg.Identity, Regions: doc.Regions})
	}}
	if err := f.Open(); err != nil {
		return nil, fmt.Errorf("secretsmanager: %w", err)
	}
	s.file = f
	return s, nil
}

// document is the content of the file.
type document struct {
	Regions map[string]*Region `yaml:"regions"`
}
