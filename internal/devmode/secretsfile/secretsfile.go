// Package secretsfile follows the YAML file of an embedded store: what is in it
// is served, and while it has a fault, what stood there last.
//
// It knows neither stores nor what their files hold.
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

// File is a file whose document is a T, and what was read of it last. Its exported
// fields are set before it is used. It is safe for concurrent use.
type File[T any] struct {
	Path string
	// Store is what the log calls the embedded store.
	Store string
	// Logger gets changes and faults, never the file's content.
	Logger *slog.Logger
	// Use makes a document what is served, or says what is wrong with it without
	// quoting a value.
	Use func(doc *T) error

	mu    sync.Mutex
	data  []byte
	fault string // what was reported last, empty while all is well
}

// Open reads the file for the first time, which has to succeed. The error gives the
// position of a fault and quotes no value.
func (f *File[T]) Open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refresh()
}

// Look makes the file's content what is served, if it has changed and is good. A
// fault is logged once.
func (f *File[T]) Look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.refresh()
	switch {
	case err == nil:
		f.fault = ""
	case err.Error() != f.fault:
		f.fault = err.Error()
		f.Logger.Error("the embedded "+f.Store+" keeps serving the last good secrets; correct the file", "error", err) //nolint:sloglint // one of two names
	}
}

// refresh reads the file. f.mu is held.
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
		return fmt.Errorf(`secrets file %s: the file goes on after its first document; remove the "---" and what follows`, f.Path)
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

// withoutValues keeps of a decoder's error what cannot be a piece of a value:
// the lines, and the kind of fault.
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
			add("there is no such setting here; the comment at the head of the file lists them")
		case strings.Contains(fault.Message, "already"):
			add("the same key occurs twice")
		case fault.Stage == yaml.ConstructorStage:
			add("a value of another type is expected here; put texts in single quotes")
		default:
			add("not valid YAML at or near here")
		}
	}
	return errors.Join(faults...)
}
