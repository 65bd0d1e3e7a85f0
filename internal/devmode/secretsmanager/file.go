package secretsmanager

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// Config is what a Server with a file is made of.
type Config struct {
	// Path is a YAML file with regions. It is looked at on every request. While it
	// cannot be read or has a fault, the last good content is served.
	Path     string
	Identity Identity
	// Logger gets changes and faults of the file, never its content.
	// Nil is silent.
	Logger *slog.Logger
	// Now is the clock for signatures and sessions. Nil is time.Now.
	Now func() time.Time
}

// Open reads the file and returns a Server that serves it. A fault in the file is
// an error that gives its position and quotes no value.
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

// document is what the file holds.
type document struct {
	Regions map[string]*Region `yaml:"regions"`
}
