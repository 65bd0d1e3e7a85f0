package integration

import (
	"io"
	"os"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// ReadEventSource reads the file of a source of events for many integrations: an
// integration with an EventSource and without grants and roles, because it cannot be used.
// The error is a strictyaml.Faults with every problem. The Revision is not set.
func (k *Kinds) ReadEventSource(path string) (*Integration, error) {
	data, err := readLimited(path)
	if err != nil {
		return nil, strictyaml.Faults{{File: path, Text: err.Error()}}
	}
	look := NewLook()
	parsed := k.ParseFile(path, data, func(f NamedFile) string { return look.Read(f).Fault })
	in := parsed.Integration
	if in == nil {
		return nil, parsed.Faults
	}
	fault := func(setting, text string) strictyaml.Faults {
		return strictyaml.Faults{{File: path, Path: setting, Text: text}}
	}
	roles := k.DecodeDocument(path, data).Roles
	switch {
	case !parsed.Ungranted:
		return nil, fault("grants", "a file of events.sources is not an integration that can be used; remove the grants")
	case len(roles.ResourceOwner)+len(roles.Assigner)+len(roles.Auditor)+len(roles.Rotator) > 0:
		return nil, fault("roles", "a file of events.sources is not an integration that can be managed; remove the roles")
	case in.EventSource() == "":
		return nil, fault(k.Section(in.Kind)+".events", "missing; it is required: the queue to receive events from")
	}
	var contents []Content
	for _, f := range parsed.Files {
		contents = append(contents, look.Read(f))
	}
	in.ReadRevision = ReadRevision(in, FilesSum(contents), nil)
	return in, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // opened for reading only
	return io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
}
