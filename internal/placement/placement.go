// Package placement applies an organisation's placement rules: which kinds of stores
// integrations may use, in which clouds and regions, and whether a caller must be in the
// same cloud or region as the integration that it uses.
//
// The package is pure: it has no I/O, no clock and no gRPC. An enabled rule fails closed:
// an integration or caller whose cloud or region is unknown does not comply with it.
package placement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Same is the part of the placement that a caller and its integration must have in
// common.
type Same string

// The values of Same.
const (
	SameNothing Same = ""
	SameCloud   Same = "cloud"
	// SameRegion also requires the same cloud.
	SameRegion Same = "region"
)

// Config is an organisation's rules. The zero Config allows everything.
type Config struct {
	// Kinds, Clouds and Regions are the values that integrations may have. An empty list
	// allows all.
	Kinds   []secret.Kind
	Clouds  []string
	Regions []string
	// Same applies to each call.
	Same Same
	// Callers contains the placement of callers. The first entry that matches applies.
	Callers []Callers
	// Path determines the placement of a caller that no entry of Callers matches, from
	// the first segments of the path in its SPIFFE ID. "{cloud}" and "{region}" are
	// placeholders for the segments that name them, and "*" matches any segment. Empty
	// means that such callers have no placement.
	Path string
}

// Callers is a set of callers with the same placement.
type Callers struct {
	Principals []string
	Place      integration.Placement
}

// Rules is the compiled form of a Config. It is immutable and safe for concurrent use. A
// nil Rules allows everything.
type Rules struct {
	cfg     Config
	callers []*authz.Principals
	path    []string
	open    bool // no rule is enabled
}

// New compiles cfg. The error names the setting that is wrong.
func New(cfg Config) (*Rules, error) {
	r := &Rules{cfg: cfg}
	r.open = len(cfg.Kinds)+len(cfg.Clouds)+len(cfg.Regions) == 0 && cfg.Same == SameNothing
	for i, c := range cfg.Callers {
		who, err := authz.NewPrincipals(c.Principals)
		if err != nil {
			return nil, fmt.Errorf("callers[%d].principals: %w", i, err)
		}
		r.callers = append(r.callers, who)
	}
	if cfg.Path != "" {
		if fault := CheckPath(cfg.Path); fault != "" {
			return nil, fmt.Errorf("caller_path: %s", fault)
		}
		r.path = strings.Split(strings.Trim(cfg.Path, "/"), "/")
	}
	return r, nil
}

// Restrict reports whether any rule is enabled.
func (r *Rules) Restrict() bool { return r != nil && !r.open }

// CheckPath describes what is wrong with a Config.Path. It returns "" if the path is
// valid.
func CheckPath(path string) (text string) {
	const want = `expected how SPIFFE paths begin, such as /connect/{cloud}/{region}`
	if !strings.HasPrefix(path, "/") {
		return want
	}
	seen := make(map[string]bool)
	for segment := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		switch {
		case segment == "{cloud}" || segment == "{region}":
			if seen[segment] {
				return segment + " is listed twice"
			}
			seen[segment] = true
		case segment == "" || segment != "*" && strings.ContainsAny(segment, "{}*"):
			return want
		}
	}
	if len(seen) == 0 {
		return "it contains neither {cloud} nor {region}; " + want
	}
	return ""
}

// Fault is a rule that an integration violates.
type Fault struct {
	// Setting is the integration's setting that violates the rule.
	Setting, Text string
}

// Violations returns a description of each violation. No caller may use the integrations
// concerned until they comply.
func (r *Rules) Violations(integrations []*integration.Integration) []string {
	var texts []string
	for _, in := range integrations {
		for _, f := range r.Check(in.Kind, in.Placement) {
			texts = append(texts, fmt.Sprintf("integration %s: %s: %s", in.ID, f.Setting, f.Text))
		}
	}
	return texts
}

// Check returns the rules that an integration with this kind and placement violates.
func (r *Rules) Check(kind secret.Kind, at integration.Placement) []Fault {
	if r == nil {
		return nil
	}
	var faults []Fault
	if len(r.cfg.Kinds) > 0 && !slices.Contains(r.cfg.Kinds, kind) {
		faults = append(faults, Fault{"kind", fmt.Sprintf("the organisation allows the kinds %s", kinds(r.cfg.Kinds))})
	}
	limited := func(setting, is string, allowed []string) {
		switch {
		case len(allowed) == 0 || slices.Contains(allowed, is):
		case is == "":
			faults = append(faults, Fault{setting, "missing; the organisation's rules require one of " + strings.Join(allowed, ", ")})
		default:
			faults = append(faults, Fault{setting, "the organisation allows " + strings.Join(allowed, ", ")})
		}
	}
	limited("placement.cloud", at.Cloud, r.cfg.Clouds)
	limited("placement.region", at.Region, r.cfg.Regions)
	return faults
}

func kinds(list []secret.Kind) string {
	names := make([]string, len(list))
	for i, k := range list {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// CallerPlacement returns the placement of who. Parts that the rules do not determine are
// empty.
func (r *Rules) CallerPlacement(who authz.Principal) integration.Placement {
	if r == nil {
		return integration.Placement{}
	}
	for i, c := range r.callers {
		if c.Contains(who) {
			return r.cfg.Callers[i].Place
		}
	}
	return r.placeInPath(string(who))
}

func (r *Rules) placeInPath(id string) (at integration.Placement) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok || len(r.path) == 0 {
		return at
	}
	segments := strings.Split(rest, "/")[1:] // without the trust domain
	if len(segments) < len(r.path) {
		return at
	}
	for i, want := range r.path {
		switch {
		case want == "{cloud}":
			at.Cloud = segments[i]
		case want == "{region}":
			at.Region = segments[i]
		case want != "*" && want != segments[i]:
			return integration.Placement{}
		}
	}
	return at
}

// Admit describes why the rules forbid who to use the integration. It returns "" if they
// allow it. It also checks the integration itself, because rules that are enabled later
// apply to existing integrations too.
func (r *Rules) Admit(who authz.Principal, in *integration.Integration) (why string) {
	if r == nil || r.open {
		return ""
	}
	if faults := r.Check(in.Kind, in.Placement); len(faults) > 0 {
		return fmt.Sprintf("the integration does not comply with the organisation's placement rules (%s): %s", faults[0].Setting, faults[0].Text)
	}
	if r.cfg.Same == SameNothing {
		return ""
	}
	caller, store := r.CallerPlacement(who), in.Placement
	if caller.Cloud == "" || caller.Cloud != store.Cloud {
		return differ("cloud", caller.Cloud, store.Cloud)
	}
	if r.cfg.Same == SameRegion && (caller.Region == "" || caller.Region != store.Region) {
		return differ("region", caller.Region, store.Region)
	}
	return ""
}

func differ(what, caller, store string) string {
	name := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("callers and the integrations that they use must be in the same %s: the %[1]s of this caller is %s, and that of the integration is %s",
		what, name(caller), name(store))
}
