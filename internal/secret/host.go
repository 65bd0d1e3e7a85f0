package secret

import (
	"net"
	"strings"
)

const httpsScheme = "https://"

// isHTTPS reports whether s begins like an https:// URL, in whatever case.
func isHTTPS(s string) bool {
	return strings.HasPrefix(s, httpsScheme) ||
		len(s) >= len(httpsScheme) && strings.EqualFold(s[:len(httpsScheme)], httpsScheme)
}

// httpsHost returns the host that an https:// URL is most likely meant to have,
// in lower case, whatever else may be wrong with the URL.
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

// isPlain reports whether what follows a URL's scheme is lower-case letters,
// digits, hyphens, dots and colons only, as it nearly always is: there is no case
// to fold, no user, path, query or encoding, at most a host and a port.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLower(c) && !isDigit(c) && c != '-' && c != '.' && c != ':' {
			return false
		}
	}
	return true
}

// httpsURL returns the URL of a host and port. It is s itself, and nothing new, if
// s is that URL, as it nearly always is.
func httpsURL(s, host string) string {
	if rest, ok := strings.CutPrefix(s, httpsScheme); ok && rest == host {
		return s
	}
	return httpsScheme + host
}

// isHTTP reports whether s is a URL without encryption.
func isHTTP(s string) bool { return len(s) >= 7 && strings.EqualFold(s[:7], "http://") }

// isIPv4 reports whether a host is an IPv4 address. Few names end in a digit, so
// that few have to be parsed.
func isIPv4(host string) bool {
	return host != "" && isDigit(host[len(host)-1]) && net.ParseIP(host).To4() != nil
}

// isHostName holds the rule for host names (RFC 1123), of lower-case letters.
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

// azureDomains are the domains that only Azure has vaults in.
var azureDomains = []string{".azure.net", ".azure.cn", ".azure.us", ".usgovcloudapi.net", ".microsoftazure.de", ".vault.azure.com"}

// looksAzure reports whether a host is, or was most likely meant to be, a vault
// of Azure: a mistyped vault is told so, instead of being taken for a server of
// another kind. Names of virtual machines (.cloudapp.azure.com) are not among
// them.
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
