package integration

import (
	"errors"
	"regexp"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Placement is where an integration's stores, or a caller, are. An empty field means
// unknown.
type Placement struct {
	// Cloud is "azure", "aws" or "gcp", or any other name that an organization uses for
	// its own cloud.
	Cloud string `yaml:"cloud,omitempty"`
	// Region is the cloud's own name of the region, such as "westeurope".
	Region string `yaml:"region,omitempty"`
}

var placementName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// IsPlacementName reports whether s can be the name of a cloud or a region.
func IsPlacementName(s string) bool { return placementName.MatchString(s) }

func (p *Parser) placement(kind secret.Kind, s Placement) Placement {
	k, _ := p.kinds.Spec(kind)
	for path, name := range map[string]string{"placement.cloud": s.Cloud, "placement.region": s.Region} {
		if p.Has(path) && !IsPlacementName(name) {
			p.Fault(path, "expected lower-case letters, digits and hyphens, such as westeurope")
		}
	}
	if s.Cloud != "" && k.Cloud != "" && s.Cloud != k.Cloud {
		p.Fault("placement.cloud", "stores of the kind %s are in the cloud %q", kind, k.Cloud)
	}
	if s.Cloud == "" {
		s.Cloud = k.Cloud
	}
	return s
}

// roles compiles the section. If it is not valid it returns nil, which gives no principal
// a role.
func (p *Parser) roles(s RolesSection) *authz.Roles {
	if len(s.ResourceOwner)+len(s.Assigner)+len(s.Auditor)+len(s.Rotator) == 0 {
		return nil
	}
	roles, err := authz.NewRoles(s.Bindings())
	var fault *authz.RoleError
	if errors.As(err, &fault) {
		path := "roles." + strings.ToLower(string(fault.Role))
		p.Fault(strictyaml.Index(path, fault.Index), "%s", fault.Text)
	}
	return roles
}

// Bindings returns the section by role.
func (s RolesSection) Bindings() map[authz.Role][]string {
	return map[authz.Role][]string{authz.ResourceOwner: s.ResourceOwner, authz.Assigner: s.Assigner, authz.Auditor: s.Auditor, authz.Rotator: s.Rotator}
}
