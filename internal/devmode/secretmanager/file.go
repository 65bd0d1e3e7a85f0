package secretmanager

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// FileConfig is what a Server with a file is made of.
type FileConfig struct {
	// Path is a YAML file with the State's projects. It is looked at on every
	// request. While it cannot be read or has a fault, the last good content is
	// served.
	Path string
	// Base has everything else: the identities.
	Base State
	// Logger gets changes and faults of the file, never its content.
	// Nil is silent.
	Logger *slog.Logger
	// Now is the clock for the validity of tokens. Nil is time.Now.
	Now func() time.Time
}

// Open reads the file and returns a Server that serves it. A fault in the file is
// an error that gives its position and quotes no value.
func Open(cfg FileConfig) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := New(&cfg.Base, cfg.Now)
	if err != nil {
		return nil, err
	}
	f := &secretsfile.File[document]{Path: cfg.Path, Store: "Secret Manager", Logger: cfg.Logger, Use: func(doc *document) error {
		state := cfg.Base
		state.Projects = doc.Projects
		return s.Replace(&state)
	}}
	if err := f.Open(); err != nil {
		return nil, fmt.Errorf("secretmanager: %w", err)
	}
	s.file = f
	return s, nil
}

// document is what the file holds.
type document struct {
	Projects map[string]*Project `yaml:"projects"`
}
