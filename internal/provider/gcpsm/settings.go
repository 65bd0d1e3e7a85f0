package gcpsm

import (
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
		Kind: secret.KindGCPSecretManager, Section: "gcp", Cloud: "gcp",
		Mutable:     []string{"gcp.projects", "gcp.impersonate_service_account", "gcp.credential.type=service_account_key"},
		Credentials: []string{"gcp.credential.key"},
		Choices:     map[string][]string{"gcp.credential.type": integration.ChoiceNames(credentialFiles)},
		Parse:       integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
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

// The hosts that issue access tokens. Source: the API discovery documents of OAuth
// 2.0, Security Token Service and IAM Service Account Credentials.
const (
	OAuthHost          = "oauth2.googleapis.com"
	STSHost            = "sts.googleapis.com"
	IAMCredentialsHost = "iamcredentials.googleapis.com"
)

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

// TokenHosts returns the hosts that may be asked for access tokens. The metadata
// server is not among them.
func (g *Settings) TokenHosts() []string {
	var hosts []string
	switch g.Credential.Type {
	case WorkloadIdentityFederation:
		// The file may also request a service account's token.
		return []string{STSHost, IAMCredentialsHost}
	case ServiceAccountKey:
		hosts = []string{OAuthHost}
	case ApplicationDefault:
		return []string{OAuthHost, STSHost, IAMCredentialsHost}
	}
	if g.ImpersonateServiceAccount != "" {
		hosts = append(hosts, IAMCredentialsHost)
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
}

type credentialSection struct {
	Type       string `yaml:"type"`
	ConfigFile string `yaml:"config_file"`
	KeyFile    string `yaml:"key_file"`
}

// credentialFiles maps each type of credential to its one file setting, "" if it has
// none.
var credentialFiles = map[CredentialType]string{
	MetadataServer:             "",
	WorkloadIdentityFederation: "config_file",
	ServiceAccountKey:          "key_file",
	ApplicationDefault:         "",
}

const credentialTypes = "metadata_server, workload_identity_federation, service_account_key or application_default"

// serviceAccountEmail matches the e-mail address of a service account, of a project's
// own or of Google's.
var serviceAccountEmail = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){1,4}gserviceaccount\.com$`)

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	if s == nil {
		p.Fault("gcp", "missing; the kind %s requires it", secret.KindGCPSecretManager)
		return &Settings{}
	}
	g := &Settings{
		ImpersonateServiceAccount: s.ImpersonateServiceAccount,
		PrivateEndpoint:           s.PrivateEndpoint,
	}
	g.Credential = p.credential(s)
	if p.Has("gcp.impersonate_service_account") && !serviceAccountEmail.MatchString(s.ImpersonateServiceAccount) {
		p.Fault("gcp.impersonate_service_account", "expected a service account's e-mail address, such as NAME@PROJECT.iam.gserviceaccount.com")
	}
	g.Stores = p.stores(s.Projects)
	g.CAFile = p.File("gcp.ca_file", s.CAFile, integration.UseCA)
	g.Dial = p.dial(s.Dial, g)
	return g
}

func (p parser) credential(s *section) Credential {
	const at = "gcp.credential"
	c := Credential{Type: CredentialType(s.Credential.Type)}
	own, known := credentialFiles[c.Type]
	switch {
	case !p.Has(at + ".type"):
		p.Fault(at+".type", "missing; it is required: %s", credentialTypes)
		return c
	case !known:
		p.Fault(at+".type", "expected %s", credentialTypes)
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
		path := at + "." + file.name
		switch {
		case file.name == "key_file" && file.name == own && p.Stored(path):
		case file.name == own && !p.Has(path):
			p.Fault(path, "missing; the credential type %s requires it", c.Type)
		case file.name == own:
			*file.to = p.File(path, file.from, integration.UseCredential)
		case p.Has(path):
			p.Fault(path, "does not belong to the credential type %s; take it out or change the type", c.Type)
		}
	}
	return c
}

// stores returns the valid projects of list, in canonical form.
func (p parser) stores(list []string) []string {
	const path = "gcp.projects"
	if len(list) == 0 {
		p.Fault(path, "at least one project is required, such as projects/my-project")
		return nil
	}
	stores := make([]string, 0, len(list))
	first := make(map[string]int, len(list))
	for i, s := range list {
		store, err := secret.KindGCPSecretManager.ParseStore(s)
		if err != nil {
			p.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
			continue
		}
		if j, ok := first[store]; ok {
			p.Fault(strictyaml.Index(path, i), "the same project as %s", strictyaml.Index(path, j))
			continue
		}
		first[store] = i
		stores = append(stores, store)
	}
	return stores
}

func (p parser) dial(table map[string]string, g *Settings) map[string]string {
	hosts := slices.Concat(g.Endpoints(), g.TokenHosts())
	return p.Dial("gcp.dial", table, hosts, "not a host that this integration contacts; those are "+strings.Join(hosts, ", "))
}
