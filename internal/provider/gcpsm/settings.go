package gcpsm

import (
	"regexp"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Spec returns the integration.Spec of the kind.
func Spec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindGCPSecretManager, Section: "gcp", Cloud: "gcp",
		Mutable: []string{
			"gcp.projects", "gcp.impersonate_service_account", "gcp.credential.type=service_account_key",
			"gcp.events.subscription", "gcp.events.impersonate_service_account", "gcp.events.credential.type=service_account_key",
		},
		Credentials: []string{"gcp.credential.key", "gcp.events.credential.key"},
		Choices: map[string][]string{
			"gcp.credential.type":        integration.ChoiceNames(credentialRules),
			"gcp.events.credential.type": integration.ChoiceNames(credentialRules),
		},
		Parse: integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
	}
}

// parser validates the kind's section of an integration file.
type parser struct{ *integration.Parser }

// settingsOf returns the Google Cloud settings of an integration; nil if it is of
// another kind.
func settingsOf(in *integration.Integration) *Settings {
	s, _ := in.Settings.(*Settings)
	return s
}

// StoreNames implements integration.Settings.
func (g *Settings) StoreNames() []string { return g.Stores }

// Settings describes how an integration reaches Google Cloud's Secret Manager.
type Settings struct {
	// Stores are the projects, and locations of projects, whose secrets may be read,
	// in canonical form (secret.Kind.ParseStore). No others are requested.
	Stores []string
	// ImpersonateServiceAccount is the e-mail address of the service account that
	// reads. The token of Credential is exchanged for one of this account. Empty
	// means that Credential itself reads.
	ImpersonateServiceAccount string
	Credential                Credential
	// CAFile is a PEM file with roots that are added to the system's, for all hosts;
	// empty for none.
	CAFile string
	// Dial maps a host name to the "host:port" to connect to instead. The certificate
	// is still checked for the host name.
	Dial map[string]string
	// PrivateEndpoint permits host names to resolve to private addresses.
	PrivateEndpoint bool
	// Events is the source of events; nil if there is none.
	Events *Events
}

// CredentialType is a method of authentication to Google.
type CredentialType string

// The credential types, with Google's names for them.
const (
	// MetadataServer is the service account of the machine or, in GKE, of the
	// Kubernetes service account. Its tokens come from the metadata server.
	MetadataServer CredentialType = "metadata_server"
	// WorkloadIdentityFederation exchanges another identity provider's token.
	WorkloadIdentityFederation CredentialType = "workload_identity_federation"
	// ServiceAccountKey is a service account's own key.
	ServiceAccountKey CredentialType = "service_account_key"
	// ApplicationDefault is the credential that Google's own tools would find.
	ApplicationDefault CredentialType = "application_default"
)

// Credential names the files of a Google credential. Only the fields of its Type are
// set.
type Credential struct {
	Type CredentialType
	// ConfigFile is the configuration of an external account, as "gcloud iam
	// workload-identity-pools create-cred-config" writes it. The token file that it
	// names is read again for each new access token.
	ConfigFile string
	// KeyFile is a service account's key in JSON form.
	KeyFile string
}

// Endpoints returns the hosts of Secret Manager that have the secrets of Stores,
// without duplicates.
func (g *Settings) Endpoints() []string {
	hosts := make([]string, 0, 1)
	for _, s := range g.Stores {
		if host := secret.GCPEndpoint(s); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// List implements integration.Settings.
func (g *Settings) List() []integration.Setting {
	return slices.Concat(
		integration.Elements("gcp.projects", g.Stores),
		[]integration.Setting{
			{Name: "gcp.credential.type", Value: string(g.Credential.Type)},
			{Name: "gcp.credential.config_file", Value: integration.IfFile(g.Credential.ConfigFile)},
			{Name: "gcp.credential.key_file", Value: integration.IfFile(g.Credential.KeyFile)},
			{Name: "gcp.impersonate_service_account", Value: g.ImpersonateServiceAccount},
			{Name: "gcp.private_endpoint", Value: integration.IfSet(g.PrivateEndpoint)},
			{Name: "gcp.ca_file", Value: integration.IfFile(g.CAFile)},
		},
		g.Events.list(),
		integration.Table("gcp.dial", g.Dial),
	)
}

type section struct {
	Projects                  []string          `yaml:"projects"`
	ImpersonateServiceAccount string            `yaml:"impersonate_service_account"`
	Credential                credentialSection `yaml:"credential"`
	CAFile                    string            `yaml:"ca_file"`
	Dial                      map[string]string `yaml:"dial"`
	PrivateEndpoint           bool              `yaml:"private_endpoint"`
	Events                    eventsSection     `yaml:"events"`
}

type credentialSection struct {
	Type       string `yaml:"type"`
	ConfigFile string `yaml:"config_file"`
	KeyFile    string `yaml:"key_file"`
}

var credentialRules = integration.CredentialRules[CredentialType]{
	MetadataServer:             {},
	WorkloadIdentityFederation: {"config_file": true},
	ServiceAccountKey:          {"key_file": true},
	ApplicationDefault:         {},
}

// serviceAccountEmail matches the e-mail address of a service account, of a project's
// own or of Google's.
var serviceAccountEmail = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){1,4}gserviceaccount\.com$`)

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	g := &Settings{
		ImpersonateServiceAccount: s.ImpersonateServiceAccount,
		PrivateEndpoint:           s.PrivateEndpoint,
	}
	g.Credential = p.credential("gcp.credential", s.Credential)
	p.account("gcp.impersonate_service_account", s.ImpersonateServiceAccount)
	g.Stores = integration.StoreNames(p.Stores("gcp.projects", s.Projects, secret.KindGCPSecretManager, "at least one project is required, such as projects/my-project"))
	g.CAFile = p.File("gcp.ca_file", s.CAFile, integration.UseCA)
	g.Events = p.events(s)
	g.Dial = p.dial(s.Dial, g)
	return g
}

// account validates the setting at path, the e-mail address of a service account.
func (p parser) account(path, email string) {
	if p.Has(path) && !serviceAccountEmail.MatchString(email) {
		p.Fault(path, "expected a service account's e-mail address, such as NAME@PROJECT.iam.gserviceaccount.com")
	}
}

func (p parser) credential(path string, s credentialSection) Credential {
	c := Credential{Type: CredentialType(s.Type)}
	integration.ParseCredential(p.Parser, path, c.Type, credentialRules,
		integration.CredentialSetting{Name: "config_file", Value: s.ConfigFile, To: &c.ConfigFile},
		integration.CredentialSetting{Name: "key_file", Value: s.KeyFile, To: &c.KeyFile, Storable: true},
	)
	return c
}

func (p parser) dial(table map[string]string, g *Settings) map[string]string {
	hosts := g.hosts()
	return p.Dial("gcp.dial", table, hosts, "not a host that this integration contacts; those are "+strings.Join(hosts, ", "))
}
