package secretmanager

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
)

// FileConfig is what a Server with a file is made of.
type FileConfig struct {
	// Path is a YAML file with the State's projects. It is looked at on every
	// request. While it cannot be read or has a fault, the last good content is
	// served.
	Path string
	// Base has everything else: the identities.
	Base State
	// Logger hears of changes and faults of the file, never of what stands in it.
	// Nil is silent.
	Logger *slog.Logger
	// Now is the clock for the validity of tokens. Nil is time.Now.
	Now func() time.Time
}

// Open reads the file and returns a Server that serves it. A fault in the file is
// an error that gives its place and quotes no value.
func Open(cfg FileConfig) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := New(&cfg.Base, cfg.Now)
	if err != nil {
		return nil, err
	}
	f := &file{cfg: cfg}
	if err := f.refresh(s); err != nil {
		return nil, fmt.Errorf("secretmanager: %w", err)
	}
	s.file = f
	return s, nil
}

// file is the file and what was read of it last. It is safe for concurrent use.
type file struct {
	cfg FileConfig

	mu    sync.Mutex
	data  []byte
	fault string // what was reported last, empty while all is well
}

// look makes the file's content the Server's, if it has changed and is good.
func (f *file) look(s *Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.refresh(s)
	switch {
	case err == nil:
		f.fault = ""
	case err.Error() != f.fault:
		f.fault = err.Error()
		f.cfg.Logger.Error("the embedded Secret Manager keeps serving the last good secrets; correct the file", "error", err)
	}
}

// refresh reads the file. f.mu is held, or nobody else has f.
func (f *file) refresh(s *Server) error {
	data, err := os.ReadFile(f.cfg.Path)
	if err != nil {
		return fmt.Errorf("secrets file: %w", err)
	}
	if f.data != nil && bytes.Equal(data, f.data) {
		return nil
	}
	var doc struct {
		Projects map[string]*Project `yaml:"projects"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("secrets file %s: %w", f.cfg.Path, withoutValues(err))
	}
	state := f.cfg.Base
	state.Projects = doc.Projects
	if err := s.Replace(&state); err != nil {
		return fmt.Errorf("secrets file %s: %w", f.cfg.Path, err)
	}
	if f.data != nil {
		f.cfg.Logger.Info("the embedded Secret Manager read its secrets again", "file", f.cfg.Path)
	}
	f.data = data
	return nil
}

var lineNumber = regexp.MustCompile(`line \d+`)

// withoutValues keeps of a decoder's error what cannot be a piece of a value.
func withoutValues(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	}
	if line := lineNumber.FindString(err.Error()); line != "" {
		return errors.New(line + " is not YAML, or has a setting or a value that does not belong there")
	}
	return errors.New("it is not YAML of the right form")
}
