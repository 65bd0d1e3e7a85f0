package integration

import (
	"errors"
	"regexp"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Placement is where an integration's stores, or a caller, are. An empty field is
// one that nobody has said.
type Placement struct {
	// Cloud is "azure", "aws" or "gcp", or whatever an organisation calls its own.
	Cloud string `yaml:"cloud,omitempty"`
	// Region is the cloud's own name of it, such as "westeurope".
	Region string `yaml:"region,omitempty"`
}

type rolesSection struct {
	ResourceOwner []string `yaml:"resource_owner,omitempty"`
	Assigner      []string `yaml:"assigner,omitempty"`
	Auditor       []string `yaml:"auditor,omitempty"`
}

// kindSection is what the format knows of a kind beside its settings.
type kindSection struct {
	kind secret.Kind
	// section is the name of its settings' section.
	section string
	// cloud is where its stores are, "" if that is not the kind's to say.
	cloud string
	// ordinary are the settings, by their beginnings, that say what an integration
	// reads and as whom, and nothing of the broker's own machine. All others
	// (addresses to connect to, files, the machine's identity) are not for the
	// owner of one integration to decide.
	ordinary []string
	// fixed are settings that are not ordinary, but that say nothing of the broker's
	// machine either: where the credential is sent, and what keeps the owner of one
	// integration from the identity of another. Whoever creates the integration
	// decides them, and its owner all that is ordinary beside them.
	fixed []string
	// credentials are the names of those that are taken from the file which a form
	// names, for a Store to keep them. Tokens, which are renewed where they lie, are
	// not among them; a Store keeps one that is given by name.
	credentials []string
}

// kindSections has a row for every kind.
var kindSections = []kindSection{
	{
		kind: secret.KindAzureKeyVault, section: "azure", cloud: "azure",
		ordinary: []string{
			"azure.tenant_id", "azure.client_id", "azure.vaults",
			"azure.credential.type=client_secret", "azure.credential.type=client_certificate",
		},
		credentials: []string{"azure.credential.client_secret", "azure.credential.certificate"},
	},
	{
		kind: secret.KindAWSSecretsManager, section: "aws", cloud: "aws",
		ordinary: []string{
			"aws.stores", "aws.account_id", "aws.role.arn", "aws.role.duration", "aws.role.source_identity", "aws.role.tags",
			"aws.fips", "aws.sts_region", "aws.rotation_dates", "aws.credential.type=static",
		},
		// An owner who chose it could take the one by which another integration's role
		// knows the broker.
		fixed:       []string{"aws.role.external_id"},
		credentials: []string{"aws.credential.access_key_id", "aws.credential.secret_access_key", "aws.credential.session_token"},
	},
	{
		kind: secret.KindGCPSecretManager, section: "gcp", cloud: "gcp",
		ordinary:    []string{"gcp.projects", "gcp.impersonate_service_account", "gcp.credential.type=service_account_key"},
		credentials: []string{"gcp.credential.key"},
	},
	{
		kind: secret.KindHashiCorpVault, section: "vault",
		ordinary: []string{
			"vault.namespace", "vault.mounts", "vault.auth.mount", "vault.auth.role", "vault.auth.role_id",
			"vault.auth.type=approle", "vault.auth.type=cert", "vault.auth.type=jwt", "vault.auth.type=token",
		},
		// The credential goes there, and with it to whoever names a server of his own.
		fixed:       []string{"vault.address"},
		credentials: []string{"vault.auth.secret_id", "vault.auth.certificate"},
	},
	// Its files and variables are the broker machine's, all of them.
	{kind: secret.KindLocalFile, section: "local"},
}

func sectionOf(kind secret.Kind) (kindSection, bool) {
	for _, k := range kindSections {
		if k.kind == kind {
			return k, true
		}
	}
	return kindSection{}, false
}

// SectionOf returns the name of the section with a kind's settings, "" if there is
// no such kind.
func SectionOf(kind secret.Kind) string {
	k, _ := sectionOf(kind)
	return k.section
}

// IsOrdinary reports whether a setting of an integration, written "azure.vaults",
// or "azure.credential.type=client_secret" with its value, touches nothing that
// belongs to the broker's own machine.
func IsOrdinary(kind secret.Kind, setting string) bool {
	k, _ := sectionOf(kind)
	for _, other := range kindSections {
		if setting == other.section && k.section != "" {
			return false // a whole section, whatever it says
		}
	}
	if !strings.HasPrefix(setting, k.section+".") || k.section == "" {
		return true // common to all kinds
	}
	return k.lists(k.ordinary, setting)
}

// IsFixed reports whether a setting, which IsOrdinary does not list, leaves the
// others of the integration to its owner all the same. Changing it does not.
func IsFixed(kind secret.Kind, setting string) bool {
	k, _ := sectionOf(kind)
	return k.lists(k.fixed, setting)
}

func (kindSection) lists(beginnings []string, setting string) bool {
	for _, b := range beginnings {
		if setting == b || strings.HasPrefix(setting, b+"=") || strings.HasPrefix(setting, b+".") || strings.HasPrefix(setting, b+"[") {
			return true
		}
	}
	return false
}

var placeName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// IsPlaceName reports whether s can be the name of a cloud or a region.
func IsPlaceName(s string) bool { return placeName.MatchString(s) }

func (p *parser) placement(kind secret.Kind, s Placement) Placement {
	k, _ := sectionOf(kind)
	for path, name := range map[string]string{"placement.cloud": s.Cloud, "placement.region": s.Region} {
		if p.doc.Has(path) && !IsPlaceName(name) {
			p.doc.Fault(path, "expected lower-case letters, digits and hyphens, such as westeurope")
		}
	}
	if s.Cloud != "" && k.cloud != "" && s.Cloud != k.cloud {
		p.doc.Fault("placement.cloud", "stores of the kind %s are in the cloud %q", kind, k.cloud)
	}
	if s.Cloud == "" {
		s.Cloud = k.cloud
	}
	return s
}

// roles compiles the section. Where that is not possible it returns nil, which
// gives nobody anything.
func (p *parser) roles(s rolesSection) *authz.Roles {
	if len(s.ResourceOwner)+len(s.Assigner)+len(s.Auditor) == 0 {
		return nil
	}
	roles, err := authz.NewRoles(s.bindings())
	var fault *authz.RoleError
	if errors.As(err, &fault) {
		path := "roles." + strings.ToLower(string(fault.Role))
		p.doc.Fault(strictyaml.Index(path, fault.Index), "%s", fault.Text)
	}
	return roles
}

func (s rolesSection) bindings() map[authz.Role][]string {
	return map[authz.Role][]string{authz.ResourceOwner: s.ResourceOwner, authz.Assigner: s.Assigner, authz.Auditor: s.Auditor}
}

// ValidID reports whether id can be an integration's.
func ValidID(id string) bool { return validID.MatchString(id) }

// CloudOf returns the cloud that stores of a kind are in, "" if the kind does not
// say.
func CloudOf(kind secret.Kind) string {
	k, _ := sectionOf(kind)
	return k.cloud
}
