package integration

import (
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

type azureSection struct {
	TenantID                 string            `yaml:"tenant_id"`
	ClientID                 string            `yaml:"client_id"`
	Credential               azureCredential   `yaml:"credential"`
	Vaults                   []string          `yaml:"vaults"`
	CAFile                   string            `yaml:"ca_file"`
	AuthorityHost            string            `yaml:"authority_host"`
	DisableInstanceDiscovery bool              `yaml:"disable_instance_discovery"`
	Dial                     map[string]string `yaml:"dial"`
	PrivateEndpoint          bool              `yaml:"private_endpoint"`
}

type azureCredential struct {
	Type             string `yaml:"type"`
	ClientSecretFile string `yaml:"client_secret_file"`
	CertificateFile  string `yaml:"certificate_file"`
	TokenFile        string `yaml:"token_file"`
}

// azureCredentialRule is what a type of credential needs.
type azureCredentialRule struct {
	// file is the one setting of the credential that belongs to the type, "" if
	// none does.
	file string
	// ids: tenant_id and client_id are required.
	ids bool
}

var azureCredentialRules = map[AzureCredentialType]azureCredentialRule{
	AzureClientSecret:      {file: "client_secret_file", ids: true},
	AzureClientCertificate: {file: "certificate_file", ids: true},
	AzureWorkloadIdentity:  {file: "token_file", ids: true},
	AzureManagedIdentity:   {},
	AzureDefault:           {},
}

const azureCredentialTypes = "client_secret, client_certificate, workload_identity, managed_identity or default"

var (
	uuid   = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	domain = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// azure validates the section; what it returns is usable if there is no fault.
func (p *parser) azure(s *azureSection) *Azure {
	a := &Azure{
		TenantID:                 s.TenantID,
		ClientID:                 s.ClientID,
		DisableInstanceDiscovery: s.DisableInstanceDiscovery,
		PrivateEndpoint:          s.PrivateEndpoint,
	}
	a.Credential = p.azureCredential(s)
	if s.TenantID != "" && !uuid.MatchString(s.TenantID) && !domain.MatchString(s.TenantID) {
		p.doc.Fault("azure.tenant_id", "expected a tenant's UUID or a domain name of it")
	}
	if s.ClientID != "" && !uuid.MatchString(s.ClientID) {
		p.doc.Fault("azure.client_id", "expected an application's client ID, which is a UUID")
	}
	a.Vaults = p.azureVaults(s.Vaults)
	a.CAFile = p.file("azure.ca_file", s.CAFile, UseCA)
	a.AuthorityHost = p.azureAuthority(s.AuthorityHost, a.Vaults)
	a.Dial = p.azureDial(s.Dial, a)
	return a
}

func (p *parser) azureCredential(s *azureSection) AzureCredential {
	const section = "azure.credential"
	c := AzureCredential{Type: AzureCredentialType(s.Credential.Type)}
	rule, known := azureCredentialRules[c.Type]
	switch {
	case !p.doc.Has(section + ".type"):
		p.doc.Fault(section+".type", "missing; it is required: %s", azureCredentialTypes)
		return c
	case !known:
		p.doc.Fault(section+".type", "expected %s", azureCredentialTypes)
		return c
	}
	for _, id := range []string{"azure.tenant_id", "azure.client_id"} {
		if rule.ids && !p.doc.Has(id) {
			p.doc.Fault(id, "missing; the credential type %s requires it", c.Type)
		}
	}
	for _, file := range []struct {
		name string
		from string
		to   *string
	}{
		{"client_secret_file", s.Credential.ClientSecretFile, &c.ClientSecretFile},
		{"certificate_file", s.Credential.CertificateFile, &c.CertificateFile},
		{"token_file", s.Credential.TokenFile, &c.TokenFile},
	} {
		path := section + "." + file.name
		switch {
		case file.name == rule.file && file.name != "token_file" && p.isStored(path):
		case file.name == rule.file && !p.doc.Has(path):
			p.doc.Fault(path, "missing; the credential type %s requires it", c.Type)
		case file.name == rule.file && c.Type == AzureWorkloadIdentity:
			*file.to = p.file(path, file.from, UseToken)
		case file.name == rule.file:
			*file.to = p.file(path, file.from, UseCredential)
		case p.doc.Has(path):
			p.doc.Fault(path, "does not belong to the credential type %s; take it out or change the type", c.Type)
		}
	}
	return c
}

// azureVaults returns the vaults that can be made out, in canonical form.
func (p *parser) azureVaults(list []string) []string {
	const path = "azure.vaults"
	if len(list) == 0 {
		p.doc.Fault(path, "at least one vault is required, such as https://NAME.vault.azure.net")
		return nil
	}
	vaults := make([]string, 0, len(list))
	first := make(map[string]int, len(list))
	for i, s := range list {
		vault, err := secret.ParseAzureVault(s)
		if err != nil {
			p.doc.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
			continue
		}
		if j, ok := first[vault]; ok {
			p.doc.Fault(strictyaml.Index(path, i), "the same vault as %s", strictyaml.Index(path, j))
			continue
		}
		first[vault] = i
		vaults = append(vaults, vault)
		cloud, _ := secret.AzureCloudOf(vault)
		if of, _ := secret.AzureCloudOf(vaults[0]); cloud != of {
			p.doc.Fault(strictyaml.Index(path, i), "a vault of %s, but those before it are of %s; make an integration for each cloud", cloud.Name, of.Name)
		}
	}
	return vaults
}

// azureAuthority returns the login authority in the form "https://HOST/".
func (p *parser) azureAuthority(s string, vaults []string) string {
	if s == "" {
		if len(vaults) == 0 {
			return ""
		}
		cloud, _ := secret.AzureCloudOf(vaults[0])
		return cloud.AuthorityHost
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(s, "?#@\\%") ||
		u.Path != "" && u.Path != "/" || !validHost(u.Hostname()) || u.Port() != "" && !validPort(u.Port()) || strings.HasSuffix(u.Host, ":") {
		p.doc.Fault("azure.authority_host", "expected https://HOST/ with nothing after it, such as https://login.microsoftonline.com/")
		return ""
	}
	return "https://" + strings.ToLower(u.Host) + "/"
}

func (p *parser) azureDial(table map[string]string, a *Azure) map[string]string {
	if len(table) == 0 {
		return nil
	}
	hosts := make(map[string]bool, len(a.Vaults)+1)
	for _, v := range a.Vaults {
		hosts[strings.TrimPrefix(v, "https://")] = true
	}
	if u, err := url.Parse(a.AuthorityHost); err == nil {
		hosts[u.Hostname()] = true
	}
	dial := make(map[string]string, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		path, addr := strictyaml.Key("azure.dial", name), table[name]
		host := secret.KindAzureKeyVault.FoldName(name)
		if !hosts[host] {
			p.doc.Fault(path, "not the host of a listed vault or of the authority; nothing else is contacted")
		} else if _, twice := dial[host]; twice {
			p.doc.Fault(path, "the same host is listed twice")
		}
		h, port, err := net.SplitHostPort(addr)
		if err != nil || !validHost(h) || !validPort(port) {
			p.doc.Fault(path, "expected where to connect to, host:port, such as 127.0.0.1:8444")
		}
		dial[host] = addr
	}
	return dial
}

func validHost(s string) bool {
	return net.ParseIP(s) != nil || domain.MatchString(s) || domain.MatchString("host."+s)
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
