package secretsmanager

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

// Config is what a Server is made of.
type Config struct {
	// Path is a YAML file with regions. It is looked at on every request. While it
	// cannot be read or has a fault, the last good content is served.
	Path     string
	Identity Identity
	// Logger hears of changes and faults of the file, never of what stands in it.
	// Nil is silent.
	Logger *slog.Logger
	// Now is the clock for signatures and sessions. Nil is time.Now.
	Now func() time.Time
}

// Open reads the file and returns a Server that serves it. A fault in the file is
// an error that gives its place and quotes no value.
func Open(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, now: cfg.Now, sessions: make(map[string]session)}
	if err := s.file.refresh(s); err != nil {
		return nil, fmt.Errorf("secretsmanager: %w", err)
	}
	return s, nil
}

// file is what was read of the file last. It is safe for concurrent use.
type file struct {
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
		s.cfg.Logger.Error("the embedded Secrets Manager keeps serving the last good secrets; correct the file", "error", err)
	}
}

// refresh reads the file. f.mu is held, or nobody else has f.
func (f *file) refresh(s *Server) error {
	data, err := os.ReadFile(s.cfg.Path)
	if err != nil {
		return fmt.Errorf("secrets file: %w", err)
	}
	if f.data != nil && bytes.Equal(data, f.data) {
		return nil
	}
	var doc struct {
		Regions map[string]*Region `yaml:"regions"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("secrets file %s: %w", s.cfg.Path, withoutValues(err))
	}
	if err := check(doc.Regions); err != nil {
		return fmt.Errorf("secrets file %s: %w", s.cfg.Path, err)
	}
	s.regions.Store(&doc.Regions)
	if f.data != nil {
		s.cfg.Logger.Info("the embedded Secrets Manager read its secrets again", "file", s.cfg.Path)
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
