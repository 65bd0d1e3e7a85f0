package integration

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// DocumentConfig is what the parsing of a document that comes from elsewhere
// than a file depends on. The zero DocumentConfig is a document without any
// credential and with no right to name files.
type DocumentConfig struct {
	// Name is what faults call the document; "" means "integration".
	Name string
	// Credentials are those that are kept for the document, by the setting that
	// would otherwise name their file, without "_file".
	Credentials map[string]Credential
	// Digests are hashes of the credentials as they are kept, by the same names. They
	// are part of the integration's ReadRevision.
	Digests map[string]Digest
	// Files are directories and files, absolute: the document may name these files
	// and what lies in these directories, absolutely. Whoever may write a document
	// could otherwise have any file of the broker's host sent to a server of his. For
	// directories of LOCAL_FILE it is the same; its environment variables, among
	// which the broker's own are, no document may name.
	Files []string
	// Look, if not nil, is that of all documents which are parsed in one go.
	Look *Look
}

// Parsed is what came of a document.
type Parsed struct {
	// ID is the id that the document declares, "" if it cannot be told.
	ID string
	// Integration is nil if the document has Faults. It has a ReadRevision; its Revision is
	// empty.
	Integration *Integration
	Faults      strictyaml.Faults
	// Used are the credentials that the document has use for, sorted.
	Used []string
	// FilesSum is a hash over the files that the document names, federated tokens
	// excluded; "" if it names none.
	FilesSum string
}

// ParseDocument parses and validates a document.
func (k *Kinds) ParseDocument(data []byte, c DocumentConfig) Parsed {
	if c.Name == "" {
		c.Name = "integration"
	}
	if c.Look == nil {
		c.Look = NewLook()
	}
	look := c.Look
	p := &Parser{kinds: k, stored: c.Credentials, used: make(map[string]bool)}
	p.check = func(r NamedFile) string {
		if !allowedFile(r.Path, c.Files) {
			return "this file may not be named here; registry.files in broker.yaml lists those that may be, and a credential is better given with the integration"
		}
		return look.Read(r).Fault
	}
	p.mayRead = func(dir string) bool { return allowedFile(dir, c.Files) }
	out := p.parse(c.Name, data)
	parsed := Parsed{ID: out.DeclaredID, Integration: out.Integration, Faults: out.Faults, Used: slices.Sorted(maps.Keys(p.used))}
	if len(out.Files) > 0 && out.Integration != nil {
		var contents []Content
		for _, r := range out.Files {
			contents = append(contents, look.Read(r))
		}
		parsed.FilesSum = FilesSum(contents)
	}
	if parsed.Integration != nil && len(p.used) > 0 {
		in := parsed.Integration
		in.Credentials = make(map[string]Credential, len(p.used))
		for name := range p.used {
			in.Credentials[name] = c.Credentials[name]
		}
	}
	if in := parsed.Integration; in != nil {
		in.ReadRevision = ReadRevision(in, parsed.FilesSum, c.Digests)
	}
	return parsed
}

// allowedFile goes by names: who may write in an allowed directory may put a
// link there.
func allowedFile(path string, allowed []string) bool {
	path = filepath.Clean(path)
	for _, a := range allowed {
		a = filepath.Clean(a)
		if path == a || strings.HasPrefix(path, strings.TrimSuffix(a, string(filepath.Separator))+string(filepath.Separator)) {
			return true
		}
	}
	return false
}
