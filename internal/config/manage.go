package config

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Roles are the principals that manage all integrations, as patterns like in a grant. No
// role allows its principals to read secrets.
type Roles struct {
	// ResourceOwner may do everything with integrations.
	ResourceOwner []string `yaml:"resource_owner"`
	// Assigner may read integrations, and grant and revoke their use.
	Assigner []string `yaml:"assigner"`
	// Auditor may read integrations and request explanations of decisions.
	Auditor []string `yaml:"auditor"`
	// Rotator may read integrations and watch their secrets for changes.
	Rotator []string `yaml:"rotator"`
}

// Bindings returns the patterns by role.
func (r Roles) Bindings() map[authz.Role][]string {
	return map[authz.Role][]string{authz.ResourceOwner: r.ResourceOwner, authz.Assigner: r.Assigner, authz.Auditor: r.Auditor, authz.Rotator: r.Rotator}
}

// Usage configures the records of who used which secret.
type Usage struct {
	// Window is the time without use after which an integration counts as unused; 1 min to
	// 90 days.
	Window strictyaml.Duration `yaml:"window"`
	// Retention is the time for which the broker keeps a record after the last use; 1 h to
	// 10 years.
	Retention strictyaml.Duration `yaml:"retention"`
}

// Validation configures when the broker contacts the stores of all integrations to find out
// whether they work.
type Validation struct {
	// AtStart validates once the broker has started.
	AtStart bool `yaml:"at_start"`
	// Every repeats the validation periodically; 0 for never, 1 min to 7 days.
	Every strictyaml.Duration `yaml:"every"`
}

// Placement restricts which integrations may exist, where, and for which callers. The zero
// Placement allows everything.
type Placement struct {
	// Kinds, Clouds and Regions are the allowed values; empty for any.
	Kinds   []string `yaml:"kinds"`
	Clouds  []string `yaml:"clouds"`
	Regions []string `yaml:"regions"`
	// Same is what a caller and the integration that it uses must have in common: "cloud"
	// or "region"; empty for nothing.
	Same string `yaml:"same"`
	// CallerPath is the pattern of the callers' SPIFFE paths that contains their placement.
	CallerPath string `yaml:"caller_path"`
	// Callers sets the placement of callers. It takes precedence over CallerPath.
	Callers []PlacedCallers `yaml:"callers"`
}

// PlacedCallers are callers with the same placement.
type PlacedCallers struct {
	Principals []string `yaml:"principals"`
	Cloud      string   `yaml:"cloud"`
	Region     string   `yaml:"region"`
}

// Rules returns the configuration of package placement.
func (p Placement) Rules() placement.Config {
	c := placement.Config{Clouds: p.Clouds, Regions: p.Regions, Same: placement.Same(p.Same), Path: p.CallerPath}
	for _, k := range p.Kinds {
		c.Kinds = append(c.Kinds, secret.Kind(k))
	}
	for _, at := range p.Callers {
		c.Callers = append(c.Callers, placement.Callers{Principals: at.Principals, Place: integration.Placement{Cloud: at.Cloud, Region: at.Region}})
	}
	return c
}

// The ranges of settings.
const (
	day               = 24 * time.Hour
	maxUsageWindow    = 90 * day
	maxUsageRetention = 3660 * day
	maxValidateEvery  = 7 * day
)

func defaultUsage() Usage {
	return Usage{Window: strictyaml.Duration(day), Retention: strictyaml.Duration(registry.DefaultUsageRetention)}
}

func (u *Usage) validate(doc *strictyaml.Document) {
	if d := time.Duration(u.Window); d < time.Minute || d > maxUsageWindow {
		doc.Fault("usage.window", "expected 1m to 90d")
	}
	if d := time.Duration(u.Retention); d < time.Hour || d > maxUsageRetention {
		doc.Fault("usage.retention", "expected 1h to 3660d")
	}
}

func (v *Validation) validate(doc *strictyaml.Document) {
	if d := time.Duration(v.Every); d != 0 && (d < time.Minute || d > maxValidateEvery) {
		doc.Fault("validation.every", "expected 1m to 7d, or 0s for never")
	}
}

func (r *Roles) validate(doc *strictyaml.Document) {
	for path, patterns := range map[string][]string{
		"roles.resource_owner": r.ResourceOwner, "roles.assigner": r.Assigner, "roles.auditor": r.Auditor, "roles.rotator": r.Rotator,
	} {
		principals(doc, path, patterns)
	}
}

func principals(doc *strictyaml.Document, path string, patterns []string) {
	for i, pattern := range patterns {
		if fault := authz.CheckPrincipalPattern(pattern); fault != "" {
			doc.Fault(strictyaml.Index(path, i), "%s", fault)
		}
	}
}

func (p *Placement) validate(doc *strictyaml.Document) {
	for i, kind := range p.Kinds {
		if !secret.Kind(kind).Known() {
			doc.Fault(strictyaml.Index("placement.kinds", i), "there is no such kind")
		}
	}
	places := map[string][]string{"placement.clouds": p.Clouds, "placement.regions": p.Regions}
	for path, names := range places {
		if names != nil && len(names) == 0 {
			doc.Fault(path, "an empty list would allow nothing; remove the setting to allow any")
		}
		for i, name := range names {
			placementName(doc, strictyaml.Index(path, i), name)
		}
	}
	if p.Kinds != nil && len(p.Kinds) == 0 {
		doc.Fault("placement.kinds", "an empty list would allow nothing; remove the setting to allow any")
	}
	switch placement.Same(p.Same) {
	case placement.SameNothing:
		if p.CallerPath != "" || len(p.Callers) > 0 {
			doc.Fault("placement.same", "missing; set it to cloud or region, without it the broker does not check where callers are")
		}
	case placement.SameCloud, placement.SameRegion:
		if p.CallerPath == "" && len(p.Callers) == 0 {
			doc.Fault("placement.same", "no setting determines where callers are, so no caller could use an integration; add caller_path or callers")
		}
	default:
		doc.Fault("placement.same", "expected cloud or region")
	}
	if doc.Has("placement.caller_path") {
		if fault := placement.CheckPath(p.CallerPath); fault != "" {
			doc.Fault("placement.caller_path", "%s", fault)
		}
	}
	for i, c := range p.Callers {
		path := strictyaml.Index("placement.callers", i)
		if len(c.Principals) == 0 {
			doc.Fault(path+".principals", "missing; it is required: the callers in that place")
		}
		principals(doc, path+".principals", c.Principals)
		if !doc.Has(path + ".cloud") {
			doc.Fault(path+".cloud", "missing; it is required")
		} else {
			placementName(doc, path+".cloud", c.Cloud)
		}
		if c.Region != "" {
			placementName(doc, path+".region", c.Region)
		}
	}
}

func placementName(doc *strictyaml.Document, path, name string) {
	if !integration.IsPlacementName(name) {
		doc.Fault(path, "expected lower-case letters, digits and hyphens, such as westeurope")
	}
}
