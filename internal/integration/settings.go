package integration

import (
	"maps"
	"slices"
)

// Setting is one setting of an integration as people are told of it. Paths of
// files are not in it, only that there is one.
type Setting struct {
	// Name is its name in the integration's file, for example "azure.tenant_id".
	Name string
	// Value is empty where the setting is not set.
	Value string
	// Element: Value is one element of a list; there is a Setting for each.
	Element bool
}

// Settings returns the settings of the section that belongs to the kind.
func (in *Integration) Settings() []Setting {
	switch {
	case in.Azure != nil:
		return in.Azure.settings()
	case in.AWS != nil:
		return in.AWS.settings()
	case in.GCP != nil:
		return in.GCP.settings()
	case in.Vault != nil:
		return in.Vault.settings()
	case in.Local != nil:
		return in.Local.settings()
	default:
		return nil
	}
}

func (a *Azure) settings() []Setting {
	return slices.Concat(
		[]Setting{
			{Name: "azure.tenant_id", Value: a.TenantID},
			{Name: "azure.client_id", Value: a.ClientID},
			{Name: "azure.credential.type", Value: string(a.Credential.Type)},
		},
		elements("azure.vaults", a.Vaults),
		[]Setting{
			{Name: "azure.authority_host", Value: a.AuthorityHost},
			{Name: "azure.disable_instance_discovery", Value: ifSet(a.DisableInstanceDiscovery)},
			{Name: "azure.private_endpoint", Value: ifSet(a.PrivateEndpoint)},
			{Name: "azure.ca_file", Value: ifFile(a.CAFile)},
		},
		table("azure.dial", a.Dial),
	)
}

// elements are the settings of a list, sorted.
func elements(name string, list []string) []Setting {
	settings := make([]Setting, len(list))
	for i, value := range slices.Sorted(slices.Values(list)) {
		settings[i] = Setting{Name: name, Value: value, Element: true}
	}
	return settings
}

// table are the settings of a map, sorted by its keys.
func table(name string, m map[string]string) []Setting {
	settings := make([]Setting, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		settings = append(settings, Setting{Name: name + "[" + key + "]", Value: m[key]})
	}
	return settings
}

func ifSet(set bool) string {
	if set {
		return "true"
	}
	return ""
}

func ifFile(path string) string {
	if path == "" {
		return ""
	}
	return "a file"
}
