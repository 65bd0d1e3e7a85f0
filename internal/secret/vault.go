package secret

import (
	"strconv"
	"strings"
)

const vaultExample = "https://vault.example.org:8200::secret/db::password"

// maxVaultName is the maximum length of a secret's path in HashiCorp Vault,
// including the mount, in bytes. Vault itself has no limit; all of its storage
// backends support at least this length.
const maxVaultName = 512

// ParseVaultAddress returns the canonical form of the address of a Vault or OpenBao
// server, "https://HOST[:PORT]": in lower case, without ":443" and a trailing
// slash. The error is an *Error with ReasonInvalidReference that does not quote s.
func ParseVaultAddress(s string) (string, error) {
	address, fault := "", checkText(s)
	if fault == "" {
		address, fault = vaultAddress(s)
	}
	if fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a Vault server: %s; expected https://HOST:PORT", fault)
	}
	return address, nil
}

// vaultAddress is ParseVaultAddress for an s that has passed checkText. fault
// describes what is wrong with s, without quoting it.
func vaultAddress(s string) (address, fault string) {
	if !isHTTPS(s) {
		return "", "the server's URL does not begin with https://"
	}
	authority := s[len(httpsScheme):]
	if !isPlain(authority) {
		authority = strings.TrimSuffix(authority, "/")
		if strings.ContainsRune(authority, '@') {
			return "", "the server's URL contains a user name or password"
		}
		if strings.ContainsAny(authority, "/?#%\\") {
			return "", "the server's URL continues after the host and port; it must have no path, query, fragment or percent-encoding"
		}
		if strings.HasPrefix(authority, "[") {
			return "", "the server's host is an IP address; use its name"
		}
		authority = lower(authority)
	}
	host, port, hasPort := strings.Cut(authority, ":")
	if isIPv4(host) {
		return "", "the server's host is an IP address; use its name, and set the integration's dial to the address"
	}
	if !isHostName(host) {
		return "", "the server's host is not a valid host name"
	}
	if !hasPort || port == "443" {
		return httpsURL(s, host), ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return "", "the port must be a number from 1 to 65535"
	}
	return httpsURL(s, authority), ""
}

func parseVault(r *Ref) (fault string) {
	if r.Store, fault = vaultAddress(r.Store); fault != "" {
		return fault
	}
	if !strings.Contains(r.Name, "/") {
		return "the host is not an Azure vault, and a secret on a Vault server is named <mount>/<path>"
	}
	if !IsVaultPath(r.Name) {
		return `the secret's path must be segments of letters, digits and "-_.~@+=,", separated by single slashes, none of them "." or ".."`
	}
	if r.Version != "" && !isVaultVersion(r.Version) {
		return `the version after "#" must be a number`
	}
	return ""
}

// IsVaultPath reports whether s can be the path of a mount or a secret. It rejects
// "." and "..", because server and client clean paths: a caller could otherwise
// reach other operations of the server with the integration's token.
func IsVaultPath(s string) bool {
	if len(s) > maxVaultName {
		return false
	}
	for segment, more := "", true; more; {
		segment, s, more = strings.Cut(s, "/")
		if segment == "" || segment == "." || segment == ".." || !isText(segment, pathPunctuation) {
			return false
		}
	}
	return true
}

func isVaultNamePart(s string) bool {
	return len(s) <= maxVaultName && !strings.HasPrefix(s, "/") && !strings.Contains(s, "//") && isText(s, pathPunctuation+"/")
}

// VaultSystemPath reports whether a path leads to an operation of the Vault server
// itself, such as "sys/mounts" or "team/auth/token/lookup-self". It examines every
// segment, because a server interprets leading segments as namespaces. A namespace
// cannot have one of these names.
func VaultSystemPath(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "sys", "auth", "identity", "cubbyhole":
			return true
		}
	}
	return false
}

// pathPunctuation is the characters that paths may contain in addition to letters
// and digits. They have no special meaning in paths, URLs, policies and shells, or
// only at the beginning of a word.
const pathPunctuation = "-_.~@+=,"

// isText reports whether s consists of letters, digits and the given punctuation.
func isText(s, punctuation string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte(punctuation, c) < 0 {
			return false
		}
	}
	return true
}

func isVaultVersion(s string) bool { return len(s) <= 9 && s[0] != '0' && isDigits(s) }
