package integration

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// DocumentConfig configures the parsing of a document that is not a file of the broker's
// machine. The zero DocumentConfig is for a document that has no stored credential and may
// not refer to files.
type DocumentConfig struct {
	// Name is the name of the document in faults; "" means "integration".
	Name string
	// Credentials are the credentials that are stored for the document, keyed by the
	// setting that would otherwise name their file, without "_file".
	Credentials map[string]Credential
	// Digests are hashes of the stored credentials, keyed like Credentials. They are part
	// of the integration's ReadRevision.
	Digests map[string]Digest
	// Files are absolute paths of files and directories. The document may refer, by
	// absolute path, to these files and to files in these directories only. Otherwise, an
	// author of a document could have any file of the broker's host sent to a server of
	// their choice. The same restriction applies to directories of LOCAL_FILE. The
	// document may not refer to environment variables, because those of the broker are
	// among them.
	Files []string
	// Look, if not nil, is shared by all documents that are parsed together.
	Look *Look
}

// Parsed is the result of parsing a document.
type Parsed struct {
	// ID is the id that the document declares, or "" if it cannot be determined.
	ID string
	// Integration is nil if the document has Faults. Its ReadRevision is set, and its
	// Revision is empty.
	Integration *Integration
	Faults      strictyaml.Faults
	// Used are the names of the stored credentials that the document uses, sorted.
	Used []string
	// FilesSum is a hash of the files that the document refers to, without federated
	// tokens; "" if there are none.
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
			return "this file is not allowed here; registry.allowed_files in secretbroker.yaml lists the files that are, and a credential can be stored with the integration instead"
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

// allowedFile compares paths without resolving links: a person who may write to an allowed
// directory may also put a link there.
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
