package resolve

import (
	"strings"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// The properties by which a connector's configuration says which of its configs
// are references. Source: Confluent, "Create a secret manager integration".
const (
	propPrefix      = "secret.manager"
	propEnabled     = "secret.manager.enabled"
	propKind        = "secret.manager"
	propManaged     = "secret.manager.managed.configs"
	propIntegration = "secret.manager.provider.integration.id"
)

// references returns the configs that hold references, by name, and the faults
// of single configs. Without secret.manager properties every entry is one; with
// them only the listed names are, and the others are not even looked at. A
// contradiction between the properties fails the whole configuration. There are
// at most about as many faults as most, the number of references that a request
// may have.
func references(integrationID string, configs map[string]string, most int) (refs map[string]string, faults []ConfigError, err error) {
	properties := false
	for name := range configs {
		if isProperty(name) {
			properties = true
			if len(faults) == most {
				break // whoever wrote so many wrong ones has enough to mend
			}
			if fault := checkProperty(name, configs[name], integrationID); fault != "" {
				faults = append(faults, ConfigError{Config: name, Err: mismatch("%s", fault)})
			}
		}
	}
	if !properties {
		return configs, nil, nil
	}
	if len(faults) > 0 {
		return nil, nil, newFailure(faults)
	}
	enabled, ok := configs[propEnabled]
	if !ok {
		return nil, nil, newFailure([]ConfigError{{Config: propEnabled, Err: mismatch(
			"the configuration has secret.manager properties but not this one; set it to true or false")}})
	}
	if strings.EqualFold(enabled, "false") {
		return nil, nil, nil
	}
	for _, required := range []string{propKind, propManaged} {
		if _, ok := configs[required]; !ok {
			faults = append(faults, ConfigError{Config: required, Err: mismatch(
				"secret.manager.enabled is true, but this property is missing")})
		}
	}
	if len(faults) > 0 {
		return nil, nil, newFailure(faults)
	}
	if n := 1 + strings.Count(configs[propManaged], ","); n > most {
		return nil, nil, newFailure([]ConfigError{{Config: propManaged, Err: mismatch(
			"the list has %d elements, the most is %d", n, most)}})
	}
	refs, faults = managedConfigs(configs)
	return refs, faults, nil
}

// managedConfigs picks the configs that secret.manager.managed.configs lists.
func managedConfigs(configs map[string]string) (refs map[string]string, faults []ConfigError) {
	refs = make(map[string]string)
	listed := make(map[string]bool)
	for name := range strings.SplitSeq(configs[propManaged], ",") {
		name = strings.TrimSpace(name)
		ref, present := configs[name]
		switch {
		case name == "" && listed[name]: // said already
		case name == "":
			faults = append(faults, ConfigError{Config: propManaged, Err: mismatch(
				"the list is empty or has an empty element; expected config names separated by commas, for example database.password,database.user")})
		case len(name) > MaxNameLen:
			faults = append(faults, ConfigError{Config: propManaged, Err: mismatch(
				"the list has an element of %d bytes, the longest config name is %d", len(name), MaxNameLen)})
		case !printable(name):
			faults = append(faults, ConfigError{Config: propManaged, Err: mismatch(
				"the list has an element with a control character or that is not UTF-8")})
		case listed[name]:
			faults = append(faults, ConfigError{Config: name, Err: mismatch(
				"%s lists this config twice", propManaged)})
		case isProperty(name):
			faults = append(faults, ConfigError{Config: name, Err: mismatch(
				"%s lists one of the secret manager's own properties", propManaged)})
		case !present:
			faults = append(faults, ConfigError{Config: name, Err: mismatch(
				"%s lists this config, but the configuration does not have it", propManaged)})
		case strings.TrimSpace(ref) == "":
			faults = append(faults, ConfigError{Config: name, Err: mismatch(
				"%s lists this config, but its value is empty", propManaged)})
		default:
			refs[name] = ref
		}
		listed[name] = true
	}
	for _, f := range faults { // a name with a fault has no value, whatever else is said of it
		delete(refs, f.Config)
	}
	return refs, faults
}

func isProperty(name string) bool {
	return name == propPrefix || strings.HasPrefix(name, propPrefix+".")
}

// checkProperty says what is wrong with one secret.manager property, if
// anything.
func checkProperty(name, value, integrationID string) (fault string) {
	switch name {
	case propEnabled:
		if !strings.EqualFold(value, "true") && !strings.EqualFold(value, "false") {
			return "expected true or false"
		}
	case propKind:
		if !secret.Kind(value).Known() {
			return "not a secret manager that this broker knows; expected one of " + knownKinds()
		}
	case propIntegration:
		if value != integrationID {
			return "names another integration than the request's integration_id"
		}
	case propManaged:
	default:
		return "no such property; known are " + strings.Join([]string{propEnabled, propKind, propManaged, propIntegration}, ", ")
	}
	return ""
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
