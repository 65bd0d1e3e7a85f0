package secretmanager

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// FileConfig configures a Server with a file.
type FileConfig struct {
	// Path is a YAML file with the State's projects. The Server checks it on every
	// request. While it cannot be read or is invalid, the Server uses the last valid
	// content.
	Path string
	// Base contains the rest of the State: the identities.
	Base State
	// Logger gets changes of and problems with the file, never its content. Nil discards
	// them.
	Logger *slog.Logger
	// Now is the clock for the validity of tokens. Nil is time.Now.
	Now func() time.Time
}

// Open reads the file and returns a Server that serves it. If the file is invalid, the error
// has the position and quotes no value.
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

// document is the content of the file.
type document struct {
	Projects map[string]*Project `yaml:"projects"`
}
