package azurekv

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Spec returns the integration.Spec of the kind.
func Spec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindAzureKeyVault, Section: "azure", Cloud: "azure",
		Mutable: []string{
			"azure.tenant_id", "azure.client_id", "azure.vaults",
			"azure.credential.type=client_secret", "azure.credential.type=client_certificate",
		},
		Credentials: []string{"azure.credential.client_secret", "azure.credential.certificate"},
		Choices:     map[string][]string{"azure.credential.type": integration.ChoiceNames(credentialRules)},
		Parse:       integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
	}
}

// parser validates the kind's section of an integration file.
type parser struct{ *integration.Parser }

// settingsOf returns the Azure settings of an integration; nil if it is of another
// kind.
func settingsOf(in *integration.Integration) *Settings {
	s, _ := in.Settings.(*Settings)
	return s
}

// StoreNames implements integration.Settings.
func (a *Settings) StoreNames() []string { return a.Vaults }

// Settings describes how an integration reaches its Key Vaults.
type Settings struct {
	TenantID   string
	ClientID   string
	Credential Credential
	// Vaults are the only vaults that are contacted, in canonical form
	// (secret.ParseAzureVault). They all belong to one cloud.
	Vaults []string
	// CAFile is a PEM file with roots that are added to the system's, for the vaults
	// and for the login authority; empty for none.
	CAFile string
	// AuthorityHost is the https base URL of the login authority. It is never empty.
	AuthorityHost string
	// DisableInstanceDiscovery stops the credential from asking Microsoft's public
	// endpoint whether AuthorityHost is genuine. It is needed for authorities that
	// this endpoint does not know.
	DisableInstanceDiscovery bool
	// Dial maps a host name in lower case to the "host:port" to connect to instead.
	// The certificate is still checked for the host name.
	Dial map[string]string
	// PrivateEndpoint permits the names of the vaults and of the login authority to
	// resolve to private addresses.
	PrivateEndpoint bool
}

// CredentialType is a method of authentication to Microsoft Entra ID.
type CredentialType string

// The credential types of azidentity that are suitable for a server.
const (
	ClientSecret      CredentialType = "client_secret"
	ClientCertificate CredentialType = "client_certificate"
	WorkloadIdentity  CredentialType = "workload_identity"
	ManagedIdentity   CredentialType = "managed_identity"
	DefaultCredential CredentialType = "default"
)

// Credential names the files of an Azure credential. Only the fields of its Type are
// set.
type Credential struct {
	Type CredentialType
	// ClientSecretFile holds the client secret. Surrounding white space is removed.
	ClientSecretFile string
	// CertificateFile is a PEM file with the certificate and its RSA key.
	CertificateFile string
	// TokenFile holds the federated token. It is read again for each new access
	// token.
	TokenFile string
}

// List implements integration.Settings.
func (a *Settings) List() []integration.Setting {
	return slices.Concat(
		[]integration.Setting{
			{Name: "azure.tenant_id", Value: a.TenantID},
			{Name: "azure.client_id", Value: a.ClientID},
			{Name: "azure.credential.type", Value: string(a.Credential.Type)},
		},
		integration.Elements("azure.vaults", a.Vaults),
		[]integration.Setting{
			{Name: "azure.authority_host", Value: a.AuthorityHost},
			{Name: "azure.disable_instance_discovery", Value: integration.IfSet(a.DisableInstanceDiscovery)},
			{Name: "azure.private_endpoint", Value: integration.IfSet(a.PrivateEndpoint)},
			{Name: "azure.ca_file", Value: integration.IfFile(a.CAFile)},
		},
		integration.Table("azure.dial", a.Dial),
	)
}

type section struct {
	TenantID                 string            `yaml:"tenant_id"`
	ClientID                 string            `yaml:"client_id"`
	Credential               credentialSection `yaml:"credential"`
	Vaults                   []string          `yaml:"vaults"`
	CAFile                   string            `yaml:"ca_file"`
	AuthorityHost            string            `yaml:"authority_host"`
	DisableInstanceDiscovery bool              `yaml:"disable_instance_discovery"`
	Dial                     map[string]string `yaml:"dial"`
	PrivateEndpoint          bool              `yaml:"private_endpoint"`
}

type credentialSection struct {
	Type             string `yaml:"type"`
	ClientSecretFile string `yaml:"client_secret_file"`
	CertificateFile  string `yaml:"certificate_file"`
	TokenFile        string `yaml:"token_file"`
}

// credentialRule states which settings a type of credential requires.
type credentialRule struct {
	// file is the one file setting of the type, "" if it has none.
	file string
	// ids means that tenant_id and client_id are required.
	ids bool
}

var credentialRules = map[CredentialType]credentialRule{
	ClientSecret:      {file: "client_secret_file", ids: true},
	ClientCertificate: {file: "certificate_file", ids: true},
	WorkloadIdentity:  {file: "token_file", ids: true},
	ManagedIdentity:   {},
	DefaultCredential: {},
}

const credentialTypes = "client_secret, client_certificate, workload_identity, managed_identity or default"

var (
	uuidPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
)

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	a := &Settings{
		TenantID:                 s.TenantID,
		ClientID:                 s.ClientID,
		DisableInstanceDiscovery: s.DisableInstanceDiscovery,
		PrivateEndpoint:          s.PrivateEndpoint,
	}
	a.Credential = p.credential(s)
	if s.TenantID != "" && !uuidPattern.MatchString(s.TenantID) && !integration.IsDomain(s.TenantID) {
		p.Fault("azure.tenant_id", "expected a tenant's UUID or a domain name of it")
	}
	if s.ClientID != "" && !uuidPattern.MatchString(s.ClientID) {
		p.Fault("azure.client_id", "expected an application's client ID, which is a UUID")
	}
	a.Vaults = p.vaults(s.Vaults)
	a.CAFile = p.File("azure.ca_file", s.CAFile, integration.UseCA)
	a.AuthorityHost = p.authority(s.AuthorityHost, a.Vaults)
	a.Dial = p.Dial("azure.dial", s.Dial, a.hosts(), "not the host of a listed vault or of the authority; nothing else is contacted")
	return a
}

func (p parser) credential(s *section) Credential {
	const at = "azure.credential"
	c := Credential{Type: CredentialType(s.Credential.Type)}
	rule, known := credentialRules[c.Type]
	switch {
	case !p.Has(at + ".type"):
		p.Fault(at+".type", "missing; it is required: %s", credentialTypes)
		return c
	case !known:
		p.Fault(at+".type", "expected %s", credentialTypes)
		return c
	}
	for _, id := range []string{"azure.tenant_id", "azure.client_id"} {
		if rule.ids && !p.Has(id) {
			p.Fault(id, "missing; the credential type %s requires it", c.Type)
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
		path := at + "." + file.name
		switch {
		case file.name == rule.file && file.name != "token_file" && p.Stored(path):
		case file.name == rule.file && !p.Has(path):
			p.Fault(path, "missing; the credential type %s requires it", c.Type)
		case file.name == rule.file && c.Type == WorkloadIdentity:
			*file.to = p.File(path, file.from, integration.UseToken)
		case file.name == rule.file:
			*file.to = p.File(path, file.from, integration.UseCredential)
		case p.Has(path):
			p.Fault(path, "does not belong to the credential type %s; take it out or change the type", c.Type)
		}
	}
	return c
}

// vaults returns the valid vaults of list, in canonical form.
func (p parser) vaults(list []string) []string {
	const path = "azure.vaults"
	if len(list) == 0 {
		p.Fault(path, "at least one vault is required, such as https://NAME.vault.azure.net")
		return nil
	}
	vaults := make([]string, 0, len(list))
	first := make(map[string]int, len(list))
	for i, s := range list {
		vault, err := secret.ParseAzureVault(s)
		if err != nil {
			p.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
			continue
		}
		if j, ok := first[vault]; ok {
			p.Fault(strictyaml.Index(path, i), "the same vault as %s", strictyaml.Index(path, j))
			continue
		}
		first[vault] = i
		vaults = append(vaults, vault)
		cloud, _ := secret.AzureCloudOf(vault)
		if of, _ := secret.AzureCloudOf(vaults[0]); cloud != of {
			p.Fault(strictyaml.Index(path, i), "a vault of %s, but those before it are of %s; make an integration for each cloud", cloud.Name, of.Name)
		}
	}
	return vaults
}

// authority returns the login authority in the form "https://HOST/".
func (p parser) authority(s string, vaults []string) string {
	if s == "" {
		if len(vaults) == 0 {
			return ""
		}
		cloud, _ := secret.AzureCloudOf(vaults[0])
		return cloud.AuthorityHost
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(s, "?#@\\%") ||
		u.Path != "" && u.Path != "/" || !integration.ValidHost(u.Hostname()) || u.Port() != "" && !integration.ValidPort(u.Port()) || strings.HasSuffix(u.Host, ":") {
		p.Fault("azure.authority_host", "expected https://HOST/ with nothing after it, such as https://login.microsoftonline.com/")
		return ""
	}
	return "https://" + strings.ToLower(u.Host) + "/"
}

// hosts returns the hosts that requests are sent to.
func (a *Settings) hosts() []string {
	hosts := make([]string, 0, len(a.Vaults)+1)
	for _, v := range a.Vaults {
		hosts = append(hosts, strings.TrimPrefix(v, "https://"))
	}
	if u, err := url.Parse(a.AuthorityHost); err == nil {
		hosts = append(hosts, u.Hostname())
	}
	return hosts
}
