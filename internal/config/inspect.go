package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// File is a configuration file that may be invalid, to which its reader may add faults of
// the files and directories that the settings name. It is not safe for concurrent use.
type File struct {
	// Config has the settings that could be decoded. Its paths are absolute, and empty for
	// settings that are missing.
	*Config
	doc *strictyaml.Document
}

// Inspect reads the file at path like Load, but also returns an invalid file. The error is
// about reading it.
func Inspect(path string) (*File, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return inspect(path, data)
}

func inspect(path string, data []byte) (*File, error) {
	c := defaults()
	doc := strictyaml.DecodeRenamed(path, data, c, renamed)
	c.validate(doc)
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c.resolvePaths(dir)
	return &File{c, doc}, nil
}

// Fault adds a fault of the setting.
func (f *File) Fault(setting, text string) { f.doc.Fault(setting, "%s", text) }

// Sound reports whether the file contains the section and the section has no faults so far.
func (f *File) Sound(section string) bool {
	for _, fault := range f.doc.Faults() {
		if fault.Path == section || strings.HasPrefix(fault.Path, section+".") || strings.HasPrefix(fault.Path, section+"[") {
			return false
		}
	}
	return f.doc.Has(section)
}

// Err returns all faults, a strictyaml.Faults, or nil.
func (f *File) Err() error { return f.doc.Faults().Err() }
