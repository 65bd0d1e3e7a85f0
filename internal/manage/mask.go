package manage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// sections are the parts of a document that a mask may name, each with what takes it
// from another document. "settings" and its parts are handled apart.
var sections = map[string]func(to, from *Document){
	"display_name":         func(to, from *Document) { to.DisplayName = from.DisplayName },
	"cache":                func(to, from *Document) { to.Cache = from.Cache },
	"cache.ttl":            func(to, from *Document) { to.Cache.TTL = from.Cache.TTL },
	"cache.max_stale":      func(to, from *Document) { to.Cache.MaxStale = from.Cache.MaxStale },
	"reads":                func(to, from *Document) { to.Reads = from.Reads },
	"reads.max_concurrent": func(to, from *Document) { to.Reads.MaxConcurrent = from.Reads.MaxConcurrent },
	"reads.per_second":     func(to, from *Document) { to.Reads.PerSecond = from.Reads.PerSecond },
	"reads.timeout":        func(to, from *Document) { to.Reads.Timeout = from.Reads.Timeout },
	"placement":            func(to, from *Document) { to.Placement = from.Placement },
	"placement.cloud":      func(to, from *Document) { to.Placement.Cloud = from.Placement.Cloud },
	"placement.region":     func(to, from *Document) { to.Placement.Region = from.Placement.Region },
	"grants":               func(to, from *Document) { to.Grants = from.Grants },
	"roles":                func(to, from *Document) { to.Roles = from.Roles },
}

// whole lists the parts that "*" names.
var whole = []string{"display_name", "settings", "cache", "reads", "placement", "grants", "roles"}

// applyMask returns before with the parts of wanted that the mask names. An empty mask names
// the parts that are set in wanted.
func applyMask(before, wanted *Document, mask []string) (*Document, error) {
	if len(mask) == 0 {
		mask = setParts(wanted)
	}
	if len(mask) == 1 && mask[0] == "*" {
		mask = whole
	}
	after := *before
	settings := before.Settings()
	if settings == nil {
		settings = make(map[string]any)
	}
	for _, path := range mask {
		name, inSettings := strings.CutPrefix(path, "settings.")
		switch {
		case path == "settings":
			settings = wanted.Settings()
		case inSettings:
			if err := copyPath(settings, wanted.Settings(), strings.Split(name, ".")); err != nil {
				return nil, secret.Errorf(secret.ReasonInvalidRequest, "update_mask: %q: %v", path, err)
			}
		case sections[path] != nil:
			sections[path](&after, wanted)
		case path == "id" || path == "kind":
			return nil, secret.Errorf(secret.ReasonInvalidRequest, "update_mask: %s cannot be changed; create another integration", path)
		default:
			return nil, secret.Errorf(secret.ReasonInvalidRequest, "update_mask: %q is unknown; expected %s, * or parts of settings",
				path, strings.Join(slices.Sorted(maps.Keys(sections)), ", "))
		}
	}
	if err := after.SetSettings(settings); err != nil {
		return nil, newInvalid(after.Kind, Fault{Text: err.Error()})
	}
	return &after, nil
}

// setParts lists the parts of a document that are not zero.
func setParts(f *Document) []string {
	var parts []string
	for part, set := range map[string]bool{
		"display_name": f.DisplayName != "",
		"settings":     len(f.Settings()) > 0,
		"cache":        f.Cache != integration.CacheSection{},
		"reads":        f.Reads != integration.ReadsSection{},
		"placement":    f.Placement != integration.Placement{},
		"grants":       len(f.Grants) > 0,
		"roles":        len(f.Roles.ResourceOwner)+len(f.Roles.Assigner)+len(f.Roles.Auditor)+len(f.Roles.Rotator) > 0,
	} {
		if set {
			parts = append(parts, part)
		}
	}
	return parts
}

// copyPath copies the value at path in from into to, or removes it from to if from has no
// value there.
func copyPath(to, from map[string]any, path []string) error {
	name := path[0]
	if name == "" {
		return fmt.Errorf("expected names separated by dots")
	}
	value, there := from[name]
	if len(path) == 1 {
		if there {
			to[name] = value
		} else {
			delete(to, name)
		}
		return nil
	}
	inner, _ := value.(map[string]any)
	if there && inner == nil {
		return fmt.Errorf("%s is not a section", name)
	}
	next, ok := to[name].(map[string]any)
	if !ok {
		next = make(map[string]any)
		to[name] = next
	}
	return copyPath(next, inner, path[1:])
}
