package authz

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Principal is the identity in a caller's verified client certificate, in canonical
// form: a SPIFFE ID ("spiffe://example.org/connect/worker-1"), or a DNS name with
// the prefix "dns:" ("dns:worker-1.example.org"). The zero Principal identifies no
// caller, and no grant or role applies to it.
type Principal string

const (
	spiffePrefix = "spiffe://"
	dnsPrefix    = "dns:"
	// dnsWildcard begins a pattern that matches one more label, as in a TLS
	// certificate (RFC 9525 section 6.3).
	dnsWildcard = dnsPrefix + "*."
)

// SPIFFEPrincipal returns the Principal of a SPIFFE ID.
func SPIFFEPrincipal(id spiffeid.ID) Principal { return Principal(id.String()) }

// DNSPrincipal returns the Principal of a DNS name. It returns false if name does
// not name a single host, as with a wildcard.
func DNSPrincipal(name string) (Principal, bool) {
	if !isASCII(name) { // strings.ToLower would turn the Kelvin sign into a k
		return "", false
	}
	name = strings.ToLower(name)
	if !isDNSName(name) {
		return "", false
	}
	return Principal(dnsPrefix + name), true
}

// ParsePrincipal parses a principal that a user has typed: a SPIFFE ID, or
// "dns:HOST", where HOST may be in upper or lower case. The error describes the
// expected form and does not quote s.
func ParsePrincipal(s string) (Principal, error) {
	host, isDNS := strings.CutPrefix(s, dnsPrefix)
	switch {
	case strings.Contains(s, "*"):
		return "", errors.New(`a pattern can match many principals; name a single one, without "*"`)
	case isDNS:
		if p, ok := DNSPrincipal(host); ok {
			return p, nil
		}
		return "", errors.New(`expected a host name after "dns:", such as dns:worker-1.example.org`)
	case strings.HasPrefix(s, spiffePrefix):
		id, err := spiffeid.FromString(s)
		if err != nil {
			return "", fmt.Errorf("not a SPIFFE ID: %w", err)
		}
		return SPIFFEPrincipal(id), nil
	default:
		return "", errors.New(`expected a SPIFFE ID, such as spiffe://example.org/connect/worker-1, or "dns:" followed by a host name`)
	}
}

// ancestors calls yield with each directory above a SPIFFE ID, the nearest first,
// and the rest of the ID. For spiffe://td/a/b these are ("spiffe://td/a/", "b") and
// ("spiffe://td/", "a/b"). It stops when yield returns false.
func (p Principal) ancestors(yield func(dir, rest string) bool) {
	id := string(p)
	if !strings.HasPrefix(id, spiffePrefix) {
		return
	}
	for end := len(id); ; {
		end = strings.LastIndexByte(id[:end], '/')
		if end < len(spiffePrefix) { // the slashes of the scheme
			return
		}
		if !yield(id[:end+1], id[end+1:]) {
			return
		}
	}
}

// dnsParent returns the domain of a dns: principal, its name without the first
// label.
func dnsParent(id string) (domain string, ok bool) {
	if !strings.HasPrefix(id, dnsPrefix) {
		return "", false
	}
	_, domain, _ = strings.Cut(id, ".")
	return domain, true
}

// CheckPrincipalPattern describes what is wrong with a pattern. It returns "" if the
// pattern is valid.
func CheckPrincipalPattern(pattern string) (text string) {
	switch {
	case strings.HasPrefix(pattern, dnsWildcard):
		if !isDNSName(pattern[len(dnsWildcard):]) {
			return "expected dns:*.DOMAIN in lower case"
		}
		return ""
	case strings.HasPrefix(pattern, dnsPrefix):
		if !isDNSName(pattern[len(dnsPrefix):]) {
			return `expected dns:HOST in lower case, or dns:*.DOMAIN for the hosts directly below a domain`
		}
		return ""
	case strings.HasPrefix(pattern, spiffePrefix):
		return checkSPIFFEPattern(pattern)
	default:
		return `expected a SPIFFE ID ("spiffe://...") or "dns:HOST"`
	}
}

func checkSPIFFEPattern(pattern string) (text string) {
	id := pattern
	trustDomain, _, _ := strings.Cut(pattern[len(spiffePrefix):], "/")
	if strings.Contains(trustDomain, "*") {
		return "a pattern must name the complete trust domain"
	}
	switch {
	case strings.HasSuffix(pattern, "/**"):
		id = strings.TrimSuffix(pattern, "/**")
	case strings.HasSuffix(pattern, "/*"):
		id = strings.TrimSuffix(pattern, "/*")
	case strings.HasSuffix(pattern, "*"):
		id = strings.TrimSuffix(pattern, "*")
	}
	if strings.Contains(id, "*") {
		return `"*" is only allowed at the end, where it matches the rest of one path segment; "/**" at the end matches everything below`
	}
	if _, err := spiffeid.FromString(id); err != nil {
		return "not a SPIFFE ID: " + err.Error()
	}
	return ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isDNSName reports whether s is a host name (RFC 1123) in lower case. It also
// accepts underscores, which some internal names contain.
func isDNSName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
