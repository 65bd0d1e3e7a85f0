package secret

import (
	"fmt"
	"net"
	"strings"
)

// AzureCloud is one of Azure's clouds: where its vaults live and which login
// authority issues their tokens. The two belong together: a token of one cloud
// is worth nothing in another.
type AzureCloud struct {
	Name string
	// VaultSuffix is what follows a vault's name in its host, with the dot.
	VaultSuffix string
	// AuthorityHost is the base URL of the cloud's login authority.
	AuthorityHost string
}

// azureClouds lists the clouds whose vaults are recognised. Source: Key Vault,
// "About keys, secrets and certificates", DNS suffixes for base URL.
var azureClouds = []AzureCloud{
	{"AzurePublic", ".vault.azure.net", "https://login.microsoftonline.com/"},
	{"AzureChina", ".vault.azure.cn", "https://login.chinacloudapi.cn/"},
	{"AzureGovernment", ".vault.usgovcloudapi.net", "https://login.microsoftonline.us/"},
}

// AzureCloudOf returns the cloud of a canonical vault URL.
func AzureCloudOf(vault string) (AzureCloud, bool) {
	for _, c := range azureClouds {
		if strings.HasSuffix(vault, c.VaultSuffix) {
			return c, true
		}
	}
	return AzureCloud{}, false
}

// ParseAzureVault returns the canonical form of a vault's URL,
// "https://NAME.SUFFIX": lower case, without ":443" and trailing slash. The
// error is an *Error with ReasonInvalidReference that does not quote s.
func ParseAzureVault(s string) (string, error) {
	fault := checkText(s)
	vault := ""
	if fault == "" {
		vault, fault = azureVault(s)
	}
	if fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a vault: %s; expected https://NAME.vault.azure.net", fault)
	}
	return vault, nil
}

// azureVault does the work of ParseAzureVault for s that has passed checkText;
// fault says what is wrong with s, without quoting it.
func azureVault(s string) (vault, fault string) {
	const scheme = httpsScheme
	if !strings.HasPrefix(s, scheme) && (len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme)) {
		if isHTTP(s) {
			return "", "the store is an http:// URL; vaults are reached by https:// only"
		}
		return "", "the store does not begin with https://"
	}
	host := s[len(scheme):]
	host = strings.TrimSuffix(host, "/")
	if strings.ContainsRune(host, '@') {
		return "", "the vault's URL has a user name or password in it"
	}
	if i := strings.IndexAny(host, "/?#%\\"); i >= 0 {
		return "", fmt.Sprintf("the vault's URL goes on after the host (byte %d): it has no path, query, fragment or encoding", len(scheme)+i+1)
	}
	host = lower(strings.TrimSuffix(host, ":443"))
	cloud, ok := AzureCloudOf(host)
	if !ok || strings.HasPrefix(host, "[") || strings.Contains(host, ":") {
		if strings.HasPrefix(host, "[") || net.ParseIP(host) != nil {
			return "", "the vault is given as an IP address; use its name"
		}
		if strings.Contains(host, ":") {
			return "", "the vault's URL has a port; a vault is reached on 443, an integration's dial setting says where else to connect"
		}
		if strings.Contains(host, ".managedhsm.") {
			return "", "a managed HSM holds keys and no secrets; use a vault"
		}
		return "", "the host is not a vault of a known cloud (NAME.vault.azure.net, NAME.vault.azure.cn, NAME.vault.usgovcloudapi.net)"
	}
	if !isAzureVaultName(strings.TrimSuffix(host, cloud.VaultSuffix)) {
		return "", "the vault's name before " + cloud.VaultSuffix + " must be 3 to 24 letters, digits and single hyphens, beginning with a letter and not ending with a hyphen"
	}
	if strings.HasPrefix(s, scheme) && s[len(scheme):] == host {
		return s, "" // is canonical already, as most are
	}
	return scheme + host, ""
}

func parseAzure(store, name, version string) (ref Ref, fault string) {
	vault, fault := azureVault(store)
	if fault != "" {
		return Ref{}, fault
	}
	if !isAzureSecretName(name) {
		return Ref{}, "the secret's name must be 1 to 127 letters, digits and hyphens"
	}
	if version != "" && !isAzureVersion(version) {
		return Ref{}, "the version after \"#\" must be 32 hexadecimal digits"
	}
	return Ref{Kind: KindAzureKeyVault, Store: vault, Name: lower(name), Version: lower(version)}, ""
}

// isAzureVaultName holds Azure's rule for vault names: 3-24 characters of
// [0-9a-zA-Z-], a letter first, no hyphen last, no two hyphens in a row.
func isAzureVaultName(s string) bool {
	return len(s) >= 3 && len(s) <= 24 && isAlpha(s[0]) && s[len(s)-1] != '-' &&
		!strings.Contains(s, "--") && isAzureText(s)
}

// isAzureSecretName holds Key Vault's rule for secret names. The SDK does not
// check it: a name such as ".." would reach other operations.
func isAzureSecretName(s string) bool {
	return len(s) >= 1 && len(s) <= 127 && isAzureText(s)
}

func isAzureNamePart(s string) bool { return len(s) <= 127 && isAzureText(s) }

func isAzureText(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

func isAzureVersion(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i] | 0x20; !isDigit(s[i]) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// lower folds ASCII case only. Azure's names are ASCII; folding Unicode would
// let the Kelvin sign pass for a k.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] |= 0x20
				}
			}
			return string(b)
		}
	}
	return s
}
