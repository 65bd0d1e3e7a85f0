package resolve

import (
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/editdistance"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The properties of a connector's configuration that determine which of its configs are
// references. Source: Confluent, "Create a secret manager integration".
const (
	propPrefix      = "secret.manager"
	propEnabled     = "secret.manager.enabled"
	propKind        = "secret.manager"
	propManaged     = "secret.manager.managed.configs"
	propIntegration = "secret.manager.provider.integration.id"
)

// references returns the configs that contain references, by name, and the errors of
// single configs. Without secret.manager properties, every entry is a reference. With
// them, only the listed names are, and the other entries are ignored. A contradiction
// between the properties fails the whole configuration. The number of errors is at most
// about most, the number of references that a request may have.
//
// A property that looks like a misspelt known one is a contradiction. Other unknown
// properties are ignored like any property that is not listed, because a property that
// Confluent adds must not stop a connector that works there. If strict is set, each of
// them is an error of its own.
func references(strict bool, integrationID string, configs map[string]string, most int) (refs map[string]string, problems []ConfigError, err error) {
	found := false
	var unknown []ConfigError
	for name := range configs {
		if isProperty(name) {
			found = true
			if len(problems)+len(unknown) == most {
				break // the caller has enough to fix
			}
			if problem := checkProperty(name, configs[name], integrationID); problem != "" {
				problems = append(problems, ConfigError{Config: name, Err: mismatch("%s", problem)})
			} else if strict && !slices.Contains(properties, name) {
				unknown = append(unknown, ConfigError{Config: name, Err: mismatch(
					"unknown property, which Resolve ignores; known are %s", strings.Join(properties, ", "))})
			}
		}
	}
	if !found {
		return configs, nil, nil
	}
	if len(problems) > 0 {
		return nil, nil, newFailure(append(problems, unknown...))
	}
	enabled, ok := configs[propEnabled]
	if !ok {
		return nil, nil, newFailure([]ConfigError{{Config: propEnabled, Err: mismatch(
			"the configuration has secret.manager properties but lacks this one; set it to true or false")}})
	}
	if strings.EqualFold(enabled, "false") {
		return nil, unknown, nil
	}
	for _, required := range []string{propKind, propManaged} {
		if _, ok := configs[required]; !ok {
			problems = append(problems, ConfigError{Config: required, Err: mismatch(
				"secret.manager.enabled is true, but this property is missing")})
		}
	}
	if len(problems) > 0 {
		return nil, nil, newFailure(append(problems, unknown...))
	}
	if n := 1 + strings.Count(configs[propManaged], ","); n > most {
		return nil, nil, newFailure([]ConfigError{{Config: propManaged, Err: mismatch(
			"the list has %d elements, the maximum is %d", n, most)}})
	}
	refs, problems = managedConfigs(configs)
	return refs, append(problems, unknown...), nil
}

// managedConfigs returns the configs that secret.manager.managed.configs lists.
func managedConfigs(configs map[string]string) (refs map[string]string, problems []ConfigError) {
	refs = make(map[string]string)
	listed := make(map[string]bool)
	for name := range strings.SplitSeq(configs[propManaged], ",") {
		name = strings.TrimSpace(name)
		ref, present := configs[name]
		switch {
		case name == "" && listed[name]: // already reported
		case name == "":
			problems = append(problems, ConfigError{Config: propManaged, Err: mismatch(
				"the list is empty or has an empty element; expected config names separated by commas, for example database.password,database.user")})
		case len(name) > MaxNameLen:
			problems = append(problems, ConfigError{Config: propManaged, Err: mismatch(
				"the list has an element of %d bytes, a config name has at most %d", len(name), MaxNameLen)})
		case !printable(name):
			problems = append(problems, ConfigError{Config: propManaged, Err: mismatch(
				"the list has an element that contains a control character or is not UTF-8")})
		case listed[name]:
			problems = append(problems, ConfigError{Config: name, Err: mismatch(
				"%s lists this config twice", propManaged)})
		case isProperty(name):
			problems = append(problems, ConfigError{Config: name, Err: mismatch(
				"%s lists one of the secret manager's own properties", propManaged)})
		case !present:
			problems = append(problems, ConfigError{Config: name, Err: mismatch(
				"%s lists this config, but the configuration does not contain it", propManaged)})
		case strings.TrimSpace(ref) == "":
			problems = append(problems, ConfigError{Config: name, Err: mismatch(
				"%s lists this config, but its value is empty", propManaged)})
		default:
			refs[name] = ref
		}
		listed[name] = true
	}
	for _, f := range problems { // a name with an error has no value, even if it is also valid elsewhere in the list
		delete(refs, f.Config)
	}
	return refs, problems
}

func isProperty(name string) bool {
	return name == propPrefix || strings.HasPrefix(name, propPrefix+".")
}

// checkProperty returns what is wrong with one secret.manager property, or "".
func checkProperty(name, value, integrationID string) (problem string) {
	switch name {
	case propEnabled:
		if !strings.EqualFold(value, "true") && !strings.EqualFold(value, "false") {
			if ends := secret.InvisibleEnds(value); ends != "" {
				return "expected true or false; the value " + ends
			}
			return "expected true or false"
		}
	case propKind:
		if !secret.Kind(value).Known() {
			return "unknown secret manager; expected one of " + knownKinds()
		}
	case propIntegration:
		if value != integrationID {
			return "differs from the request's integration_id"
		}
	case propManaged:
	default:
		if known := misspelt(name); known != "" {
			return "unknown property; did you mean " + known + "?"
		}
	}
	return ""
}

// properties are the known properties.
var properties = []string{propEnabled, propKind, propManaged, propIntegration}

// maxSlips is the edit distance up to which an unknown property counts as a misspelt
// known one. Two cover two letters that changed places.
const maxSlips = 2

// misspelt returns the known property that name, an unknown one, is a misspelling of, or "".
func misspelt(name string) string {
	best, least := "", maxSlips+1
	for _, known := range properties {
		if len(name)-len(known) > maxSlips || len(known)-len(name) > maxSlips {
			continue
		}
		// The common prefix does not contribute to the distance.
		if d := editdistance.Between(name[len(propPrefix):], known[len(propPrefix):]); d < least {
			best, least = known, d
		}
	}
	return best
}

func knownKinds() string {
	kinds := secret.Kinds()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

func mismatch(format string, args ...any) *secret.Error {
	return secret.Errorf(secret.ReasonConfigMismatch, format, args...)
}
