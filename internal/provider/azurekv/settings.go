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
			"azure.credential.send_certificate_chain",
			"azure.events.queue_url", "azure.events.tenant_id", "azure.events.client_id",
			"azure.events.credential.type=client_secret", "azure.events.credential.type=client_certificate",
			"azure.events.credential.send_certificate_chain",
		},
		Credentials: []string{
			"azure.credential.client_secret", "azure.credential.certificate",
			"azure.events.credential.client_secret", "azure.events.credential.certificate",
		},
		Choices: map[string][]string{
			"azure.credential.type":        integration.ChoiceNames(credentialRules),
			"azure.events.credential.type": integration.ChoiceNames(credentialRules),
		},
		Parse: integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
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
	// Events is the source of events, if it has a QueueURL.
	Events EventSettings
	// CAFile is a PEM file with roots that are added to the system's, for the vaults,
	// the queue and the login authority; empty for none.
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
	// PrivateEndpoint permits the names of the vaults, of the queue and of the login
	// authority to resolve to private addresses.
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
	// SendCertificateChain sends the certificates of the file with each token request
	// (x5c), for applications that trust a subject name and issuer instead of a
	// certificate. It is only set with the type ClientCertificate.
	SendCertificateChain bool
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
			{Name: "azure.credential.send_certificate_chain", Value: integration.IfSet(a.Credential.SendCertificateChain)},
		},
		integration.Elements("azure.vaults", a.Vaults),
		[]integration.Setting{
			{Name: "azure.authority_host", Value: a.AuthorityHost},
			{Name: "azure.disable_instance_discovery", Value: integration.IfSet(a.DisableInstanceDiscovery)},
			{Name: "azure.private_endpoint", Value: integration.IfSet(a.PrivateEndpoint)},
			{Name: "azure.ca_file", Value: integration.IfFile(a.CAFile)},
		},
		integration.Table("azure.dial", a.Dial),
		a.Events.list(),
	)
}

type section struct {
	TenantID                 string            `yaml:"tenant_id"`
	ClientID                 string            `yaml:"client_id"`
	Credential               credentialSection `yaml:"credential"`
	Vaults                   []string          `yaml:"vaults"`
	Events                   eventsSection     `yaml:"events"`
	CAFile                   string            `yaml:"ca_file"`
	AuthorityHost            string            `yaml:"authority_host"`
	DisableInstanceDiscovery bool              `yaml:"disable_instance_discovery"`
	Dial                     map[string]string `yaml:"dial"`
	PrivateEndpoint          bool              `yaml:"private_endpoint"`
}

type credentialSection struct {
	Type                 string `yaml:"type"`
	ClientSecretFile     string `yaml:"client_secret_file"`
	CertificateFile      string `yaml:"certificate_file"`
	SendCertificateChain bool   `yaml:"send_certificate_chain"`
	TokenFile            string `yaml:"token_file"`
}

var credentialRules = integration.CredentialRules[CredentialType]{
	ClientSecret:      {"client_secret_file": true},
	ClientCertificate: {"certificate_file": true},
	WorkloadIdentity:  {"token_file": true},
	ManagedIdentity:   {},
	DefaultCredential: {},
}

var uuidPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	a := &Settings{
		TenantID:                 s.TenantID,
		ClientID:                 s.ClientID,
		DisableInstanceDiscovery: s.DisableInstanceDiscovery,
		PrivateEndpoint:          s.PrivateEndpoint,
	}
	a.Credential = p.credential("azure", s.Credential)
	p.identifiers("azure", s.TenantID, s.ClientID)
	a.Vaults = p.vaults(s.Vaults)
	a.Events = p.events(s.Events, a.Vaults)
	a.CAFile = p.File("azure.ca_file", s.CAFile, integration.UseCA)
	a.AuthorityHost = p.authority(s.AuthorityHost, a.Vaults)
	a.Dial = p.Dial("azure.dial", s.Dial, a.hosts(), "not the host of a listed vault, of the queue or of the authority; nothing else is contacted")
	return a
}

// identifiers validates the tenant and the application of the identity in a section.
func (p parser) identifiers(section, tenantID, clientID string) {
	if tenantID != "" && !uuidPattern.MatchString(tenantID) && !integration.IsDomain(tenantID) {
		p.Fault(section+".tenant_id", "expected a tenant's UUID or one of its domain names")
	}
	if clientID != "" && !uuidPattern.MatchString(clientID) {
		p.Fault(section+".client_id", "expected an application's client ID, which is a UUID")
	}
}

// credential validates the credential of the identity in a section.
func (p parser) credential(section string, s credentialSection) Credential {
	c := Credential{Type: CredentialType(s.Type), SendCertificateChain: s.SendCertificateChain}
	if c.SendCertificateChain && c.Type != ClientCertificate {
		p.Fault(section+".credential.send_certificate_chain", "only the credential type client_certificate has a certificate to send")
	}
	if !integration.ParseCredential(p.Parser, section+".credential", c.Type, credentialRules,
		integration.CredentialSetting{Name: "client_secret_file", Value: s.ClientSecretFile, To: &c.ClientSecretFile, Storable: true},
		integration.CredentialSetting{Name: "certificate_file", Value: s.CertificateFile, To: &c.CertificateFile, Storable: true},
		integration.CredentialSetting{Name: "token_file", Value: s.TokenFile, To: &c.TokenFile, Use: integration.UseToken},
	) {
		return c
	}
	for _, id := range []string{section + ".tenant_id", section + ".client_id"} {
		// The types with a file are credentials of an application.
		if len(credentialRules[c.Type]) > 0 && !p.Has(id) {
			p.Fault(id, "missing; the credential type %s requires it", c.Type)
		}
	}
	return c
}

// vaults returns the valid vaults of list, in canonical form.
func (p parser) vaults(list []string) []string {
	const path = "azure.vaults"
	vaults := p.Stores(path, list, secret.KindAzureKeyVault, "at least one vault is required, such as https://NAME.vault.azure.net")
	for _, v := range vaults {
		cloud, _ := secret.AzureCloudOf(v.Name)
		if of, _ := secret.AzureCloudOf(vaults[0].Name); cloud != of {
			p.Fault(strictyaml.Index(path, v.Index), "a vault of %s, but those before it are of %s; make an integration for each cloud", cloud.Name, of.Name)
		}
	}
	return integration.StoreNames(vaults)
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
	if host := a.Events.host(); host != "" {
		hosts = append(hosts, host)
	}
	if u, err := url.Parse(a.AuthorityHost); err == nil {
		hosts = append(hosts, u.Hostname())
	}
	return hosts
}
