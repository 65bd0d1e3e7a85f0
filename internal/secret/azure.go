package secret

import (
	"fmt"
	"net"
	"strings"
)

// AzureCloud is one of Azure's clouds: the DNS suffixes of its vaults and queues and the
// login authority that issues tokens for them. A token of one cloud is not valid in
// another, so the broker must never combine the two from different clouds.
type AzureCloud struct {
	Name string
	// VaultSuffix follows a vault's name in its host. It begins with a dot.
	VaultSuffix string
	// AuthorityHost is the base URL of the cloud's login authority.
	AuthorityHost string
	// QueueSuffix follows a storage account's name in the host of its queues. It begins
	// with a dot.
	QueueSuffix string
}

// azureClouds lists the supported clouds. Source: Key Vault, "About keys, secrets
// and certificates", DNS suffixes for base URL; Azure Storage, "Developer guide" of each
// sovereign cloud.
var azureClouds = []AzureCloud{
	{"AzurePublic", ".vault.azure.net", "https://login.microsoftonline.com/", ".queue.core.windows.net"},
	{"AzureChina", ".vault.azure.cn", "https://login.chinacloudapi.cn/", ".queue.core.chinacloudapi.cn"},
	{"AzureGovernment", ".vault.usgovcloudapi.net", "https://login.microsoftonline.us/", ".queue.core.usgovcloudapi.net"},
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

// AzureCloudOfQueue returns the cloud of a host of queues, in lower case, and the name of
// the storage account before the cloud's suffix.
func AzureCloudOfQueue(host string) (cloud AzureCloud, account string, ok bool) {
	for _, c := range azureClouds {
		if account, ok := strings.CutSuffix(host, c.QueueSuffix); ok {
			return c, account, true
		}
	}
	return AzureCloud{}, "", false
}

// ParseAzureVault returns the canonical form of a vault's URL,
// "https://NAME.SUFFIX": in lower case, without ":443" and a trailing slash. The
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

// azureVault is ParseAzureVault for an s that has passed checkText. fault describes
// what is wrong with s, without quoting it.
func azureVault(s string) (vault, fault string) {
	if !isHTTPS(s) {
		if isHTTP(s) {
			return "", "the store is an http:// URL; only https:// is supported"
		}
		return "", "the store does not begin with https://"
	}
	host := s[len(httpsScheme):]
	if isAzureVaultHost(host) { // fast path: canonical already
		return httpsURL(s, host), ""
	}
	host = strings.TrimSuffix(host, "/")
	if strings.ContainsRune(host, '@') {
		return "", "the vault's URL contains a user name or password"
	}
	if i := strings.IndexAny(host, "/?#%\\"); i >= 0 {
		return "", fmt.Sprintf("the vault's URL continues after the host (byte %d); it must have no path, query, fragment or percent-encoding", len(httpsScheme)+i+1)
	}
	host = lower(strings.TrimSuffix(host, ":443"))
	if !isAzureVaultHost(host) {
		return "", azureHostFault(host)
	}
	return httpsURL(s, host), ""
}

// isAzureVaultHost reports whether a host in lower case is the host of a vault.
func isAzureVaultHost(host string) bool {
	for i := range azureClouds {
		if name, ok := strings.CutSuffix(host, azureClouds[i].VaultSuffix); ok {
			return isAzureVaultName(name)
		}
	}
	return false
}

// azureHostFault describes why host is not the host of a vault, without quoting it.
func azureHostFault(host string) (fault string) {
	cloud, ok := AzureCloudOf(host)
	switch {
	case strings.HasPrefix(host, "["), net.ParseIP(host) != nil:
		return "the vault's host is an IP address; use its name"
	case strings.Contains(host, ":"):
		return "the vault's URL has a port; a vault uses port 443; to connect elsewhere, set the integration's dial"
	case ok:
		return "the vault's name before " + cloud.VaultSuffix + " must be 3 to 24 letters, digits and single hyphens, and must begin with a letter and not end with a hyphen"
	case strings.Contains(host, ".privatelink."):
		return "the host is the name of a private endpoint; write the vault's public name (NAME.vault.azure.net), and set azure.private_endpoint in the integration"
	case strings.Contains(host, ".managedhsm."):
		return "a managed HSM stores keys, not secrets; use a vault"
	default:
		return "the host is not a vault of a known cloud (NAME.vault.azure.net, NAME.vault.azure.cn, NAME.vault.usgovcloudapi.net)"
	}
}

func parseAzure(r *Ref) (fault string) {
	if r.Store, fault = azureVault(r.Store); fault != "" {
		return fault
	}
	var ok bool
	if r.Name, ok = foldAzureSecretName(r.Name); !ok {
		return "the secret's name must be 1 to 127 letters, digits and hyphens"
	}
	if r.Version != "" {
		if !isAzureVersion(r.Version) {
			return "the version after \"#\" must be 32 hexadecimal digits"
		}
		r.Version = lower(r.Version)
	}
	return ""
}

// isAzureVaultName reports whether s, in lower case, is a valid vault name: 3 to 24
// letters, digits and hyphens, with a letter first, no hyphen last and no two
// hyphens in a row.
func isAzureVaultName(s string) bool {
	if len(s) < 3 || len(s) > 24 || !isLower(s[0]) || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && (c != '-' || s[i-1] == '-') {
			return false
		}
	}
	return true
}

// foldAzureSecretName returns a secret's name in lower case, and reports whether
// Key Vault allows the name. The SDK does not check names, and would send a name
// such as ".." to another operation of the vault.
func foldAzureSecretName(s string) (name string, ok bool) {
	folded := true
	for i := range len(s) {
		switch c := s[i]; {
		case isLower(c), isDigit(c), c == '-':
		case isAlpha(c):
			folded = false
		default:
			return "", false
		}
	}
	if !folded {
		s = lower(s)
	}
	return s, 1 <= len(s) && len(s) <= 127
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

// lower converts ASCII letters to lower case. Azure's names are ASCII only;
// strings.ToLower would turn the Kelvin sign into a k and so make a different name
// valid.
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
