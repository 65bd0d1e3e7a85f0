// Package secretsfile reads the YAML file of an embedded store again whenever it changes.
// While the file is invalid, the store uses the last valid content.
//
// The package knows neither the stores nor the content of their files.
package secretsfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
)

// File is a file whose document is a T, and the state of the last read. Its exported fields
// must be set before use. It is safe for concurrent use.
type File[T any] struct {
	Path string
	// Store is the name of the embedded store in the log.
	Store string
	// Logger gets changes and problems, never the file's content.
	Logger *slog.Logger
	// Use applies a document, or returns what is wrong with it without quoting a value.
	Use func(doc *T) error

	mu    sync.Mutex
	data  []byte
	fault string // the last reported problem; empty while the file is valid
}

// Open reads the file for the first time; that must succeed. The error has the position of
// the problem and quotes no value.
func (f *File[T]) Open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refresh()
}

// Look applies the file's content if it has changed and is valid. It logs a problem once.
func (f *File[T]) Look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.refresh()
	switch {
	case err == nil:
		f.fault = ""
	case err.Error() != f.fault:
		f.fault = err.Error()
		f.Logger.Error("the embedded "+f.Store+" uses the last valid secrets; correct the file", "error", err) //nolint:sloglint // one of two names
	}
}

// refresh reads the file. It requires f.mu.
func (f *File[T]) refresh() error {
	data, err := os.ReadFile(f.Path)
	if err != nil {
		return fmt.Errorf("secrets file: %w", err)
	}
	if f.data != nil && bytes.Equal(data, f.data) {
		return nil
	}
	var doc T
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("secrets file %s: %w", f.Path, withoutValues(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf(`secrets file %s: the file has more than one document; remove everything from the second "---" on`, f.Path)
	}
	if err := f.Use(&doc); err != nil {
		return fmt.Errorf("secrets file %s: %w", f.Path, err)
	}
	if f.data != nil {
		f.Logger.Info("the embedded "+f.Store+" read its secrets again", "file", f.Path) //nolint:sloglint // as above
	}
	f.data = data
	return nil
}

// withoutValues returns the parts of a decoder's error that cannot contain a value: the lines
// and the kinds of the problems.
func withoutValues(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	}
	var list []*yaml.LoadError
	if several, ok := errors.AsType[*yaml.LoadErrors](err); ok {
		list = several.Errors
	} else if one, ok := errors.AsType[*yaml.LoadError](err); ok {
		list = append(list, one)
	}
	var faults []error
	for _, fault := range list {
		add := func(text string) { faults = append(faults, fmt.Errorf("line %d: %s", max(1, fault.Mark.Line), text)) }
		switch {
		case strings.Contains(fault.Message, "not found in type"):
			add("unknown setting; the comment at the top of the file lists the settings")
		case strings.Contains(fault.Message, "already"):
			add("the same key occurs twice")
		case fault.Stage == yaml.ConstructorStage:
			add("expected a value of another type; write texts in single quotes")
		default:
			add("not valid YAML on or near this line")
		}
	}
	return errors.Join(faults...)
}
