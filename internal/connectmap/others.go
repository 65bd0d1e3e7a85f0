package connectmap

import (
	"net/url"
	"strings"

	"github.com/secretbroker/secretbroker/internal/connectapi"
)

// referenceOf translates ${ALIAS:path:key} of another config provider to a reference, as
// docs/migrate does by hand. fault quotes nothing.
func referenceOf(p *connectapi.OtherProvider, path, key string) (reference, fault string) {
	switch p.Form {
	case connectapi.FormCSIDAzure, connectapi.FormCSIDAWS, connectapi.FormCSIDVault, connectapi.FormCSIDGCP:
		return csidReference(p, path, key)
	case connectapi.FormLensesAzure:
		return "https://" + strings.TrimPrefix(path, "https://") + "::" + key, ""
	case connectapi.FormLensesAWS:
		return p.Store + "::" + path + "::" + key, ""
	case connectapi.FormLensesVault:
		return p.Store + "::" + withoutData(path) + "::" + key, ""
	}
	return "", "unknown form of placeholders"
}

// csidReference translates a placeholder of csid's providers. Their path is a URI whose
// query may contain the version and settings that do not select a value.
func csidReference(p *connectapi.OtherProvider, path, key string) (reference, fault string) {
	name, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil || name == "" {
		return "", "the path of a placeholder of " + p.Alias + " cannot be interpreted"
	}
	switch p.Form {
	case connectapi.FormCSIDGCP:
		reference = strings.TrimSuffix(p.Store, "/") + "/secrets/" + name
	case connectapi.FormCSIDAWS:
		reference = p.Store + "::" + p.Prefix + name
	case connectapi.FormCSIDVault:
		reference = p.Store + "::" + withoutData(name)
	default:
		reference = p.Store + "::" + name
	}
	if version := values.Get("version"); version != "" && version != "latest" {
		reference += "#" + version
	}
	if !p.WholeSecrets {
		reference += "::" + key
	}
	return reference, ""
}

// withoutData removes the part "data" that the API of Vault's KV version 2 has after the
// mount, and references have not.
func withoutData(path string) string {
	mount, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if ok {
		rest = strings.TrimPrefix(rest, "data/")
		return mount + "/" + rest
	}
	return path
}
