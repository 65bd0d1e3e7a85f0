package integration

import (
	"net"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Vault is how an integration reaches its Vault or OpenBao server.
type Vault struct {
	// Address is the only server that is ever contacted, canonical
	// (secret.ParseVaultAddress).
	Address string
	// Namespace is sent with every request; empty for the root namespace.
	Namespace string
	// Mounts are the only mounts that are read. None lies within another.
	Mounts []VaultMount
	Auth   VaultAuth
	// CAFile is a PEM file of roots added to the system's; empty for none.
	CAFile string
	// Dial is where to connect to, "host:port", instead of Address's host and
	// port; empty for those. Name and certificate checks stay those of Address.
	Dial string
	// PrivateEndpoint says that the server's name may lead to a private address.
	PrivateEndpoint bool
}

// Stores returns the store that references name, in canonical form.
func (v *Vault) Stores() []string {
	if v.Address == "" {
		return nil
	}
	return []string{v.Address}
}

// VaultEngine is what kind of secrets a mount has.
type VaultEngine string

// The engines. Reading a KV secret has no effect; reading from any other engine
// makes a new credential.
const (
	VaultKV1     VaultEngine = "kv1"
	VaultKV2     VaultEngine = "kv2"
	VaultDynamic VaultEngine = "dynamic"
)

// VaultMount is a mounted secrets engine.
type VaultMount struct {
	// Path is without slashes at its ends; it may have some within.
	Path   string
	Engine VaultEngine
}

// VaultAuthType is a way to log in.
type VaultAuthType string

// The ways to log in.
const (
	VaultAppRole    VaultAuthType = "approle"
	VaultJWT        VaultAuthType = "jwt"
	VaultKubernetes VaultAuthType = "kubernetes"
	VaultCert       VaultAuthType = "cert"
	VaultToken      VaultAuthType = "token"
)

// VaultAuth is what an integration logs in with. Only the fields of its Type are
// set.
type VaultAuth struct {
	Type VaultAuthType
	// Mount is where the auth method is mounted, without "auth/"; never empty
	// but for VaultToken.
	Mount string
	// Role is the role to log in to; of VaultCert it may be empty.
	Role string
	// RoleID belongs to approle. It is no secret by itself.
	RoleID string
	// SecretIDFile holds approle's secret ID; surrounding white space is cut.
	SecretIDFile string
	// TokenFile holds the JWT or the Vault token. It is read for each login.
	TokenFile string
	// CertificateFile is a PEM file with the client certificate and its key.
	CertificateFile string
}

func (v *Vault) settings() []Setting {
	mounts := make([]string, len(v.Mounts))
	for i, m := range v.Mounts {
		mounts[i] = m.Path + " (" + string(m.Engine) + ")"
	}
	return slices.Concat(
		[]Setting{{Name: "vault.address", Value: v.Address}, {Name: "vault.namespace", Value: v.Namespace}},
		elements("vault.mounts", mounts),
		[]Setting{
			{Name: "vault.auth.type", Value: string(v.Auth.Type)},
			{Name: "vault.auth.mount", Value: v.Auth.Mount},
			{Name: "vault.auth.role", Value: v.Auth.Role},
			{Name: "vault.auth.role_id", Value: v.Auth.RoleID},
			{Name: "vault.ca_file", Value: ifFile(v.CAFile)},
			{Name: "vault.dial", Value: v.Dial},
			{Name: "vault.private_endpoint", Value: ifSet(v.PrivateEndpoint)},
		},
	)
}

type vaultSection struct {
	Address         string         `yaml:"address"`
	Namespace       string         `yaml:"namespace"`
	Mounts          []mountSection `yaml:"mounts"`
	Auth            vaultAuth      `yaml:"auth"`
	CAFile          string         `yaml:"ca_file"`
	Dial            string         `yaml:"dial"`
	PrivateEndpoint bool           `yaml:"private_endpoint"`
}

type mountSection struct {
	Path   string `yaml:"path"`
	Engine string `yaml:"engine"`
}

type vaultAuth struct {
	Type            string `yaml:"type"`
	Mount           string `yaml:"mount"`
	Role            string `yaml:"role"`
	RoleID          string `yaml:"role_id"`
	SecretIDFile    string `yaml:"secret_id_file"`
	TokenFile       string `yaml:"token_file"`
	CertificateFile string `yaml:"certificate_file"`
}

// vault validates the section; what it returns is usable if there is no fault.
func (p *parser) vault(s *vaultSection) *Vault {
	v := &Vault{PrivateEndpoint: s.PrivateEndpoint}
	if !p.doc.Has("vault.address") {
		p.doc.Fault("vault.address", "missing; it is required, such as https://vault.example.org:8200")
	} else {
		address, err := secret.ParseVaultAddress(s.Address)
		if err != nil {
			p.doc.Fault("vault.address", "%s", secret.AsError(err).Message)
		}
		v.Address = address
	}
	v.Namespace = strings.Trim(s.Namespace, "/")
	if v.Namespace != "" && !secret.IsVaultPath(v.Namespace) {
		p.doc.Fault("vault.namespace", "expected the namespace's path, such as team-a or org/team-a")
	}
	v.Mounts = p.vaultMounts(s.Mounts)
	v.Auth = p.vaultAuth(s.Auth)
	v.CAFile = p.file("vault.ca_file", s.CAFile, UseCA)
	if v.Dial = s.Dial; s.Dial != "" {
		if h, port, err := net.SplitHostPort(s.Dial); err != nil || !validHost(h) || !validPort(port) {
			p.doc.Fault("vault.dial", "expected where to connect to, host:port, such as 10.0.0.5:8200")
		}
	}
	return v
}

func (p *parser) vaultMounts(list []mountSection) []VaultMount {
	if len(list) == 0 {
		p.doc.Fault("vault.mounts", "at least one mount is required, such as {path: secret, engine: kv2}")
	}
	mounts := make([]VaultMount, 0, len(list))
	for i, s := range list {
		at := strictyaml.Index("vault.mounts", i)
		m := VaultMount{Path: strings.Trim(s.Path, "/"), Engine: VaultEngine(s.Engine)}
		switch {
		case !secret.IsVaultPath(m.Path):
			p.doc.Fault(at+".path", "expected the path of a mount, such as secret or team/kv")
		case secret.VaultSystemPath(m.Path):
			p.doc.Fault(at+".path", "sys, auth, identity and cubbyhole are parts of the server itself, also behind a namespace; secrets are never read there")
		}
		if !slices.Contains([]VaultEngine{VaultKV1, VaultKV2, VaultDynamic}, m.Engine) {
			p.doc.Fault(at+".engine", "expected kv1, kv2 or dynamic")
		}
		for _, other := range mounts {
			if strings.HasPrefix(m.Path+"/", other.Path+"/") || strings.HasPrefix(other.Path+"/", m.Path+"/") {
				p.doc.Fault(at+".path", "the same mount as another, or within it; Vault has no such mounts")
			}
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// vaultAuthRules are the settings that each way to log in requires. role is one
// that cert can do without.
var vaultAuthRules = map[VaultAuthType][]string{
	VaultAppRole:    {"role_id", "secret_id_file"},
	VaultJWT:        {"role", "token_file"},
	VaultKubernetes: {"role", "token_file"},
	VaultCert:       {"certificate_file"},
	VaultToken:      {"token_file"},
}

const vaultAuthTypes = "approle, jwt, kubernetes, cert or token"

func (p *parser) vaultAuth(s vaultAuth) VaultAuth {
	const section = "vault.auth"
	a := VaultAuth{Type: VaultAuthType(s.Type), Role: s.Role, RoleID: s.RoleID}
	required, known := vaultAuthRules[a.Type]
	if !p.doc.Has(section + ".type") {
		p.doc.Fault(section+".type", "missing; it is required: %s", vaultAuthTypes)
		return a
	}
	if !known {
		p.doc.Fault(section+".type", "expected %s", vaultAuthTypes)
		return a
	}
	optional := []string{"mount"}
	switch a.Type {
	case VaultToken:
		optional = nil
	case VaultCert:
		optional = append(optional, "role")
	}
	for _, name := range []string{"mount", "role", "role_id", "secret_id_file", "token_file", "certificate_file"} {
		path := section + "." + name
		switch {
		// What Kubernetes writes to a file it renews there.
		case slices.Contains(required, name) && a.Type != VaultKubernetes && p.isStored(path):
		case slices.Contains(required, name) && !p.doc.Has(path):
			p.doc.Fault(path, "missing; logging in by %s requires it", a.Type)
		case !slices.Contains(required, name) && !slices.Contains(optional, name) && p.doc.Has(path):
			p.doc.Fault(path, "does not belong to logging in by %s; take it out or change the type", a.Type)
		}
	}
	if a.Type != VaultToken {
		if a.Mount = strings.Trim(s.Mount, "/"); !p.doc.Has(section + ".mount") {
			a.Mount = string(a.Type)
		}
		if !secret.IsVaultPath(a.Mount) {
			p.doc.Fault(section+".mount", "expected where the auth method is mounted, without auth/, such as %s", a.Type)
		}
	}
	for name, text := range map[string]string{"role": s.Role, "role_id": s.RoleID} {
		if p.doc.Has(section+"."+name) && (text == "" || len(text) > 256 || containsControl(text)) {
			p.doc.Fault(section+"."+name, "expected 1 to 256 bytes of text")
		}
	}
	a.SecretIDFile = p.file(section+".secret_id_file", s.SecretIDFile, UseCredential)
	a.TokenFile = p.file(section+".token_file", s.TokenFile, UseToken)
	a.CertificateFile = p.file(section+".certificate_file", s.CertificateFile, UseCredential)
	return a
}
