package integration

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// LocalFile is what an integration may read on the broker's own machine.
type LocalFile struct {
	// Directories are absolute and clean; only files in them and below are read.
	Directories []string
	// Environment are the only environment variables that are read.
	Environment []string
}

// Stores returns the stores that references name, in canonical form.
func (l *LocalFile) Stores() []string {
	stores := make([]string, 0, len(l.Directories)+1)
	for _, dir := range l.Directories {
		stores = append(stores, LocalStore(dir))
	}
	if len(l.Environment) > 0 {
		stores = append(stores, secret.LocalEnvironment)
	}
	return stores
}

// LocalStore returns the canonical store of a directory.
func LocalStore(dir string) string { return "file://" + dir }

func (l *LocalFile) settings() []Setting {
	return slices.Concat(elements("local.directories", l.Directories), elements("local.environment", l.Environment))
}

type localSection struct {
	Directories []string `yaml:"directories"`
	Environment []string `yaml:"environment"`
}

// kernelDirectories hold no files but views of the machine and of the broker
// itself.
var kernelDirectories = []string{"/proc", "/sys", "/dev"}

// local validates the section; what it returns is usable if there is no fault.
func (p *parser) local(s *localSection) *LocalFile {
	l := &LocalFile{}
	if len(s.Directories)+len(s.Environment) == 0 {
		p.doc.Fault("local", "nothing to read; list local.directories, local.environment or both")
	}
	for i, dir := range s.Directories {
		at := strictyaml.Index("local.directories", i)
		if dir != "" && !filepath.IsAbs(dir) && p.dir != "" {
			dir = filepath.Join(p.dir, dir)
		}
		store, err := secret.ParseLocalStore(LocalStore(dir))
		switch {
		case err != nil:
			p.doc.Fault(at, "%s", secret.AsError(err).Message)
			continue
		case store == LocalStore("/") || slices.ContainsFunc(kernelDirectories, func(k string) bool {
			return strings.HasPrefix(store+"/", LocalStore(k)+"/")
		}):
			p.doc.Fault(at, "/, /proc, /sys and /dev are never read; name the directory that holds the secrets and nothing else")
			continue
		}
		dir = strings.TrimPrefix(store, "file://")
		if p.mayRead != nil && !p.mayRead(dir) {
			p.doc.Fault(at, "this directory may not be named here; registry.files in broker.yaml lists those that may be")
			continue
		}
		if slices.Contains(l.Directories, dir) {
			p.doc.Fault(at, "the same directory is listed twice")
			continue
		}
		l.Directories = append(l.Directories, dir)
	}
	for i, name := range s.Environment {
		at := strictyaml.Index("local.environment", i)
		switch {
		case p.mayRead != nil:
			p.doc.Fault(at, "environment variables are read for integrations in files only; put the value into a file")
		case !secret.IsEnvName(name):
			p.doc.Fault(at, "expected an environment variable's name: letters, digits and underscores, not a digit first")
		case slices.Contains(l.Environment, name):
			p.doc.Fault(at, "the same variable is listed twice")
		default:
			l.Environment = append(l.Environment, name)
		}
	}
	return l
}
