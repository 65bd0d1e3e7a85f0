package registry

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
	// credentials are the names of those that a Store can keep in place of a file.
	// Tokens that are renewed where they lie are not among them.
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
		kind: "AWS_SECRETS_MANAGER", section: "aws", cloud: "aws",
		ordinary: []string{
			"aws.stores", "aws.account_id", "aws.role", "aws.fips", "aws.sts_region", "aws.rotation_dates", "aws.credential.type=static",
		},
		credentials: []string{
			"aws.credential.access_key_id", "aws.credential.secret_access_key", "aws.credential.session_token", "aws.credential.credentials",
		},
	},
	{
		kind: "GCP_SECRET_MANAGER", section: "gcp", cloud: "gcp",
		ordinary:    []string{"gcp.projects", "gcp.impersonate_service_account", "gcp.credential.type=service_account_key"},
		credentials: []string{"gcp.credential.key"},
	},
	{
		kind: "HASHICORP_VAULT", section: "vault",
		ordinary: []string{
			"vault.address", "vault.namespace", "vault.mounts", "vault.auth.mount", "vault.auth.role", "vault.auth.role_id",
			"vault.auth.type=approle", "vault.auth.type=cert",
		},
		credentials: []string{"vault.auth.secret_id", "vault.auth.certificate"},
	},
	{kind: "LOCAL_FILE", section: "local"},
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
	if !strings.HasPrefix(setting, k.section+".") || k.section == "" {
		return true // common to all kinds
	}
	for _, o := range k.ordinary {
		if setting == o || strings.HasPrefix(setting, o+"=") || strings.HasPrefix(setting, o+".") || strings.HasPrefix(setting, o+"[") {
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
