package integration

import (
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

type gcpSection struct {
	Projects                  []string          `yaml:"projects"`
	ImpersonateServiceAccount string            `yaml:"impersonate_service_account"`
	Credential                gcpCredential     `yaml:"credential"`
	CAFile                    string            `yaml:"ca_file"`
	Dial                      map[string]string `yaml:"dial"`
	PrivateEndpoint           bool              `yaml:"private_endpoint"`
}

type gcpCredential struct {
	Type       string `yaml:"type"`
	ConfigFile string `yaml:"config_file"`
	KeyFile    string `yaml:"key_file"`
}

// gcpCredentialFiles has for each type of credential the one setting of the
// credential that belongs to it, "" if none does.
var gcpCredentialFiles = map[GCPCredentialType]string{
	GCPMetadataServer:             "",
	GCPWorkloadIdentityFederation: "config_file",
	GCPServiceAccountKey:          "key_file",
	GCPApplicationDefault:         "",
}

const gcpCredentialTypes = "metadata_server, workload_identity_federation, service_account_key or application_default"

// serviceAccount is the e-mail address of a service account, of a project's own
// or of Google's.
var serviceAccount = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){1,4}gserviceaccount\.com$`)

// gcp validates the section; what it returns is usable if there is no fault.
func (p *parser) gcp(s *gcpSection) *GCP {
	if s == nil {
		p.doc.Fault("gcp", "missing; the kind %s requires it", secret.KindGCPSecretManager)
		return &GCP{}
	}
	g := &GCP{
		ImpersonateServiceAccount: s.ImpersonateServiceAccount,
		PrivateEndpoint:           s.PrivateEndpoint,
	}
	g.Credential = p.gcpCredential(s)
	if p.doc.Has("gcp.impersonate_service_account") && !serviceAccount.MatchString(s.ImpersonateServiceAccount) {
		p.doc.Fault("gcp.impersonate_service_account", "expected a service account's e-mail address, such as NAME@PROJECT.iam.gserviceaccount.com")
	}
	g.Stores = p.gcpStores(s.Projects)
	g.CAFile = p.file("gcp.ca_file", s.CAFile, UseCA)
	g.Dial = p.gcpDial(s.Dial, g)
	return g
}

func (p *parser) gcpCredential(s *gcpSection) GCPCredential {
	const section = "gcp.credential"
	c := GCPCredential{Type: GCPCredentialType(s.Credential.Type)}
	own, known := gcpCredentialFiles[c.Type]
	switch {
	case !p.doc.Has(section + ".type"):
		p.doc.Fault(section+".type", "missing; it is required: %s", gcpCredentialTypes)
		return c
	case !known:
		p.doc.Fault(section+".type", "expected %s", gcpCredentialTypes)
		return c
	}
	for _, file := range []struct {
		name string
		from string
		to   *string
	}{
		{"config_file", s.Credential.ConfigFile, &c.ConfigFile},
		{"key_file", s.Credential.KeyFile, &c.KeyFile},
	} {
		path := section + "." + file.name
		switch {
		case file.name == "key_file" && file.name == own && p.isStored(path):
		case file.name == own && !p.doc.Has(path):
			p.doc.Fault(path, "missing; the credential type %s requires it", c.Type)
		case file.name == own:
			*file.to = p.file(path, file.from, UseCredential)
		case p.doc.Has(path):
			p.doc.Fault(path, "does not belong to the credential type %s; take it out or change the type", c.Type)
		}
	}
	return c
}

// gcpStores returns the projects that can be made out, in canonical form.
func (p *parser) gcpStores(list []string) []string {
	const path = "gcp.projects"
	if len(list) == 0 {
		p.doc.Fault(path, "at least one project is required, such as projects/my-project")
		return nil
	}
	stores := make([]string, 0, len(list))
	first := make(map[string]int, len(list))
	for i, s := range list {
		store, err := secret.KindGCPSecretManager.ParseStore(s)
		if err != nil {
			p.doc.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
			continue
		}
		if j, ok := first[store]; ok {
			p.doc.Fault(strictyaml.Index(path, i), "the same project as %s", strictyaml.Index(path, j))
			continue
		}
		first[store] = i
		stores = append(stores, store)
	}
	return stores
}

func (p *parser) gcpDial(table map[string]string, g *GCP) map[string]string {
	if len(table) == 0 {
		return nil
	}
	hosts := slices.Concat(g.Endpoints(), g.TokenHosts())
	dial := make(map[string]string, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		path, addr := strictyaml.Key("gcp.dial", name), table[name]
		host := strings.ToLower(name)
		if !slices.Contains(hosts, host) {
			p.doc.Fault(path, "not a host that this integration contacts; those are %s", strings.Join(hosts, ", "))
		} else if _, twice := dial[host]; twice {
			p.doc.Fault(path, "the same host is listed twice")
		}
		h, port, err := net.SplitHostPort(addr)
		if err != nil || !validHost(h) || !validPort(port) {
			p.doc.Fault(path, "expected where to connect to, host:port, such as 10.0.0.5:443")
		}
		dial[host] = addr
	}
	return dial
}
