package secret

import (
	"net"
	"strconv"
	"strings"
)

const vaultExample = "https://vault.example.org:8200::secret/db::password"

// maxVaultName is the longest path of a secret in a Vault, mount included, in
// bytes. Vault itself has no limit of its own; its storage backends take at least
// this much.
const maxVaultName = 512

// ParseVaultAddress returns the canonical form of the address of a Vault or
// OpenBao server, "https://HOST[:PORT]": lower case, without ":443" and trailing
// slash. The error is an *Error with ReasonInvalidReference that does not quote s.
func ParseVaultAddress(s string) (string, error) {
	address, fault := vaultAddress(s)
	if fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a Vault server: %s; expected https://HOST:PORT", fault)
	}
	return address, nil
}

// vaultAddress does the work of ParseVaultAddress; fault says what is wrong with
// s, without quoting it.
func vaultAddress(s string) (address, fault string) {
	if fault := checkText(s); fault != "" {
		return "", fault
	}
	if len(s) < len(httpsScheme) || !strings.EqualFold(s[:len(httpsScheme)], httpsScheme) {
		return "", "the server's URL does not begin with https://"
	}
	host := strings.TrimSuffix(s[len(httpsScheme):], "/")
	if strings.ContainsRune(host, '@') {
		return "", "the server's URL has a user name or password in it"
	}
	if strings.ContainsAny(host, "/?#%\\") {
		return "", "the server's URL goes on after the host and port: it has no path, query, fragment or encoding"
	}
	host = lower(host)
	if strings.HasPrefix(host, "[") {
		return "", "the server is given as an IP address; use its name"
	}
	host, port, hasPort := strings.Cut(host, ":")
	if net.ParseIP(host) != nil {
		return "", "the server is given as an IP address; use its name, an integration's dial setting says where to connect"
	}
	if !isHostName(host) {
		return "", "the server's host is no host name"
	}
	if !hasPort || port == "443" {
		return httpsScheme + host, ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return "", "the port must be a number of 1 to 65535"
	}
	return httpsScheme + host + ":" + port, ""
}

func parseVault(store, name, version string) (ref Ref, fault string) {
	address, fault := vaultAddress(store)
	if fault != "" {
		return Ref{}, fault
	}
	if !strings.Contains(name, "/") {
		return Ref{}, "the host is no vault of Azure, and a secret in a Vault server is <mount>/<path>"
	}
	if !isVaultPath(name) {
		return Ref{}, `the secret's path must be segments of letters, digits and "-_.~@+=,", separated by single slashes, none of them "." or ".."`
	}
	if version != "" && !isVaultVersion(version) {
		return Ref{}, `the version after "#" must be a number`
	}
	return Ref{Kind: KindHashiCorpVault, Store: address, Name: name, Version: version}, ""
}

// isVaultPath holds the rule for paths. Server and client clean paths, so that
// ".." would lead to other operations, with the integration's token.
func isVaultPath(s string) bool {
	if len(s) > maxVaultName {
		return false
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || segment == ".." || !isText(segment, pathPunctuation) {
			return false
		}
	}
	return true
}

func isVaultNamePart(s string) bool {
	return len(s) <= maxVaultName && !strings.HasPrefix(s, "/") && !strings.Contains(s, "//") && isText(s, pathPunctuation+"/")
}

// IsVaultPath reports whether s can be the path of a mount or a secret: segments
// of letters, digits and punctuation, at least one.
func IsVaultPath(s string) bool { return isVaultPath(s) }

// pathPunctuation is what paths have beside letters and digits: characters that
// mean the same in every path, URL, policy and shell.
const pathPunctuation = "-_.~@+=,"

// isText reports whether s has only letters, digits and the given punctuation.
func isText(s, punctuation string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte(punctuation, c) < 0 {
			return false
		}
	}
	return true
}

func isVaultVersion(s string) bool {
	if len(s) > 9 || s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}
