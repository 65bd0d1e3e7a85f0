package secret

import "strings"

const httpsScheme = "https://"

// httpsHost returns the host that an https:// URL is most likely meant to have,
// in lower case, whatever else may be wrong with the URL.
func httpsHost(s string) (host string, ok bool) {
	if len(s) < len(httpsScheme) || !strings.EqualFold(s[:len(httpsScheme)], httpsScheme) {
		return "", false
	}
	host = s[len(httpsScheme):]
	if i := strings.IndexAny(host, "/?#%\\"); i >= 0 {
		host = host[:i]
	}
	host = host[strings.LastIndexByte(host, '@')+1:]
	host, _, _ = strings.Cut(host, ":")
	return strings.TrimRight(lower(host), "."), true
}

// isHTTP reports whether s is a URL without encryption.
func isHTTP(s string) bool { return len(s) >= 7 && strings.EqualFold(s[:7], "http://") }

// isHostName holds the rule for host names (RFC 1123), of lower-case letters.
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || !isAzureText(label) {
			return false
		}
	}
	return true
}

// looksAzure reports whether a host is, or was most likely meant to be, a vault
// of Azure: a mistyped vault is told so, instead of being taken for a server of
// another kind. Names of virtual machines (.cloudapp.azure.com) are not among
// them.
func looksAzure(host string) bool {
	for _, suffix := range []string{".azure.net", ".azure.cn", ".azure.us", ".usgovcloudapi.net", ".microsoftazure.de", ".vault.azure.com"} {
		if strings.HasSuffix(host, suffix) || strings.Contains(host, ".vault"+suffix+".") {
			return true
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
func looksGCP(host string) bool { return strings.HasSuffix("."+host, ".googleapis.com") }
