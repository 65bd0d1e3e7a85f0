package localfile

import (
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Spec returns the integration.Spec of the kind.
func Spec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindLocalFile, Section: "local",
		// No setting is mutable, because the files and variables belong to the
		// broker's machine.
		Versions: func(*integration.Integration, secret.Ref) secret.Versions { return secret.NoVersions },
		// Reading a file takes microseconds, and the kernel's notifications do not cover the
		// network file systems and symbolic links of orchestrators.
		WatchInterval: 2 * time.Second,
		Parse:         integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
	}
}

// parser validates the kind's section of an integration file.
type parser struct{ *integration.Parser }

// settingsOf returns the local settings of an integration; nil if it is of another
// kind.
func settingsOf(in *integration.Integration) *Settings {
	s, _ := in.Settings.(*Settings)
	return s
}

// Settings lists what an integration may read on the broker's own machine.
type Settings struct {
	// Directories are absolute and clean. Only files in them and below are read.
	Directories []string
	// Environment are the only environment variables that are read.
	Environment []string
}

// StoreNames returns the stores that references name, in canonical form.
func (l *Settings) StoreNames() []string {
	stores := make([]string, 0, len(l.Directories)+1)
	for _, dir := range l.Directories {
		stores = append(stores, StoreOf(dir))
	}
	if len(l.Environment) > 0 {
		stores = append(stores, secret.LocalEnvironment)
	}
	return stores
}

// StoreOf returns the canonical store of a directory.
func StoreOf(dir string) string { return "file://" + dir }

// List implements integration.Settings.
func (l *Settings) List() []integration.Setting {
	return slices.Concat(integration.Elements("local.directories", l.Directories), integration.Elements("local.environment", l.Environment))
}

type section struct {
	Directories []string `yaml:"directories"`
	Environment []string `yaml:"environment"`
}

// kernelDirectories contain no real files but views of the machine and of the
// broker's process.
var kernelDirectories = []string{"/proc", "/sys", "/dev"}

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	l := &Settings{}
	if len(s.Directories)+len(s.Environment) == 0 {
		p.Fault("local", "nothing to read; list local.directories, local.environment or both")
	}
	for i, dir := range s.Directories {
		at := strictyaml.Index("local.directories", i)
		dir = p.Abs(dir)
		store, err := secret.ParseLocalStore(StoreOf(dir))
		switch {
		case err != nil:
			p.Fault(at, "%s", secret.AsError(err).Message)
			continue
		case store == StoreOf("/") || slices.ContainsFunc(kernelDirectories, func(k string) bool {
			return strings.HasPrefix(store+"/", StoreOf(k)+"/")
		}):
			p.Fault(at, "/, /proc, /sys and /dev are never read; name the directory that holds the secrets and nothing else")
			continue
		}
		dir = strings.TrimPrefix(store, "file://")
		if !p.MayRead(dir) {
			p.Fault(at, "this directory is not allowed here; registry.allowed_files in secretbroker.yaml lists the directories that are")
			continue
		}
		if slices.Contains(l.Directories, dir) {
			p.Fault(at, "the same directory is listed twice")
			continue
		}
		l.Directories = append(l.Directories, dir)
	}
	for i, name := range s.Environment {
		at := strictyaml.Index("local.environment", i)
		switch {
		case p.Restricted():
			p.Fault(at, "environment variables are read for integrations in files only; put the value into a file")
		case !secret.IsEnvName(name):
			p.Fault(at, "expected an environment variable's name: letters, digits and underscores, not a digit first")
		case slices.Contains(l.Environment, name):
			p.Fault(at, "the same variable is listed twice")
		default:
			l.Environment = append(l.Environment, name)
		}
	}
	return l
}
