package secret

import (
	"net"
	"strings"
)

const httpsScheme = "https://"

// isHTTPS reports whether s begins with https://, ignoring case.
func isHTTPS(s string) bool {
	return strings.HasPrefix(s, httpsScheme) ||
		len(s) >= len(httpsScheme) && strings.EqualFold(s[:len(httpsScheme)], httpsScheme)
}

// httpsHost returns the host that the author of an https:// URL most likely meant,
// in lower case, even if the URL is malformed. Its result selects the kind of store
// and with it the error text; it must not be used as an address.
func httpsHost(s string) (host string, ok bool) {
	if !isHTTPS(s) {
		return "", false
	}
	host = s[len(httpsScheme):]
	if !isPlain(host) {
		if i := strings.IndexAny(host, "/?#%\\"); i >= 0 {
			host = host[:i]
		}
		host = lower(host[strings.LastIndexByte(host, '@')+1:])
	}
	host, _, _ = strings.Cut(host, ":")
	return strings.TrimRight(host, "."), true
}

// isPlain reports whether s, the part of a URL after the scheme, consists of
// lower-case letters, digits, hyphens, dots and colons. Most do. Such a URL has at
// most a host and a port: no user, path, query or percent-encoding, and nothing to
// convert to lower case.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && c != '-' && c != '.' && c != ':' {
			return false
		}
	}
	return true
}

// httpsURL returns the https:// URL of a host and port. If s already is that URL,
// as in most cases, it returns s and does not allocate.
func httpsURL(s, host string) string {
	if rest, ok := strings.CutPrefix(s, httpsScheme); ok && rest == host {
		return s
	}
	return httpsScheme + host
}

// isHTTP reports whether s begins with http://, ignoring case.
func isHTTP(s string) bool { return len(s) >= 7 && strings.EqualFold(s[:7], "http://") }

// isIPv4 reports whether a host is an IPv4 address. It parses only hosts that end
// with a digit, which few names do.
func isIPv4(host string) bool {
	return host != "" && isDigit(host[len(host)-1]) && net.ParseIP(host).To4() != nil
}

// isHostName reports whether s is a host name (RFC 1123) in lower case.
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label, more := "", true; more; {
		label, s, more = strings.Cut(s, ".")
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || !isAzureText(label) {
			return false
		}
	}
	return true
}

// azureDomains are domains in which no store other than Azure's can be.
var azureDomains = []string{".azure.net", ".azure.cn", ".azure.us", ".usgovcloudapi.net", ".microsoftazure.de", ".vault.azure.com"}

// looksAzure reports whether a host is an Azure vault, or was most likely meant to
// be one. A mistyped vault is then rejected as such, instead of being accepted as a
// HashiCorp Vault server. Names of virtual machines (.cloudapp.azure.com) do not
// count: a HashiCorp Vault server can run there.
func looksAzure(host string) bool {
	for _, domain := range azureDomains {
		if strings.HasSuffix(host, domain) {
			return true
		}
	}
	if strings.Contains(host, ".vault.") {
		for _, domain := range azureDomains {
			if strings.Contains(host, ".vault"+domain+".") {
				return true
			}
		}
	}
	return strings.Contains(host, ".managedhsm.")
}

// looksAWS reports whether a host is an endpoint of AWS Secrets Manager, or was
// most likely meant to be one.
func looksAWS(host string) bool {
	if !strings.HasPrefix(host, awsService) && !strings.Contains(host, "."+awsService) {
		return false
	}
	if strings.Contains(host, ".amazonaws.") || strings.Contains(host, ".api.aws") || strings.Contains(host, ".api.amazonwebservices.") {
		return true
	}
	for _, r := range awsRegions {
		if strings.HasSuffix(host, r.partition.Suffix) {
			return true
		}
	}
	return false
}

// looksGCP reports whether a host is an endpoint of Google Cloud.
func looksGCP(host string) bool {
	sub, ok := strings.CutSuffix(host, "googleapis.com")
	return ok && (sub == "" || sub[len(sub)-1] == '.')
}
