package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Document is an integration as a file on this machine describes it.
type Document struct {
	// Path is the path of the file, for messages.
	Path string
	integration.DecodedDocument
	// Credentials are the files that the document names for credentials, by the name
	// under which the broker keeps them. They are not in the document.
	Credentials map[string]string
}

// ParseDocument parses the content of the file at path, a document of one of kinds. The
// error has all faults with their lines.
func ParseDocument(kinds *integration.Kinds, path string, data []byte) (*Document, error) {
	d := &Document{Path: path, DecodedDocument: kinds.DecodeDocument(path, data)}
	if err := d.Faults.Err(); err != nil {
		return nil, err
	}
	d.Credentials = d.CredentialFiles(filepath.Dir(path))
	return d, nil
}

// Integration returns the document as an integration of the client. It reads the named
// credentials from their files.
func (d *Document) Integration(names []string) (*client.Integration, error) {
	in := IntegrationOf(&d.Document)
	for _, name := range names {
		content, err := ReadCredential(d.Credentials[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", d.Path, name, err)
		}
		if in.Credentials == nil {
			in.Credentials = make(map[string][]byte)
		}
		in.Credentials[name] = content
	}
	return in, nil
}

// maxCredentialFile limits the size of a credential file, in bytes.
const maxCredentialFile = 64 << 10

// ReadCredential reads a credential file; "-" is standard input.
func ReadCredential(path string) ([]byte, error) {
	if path == "-" {
		path = "/dev/stdin"
	}
	data, err := os.ReadFile(path)
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(data) > maxCredentialFile:
		return nil, fmt.Errorf("%s is larger than 64 KiB", path)
	}
	return data, nil
}

// IntegrationOf returns what the client sends for a document.
func IntegrationOf(f *integration.Document) *client.Integration {
	in := &client.Integration{
		ID: f.ID, DisplayName: f.DisplayName, Kind: string(f.Kind), Settings: numbersAsFloats(f.Settings()),
		CacheTTL: time.Duration(f.Cache.TTL), CacheMaxStale: time.Duration(f.Cache.MaxStale),
		Reads: client.IntegrationReads{
			MaxConcurrent: f.Reads.MaxConcurrent, PerSecond: f.Reads.PerSecond, Timeout: time.Duration(f.Reads.Timeout),
		},
		Placement: client.Placement{Cloud: f.Placement.Cloud, Region: f.Placement.Region},
		Roles:     make(map[client.Role][]string),
	}
	for _, g := range f.Grants {
		in.Grants = append(in.Grants, client.Grant{ID: g.ID, Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys})
	}
	for role, patterns := range f.Roles.Bindings() {
		in.Roles[client.Role(role)] = patterns
	}
	return in
}

// numbersAsFloats converts the numbers of settings to floats, as in a broker's answer.
func numbersAsFloats(m map[string]any) map[string]any {
	var convert func(v any) any
	convert = func(v any) any {
		switch v := v.(type) {
		case int:
			return float64(v)
		case map[string]any:
			return numbersAsFloats(v)
		case []any:
			for i := range v {
				v[i] = convert(v[i])
			}
		}
		return v
	}
	for k, v := range m {
		m[k] = convert(v)
	}
	return m
}

// DocumentOf returns the document of an integration that a broker answered, of one of kinds.
func DocumentOf(kinds *integration.Kinds, in *client.Integration) (*integration.Document, error) {
	f := &integration.Document{ID: in.ID, DisplayName: in.DisplayName, Kind: secret.Kind(in.Kind)}
	if !f.Bind(kinds) || in.Kind != "" && f.Section() == "" {
		return nil, fmt.Errorf("%s: this version of the command does not know integrations of the kind %s; use a newer version", in.ID, in.Kind)
	}
	if len(in.Settings) > 0 {
		if err := f.SetSettings(in.Settings); err != nil {
			return nil, fmt.Errorf("%s: this version of the command cannot parse the broker's answer: %w", in.ID, err)
		}
	}
	f.Cache.SetTTL(in.CacheTTL)
	f.Cache.SetMaxStale(in.CacheMaxStale)
	f.Reads.MaxConcurrent, f.Reads.PerSecond = in.Reads.MaxConcurrent, in.Reads.PerSecond
	f.Reads.SetTimeout(in.Reads.Timeout)
	f.Placement = integration.Placement{Cloud: in.Placement.Cloud, Region: in.Placement.Region}
	for _, g := range in.Grants {
		section := integration.GrantSection{ID: g.ID, Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys}
		f.Grants = append(f.Grants, section.WithoutDerivedID())
	}
	f.Roles = integration.RolesSection{
		ResourceOwner: in.Roles[client.Role(authz.ResourceOwner)], Assigner: in.Roles[client.Role(authz.Assigner)], Auditor: in.Roles[client.Role(authz.Auditor)],
		Rotator: in.Roles[client.Role(authz.Rotator)],
	}
	return f, nil
}
