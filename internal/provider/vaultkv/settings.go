package vaultkv

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Spec returns the integration.Spec of the kind.
func Spec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindHashiCorpVault, Section: "vault",
		Mutable: []string{
			"vault.namespace", "vault.mounts", "vault.events.poll", "vault.auth.mount", "vault.auth.role", "vault.auth.role_id",
			"vault.auth.type=approle", "vault.auth.type=cert", "vault.auth.type=jwt", "vault.auth.type=token",
		},
		// The credential is sent to this address.
		Immutable:   []string{"vault.address"},
		Credentials: []string{"vault.auth.secret_id", "vault.auth.certificate"},
		Choices:     map[string][]string{"vault.auth.type": integration.ChoiceNames(authRules)},
		Versions:    versions,
		Parse:       integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
	}
}

// versions implements integration.Spec.Versions.
func versions(in *integration.Integration, ref secret.Ref) secret.Versions {
	for _, m := range settingsOf(in).Mounts {
		if !strings.HasPrefix(ref.Name, m.Path+"/") {
			continue
		}
		switch m.Engine {
		case KV2:
			return secret.StoreVersions
		case KV1:
			return secret.NoVersions
		default:
			return secret.GeneratedVersions
		}
	}
	return secret.StoreVersions // of no mount: a read fails
}

// parser validates the kind's section of an integration file.
type parser struct{ *integration.Parser }

// settingsOf returns the Vault settings of an integration; nil if it is of another
// kind.
func settingsOf(in *integration.Integration) *Settings {
	s, _ := in.Settings.(*Settings)
	return s
}

// Settings describes how an integration reaches its Vault or OpenBao server.
type Settings struct {
	// Address is the only server that is contacted, in canonical form
	// (secret.ParseVaultAddress).
	Address string
	// Namespace is sent with every request; empty means the root namespace.
	Namespace string
	// Mounts are the only mounts that are read. No mount is inside another.
	Mounts []Mount
	Auth   Auth
	// CAFile is a PEM file with roots that are added to the system's; empty for none.
	CAFile string
	// Dial is the "host:port" to connect to instead of the host and port of Address;
	// empty to connect to Address. The certificate is still checked for the host of
	// Address.
	Dial string
	// PrivateEndpoint permits the server's name to resolve to a private address.
	PrivateEndpoint bool
	// Poll is how often the metadata of watched KV version 2 secrets is read; 0 for never.
	Poll time.Duration
}

// PollInterval implements integration.PollSettings.
func (v *Settings) PollInterval(ref secret.Ref) time.Duration {
	if v.Poll == 0 || ref.Version != "" {
		return 0
	}
	for _, m := range v.Mounts {
		if m.Engine == KV2 && strings.HasPrefix(ref.Name, m.Path+"/") {
			return v.Poll
		}
	}
	return 0
}

// StoreNames returns the store that references name, in canonical form.
func (v *Settings) StoreNames() []string {
	if v.Address == "" {
		return nil
	}
	return []string{v.Address}
}

// Engine is the type of a secrets engine.
type Engine string

// The engines. Reading a KV secret has no side effect. Reading from any other engine
// generates a new credential.
const (
	KV1     Engine = "kv1"
	KV2     Engine = "kv2"
	Dynamic Engine = "dynamic"
)

// Mount is a mounted secrets engine.
type Mount struct {
	// Path has no slash at its start or end; it may contain slashes.
	Path   string
	Engine Engine
}

// AuthType is an auth method.
type AuthType string

// The auth methods.
const (
	AppRole    AuthType = "approle"
	JWT        AuthType = "jwt"
	Kubernetes AuthType = "kubernetes"
	Cert       AuthType = "cert"
	Token      AuthType = "token"
)

// Auth is the credential that an integration logs in with. Only the fields of its
// Type are set.
type Auth struct {
	Type AuthType
	// Mount is the path where the auth method is mounted, without "auth/". It is
	// empty only for VaultToken.
	Mount string
	// Role is the role to log in to. It may be empty for VaultCert.
	Role string
	// RoleID is the role ID of AppRole. It is not a secret.
	RoleID string
	// SecretIDFile holds the secret ID of AppRole. Surrounding white space is
	// removed.
	SecretIDFile string
	// TokenFile holds the JWT or the Vault token. It is read for each login.
	TokenFile string
	// CertificateFile is a PEM file with the client certificate and its key.
	CertificateFile string
}

// List implements integration.Settings.
func (v *Settings) List() []integration.Setting {
	mounts := make([]string, len(v.Mounts))
	for i, m := range v.Mounts {
		mounts[i] = m.Path + " (" + string(m.Engine) + ")"
	}
	return slices.Concat(
		[]integration.Setting{{Name: "vault.address", Value: v.Address}, {Name: "vault.namespace", Value: v.Namespace}},
		integration.Elements("vault.mounts", mounts),
		[]integration.Setting{
			{Name: "vault.auth.type", Value: string(v.Auth.Type)},
			{Name: "vault.auth.mount", Value: v.Auth.Mount},
			{Name: "vault.auth.role", Value: v.Auth.Role},
			{Name: "vault.auth.role_id", Value: v.Auth.RoleID},
			{Name: "vault.ca_file", Value: integration.IfFile(v.CAFile)},
			{Name: "vault.dial", Value: v.Dial},
			{Name: "vault.private_endpoint", Value: integration.IfSet(v.PrivateEndpoint)},
			{Name: "vault.events.poll", Value: interval(v.Poll)},
		},
	)
}

func interval(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return integration.FormatDuration(d)
}

type section struct {
	Address         string         `yaml:"address"`
	Namespace       string         `yaml:"namespace"`
	Mounts          []mountSection `yaml:"mounts"`
	Auth            authSection    `yaml:"auth"`
	CAFile          string         `yaml:"ca_file"`
	Dial            string         `yaml:"dial"`
	PrivateEndpoint bool           `yaml:"private_endpoint"`
	Events          eventsSection  `yaml:"events"`
}

type eventsSection struct {
	Poll strictyaml.Duration `yaml:"poll"`
}

// The bounds of vault.events.poll.
const (
	minPoll = time.Second
	maxPoll = time.Hour
)

type mountSection struct {
	Path   string `yaml:"path"`
	Engine string `yaml:"engine"`
}

type authSection struct {
	Type            string `yaml:"type"`
	Mount           string `yaml:"mount"`
	Role            string `yaml:"role"`
	RoleID          string `yaml:"role_id"`
	SecretIDFile    string `yaml:"secret_id_file"`
	TokenFile       string `yaml:"token_file"`
	CertificateFile string `yaml:"certificate_file"`
}

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	v := &Settings{PrivateEndpoint: s.PrivateEndpoint}
	if !p.Has("vault.address") {
		p.Fault("vault.address", "missing; it is required, such as https://vault.example.org:8200")
	} else {
		address, err := secret.ParseVaultAddress(s.Address)
		if err != nil {
			p.Fault("vault.address", "%s", secret.AsError(err).Message)
		}
		v.Address = address
	}
	v.Namespace = strings.Trim(s.Namespace, "/")
	if v.Namespace != "" && !secret.IsVaultPath(v.Namespace) {
		p.Fault("vault.namespace", "expected the namespace's path, such as team-a or org/team-a")
	}
	v.Mounts = p.mounts(s.Mounts)
	v.Auth = p.auth(s.Auth)
	v.CAFile = p.File("vault.ca_file", s.CAFile, integration.UseCA)
	if p.Has("vault.events") {
		v.Poll = time.Duration(s.Events.Poll)
		if !p.Has("vault.events.poll") || v.Poll < minPoll || v.Poll > maxPoll {
			p.Fault("vault.events.poll", "expected how often to ask for the version of a watched secret, 1s to 1h, such as 10s")
		}
		if !slices.ContainsFunc(v.Mounts, func(m Mount) bool { return m.Engine == KV2 }) {
			p.Fault("vault.events", "only secrets in mounts of kv2 have metadata; remove it, or add such a mount")
		}
	}
	if v.Dial = s.Dial; s.Dial != "" {
		if !integration.ValidAddress(s.Dial) {
			p.Fault("vault.dial", "expected the address to connect to, host:port, such as 10.0.0.5:8200")
		}
	}
	return v
}

func (p parser) mounts(list []mountSection) []Mount {
	if len(list) == 0 {
		p.Fault("vault.mounts", "at least one mount is required, such as {path: secret, engine: kv2}")
	}
	mounts := make([]Mount, 0, len(list))
	for i, s := range list {
		at := strictyaml.Index("vault.mounts", i)
		m := Mount{Path: strings.Trim(s.Path, "/"), Engine: Engine(s.Engine)}
		switch {
		case !secret.IsVaultPath(m.Path):
			p.Fault(at+".path", "expected the path of a mount, such as secret or team/kv")
		case secret.VaultSystemPath(m.Path):
			p.Fault(at+".path", "sys, auth, identity and cubbyhole are parts of the server itself, also behind a namespace; secrets are never read there")
		}
		if !slices.Contains([]Engine{KV1, KV2, Dynamic}, m.Engine) {
			p.Fault(at+".engine", "expected kv1, kv2 or dynamic")
		}
		for _, other := range mounts {
			if strings.HasPrefix(m.Path+"/", other.Path+"/") || strings.HasPrefix(other.Path+"/", m.Path+"/") {
				p.Fault(at+".path", "the same mount as another, or within it; Vault has no such mounts")
			}
		}
		mounts = append(mounts, m)
	}
	return mounts
}

var authRules = integration.CredentialRules[AuthType]{
	AppRole:    {"mount": false, "role_id": true, "secret_id_file": true},
	JWT:        {"mount": false, "role": true, "token_file": true},
	Kubernetes: {"mount": false, "role": true, "token_file": true},
	Cert:       {"mount": false, "role": false, "certificate_file": true},
	Token:      {"token_file": true},
}

func (p parser) auth(s authSection) Auth {
	a := Auth{Type: AuthType(s.Type)}
	name := func(text string) string {
		if text == "" || len(text) > 256 || integration.ContainsControl(text) {
			return "expected 1 to 256 bytes of text"
		}
		return ""
	}
	mount := func(path string) string {
		if !secret.IsVaultPath(strings.Trim(path, "/")) {
			return "expected where the auth method is mounted, without auth/, such as " + s.Type
		}
		return ""
	}
	if integration.ParseCredential(p.Parser, "vault.auth", a.Type, authRules,
		integration.CredentialSetting{Name: "mount", Value: s.Mount, To: &a.Mount, Check: mount},
		integration.CredentialSetting{Name: "role", Value: s.Role, To: &a.Role, Check: name},
		integration.CredentialSetting{Name: "role_id", Value: s.RoleID, To: &a.RoleID, Check: name},
		integration.CredentialSetting{Name: "secret_id_file", Value: s.SecretIDFile, To: &a.SecretIDFile, Storable: true},
		// Kubernetes renews a service account token in a file of its own.
		integration.CredentialSetting{Name: "token_file", Value: s.TokenFile, To: &a.TokenFile, Use: integration.UseToken, Storable: a.Type != Kubernetes},
		integration.CredentialSetting{Name: "certificate_file", Value: s.CertificateFile, To: &a.CertificateFile, Storable: true},
	) && a.Type != Token {
		a.Mount = cmp.Or(strings.Trim(a.Mount, "/"), string(a.Type))
	}
	return a
}
