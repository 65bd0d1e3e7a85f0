package integration

import (
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

var domain = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// IsDomain reports whether s is a domain name of at least two labels.
func IsDomain(s string) bool { return domain.MatchString(s) }

// ValidHost reports whether s is an IP address or a host name.
func ValidHost(s string) bool {
	return net.ParseIP(s) != nil || domain.MatchString(s) || domain.MatchString("host."+s)
}

// ValidPort reports whether s is a port number.
func ValidPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// ValidAddress reports whether s is HOST:PORT.
func ValidAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && ValidHost(host) && ValidPort(port)
}

// Dial validates a table that maps hosts to the addresses to connect to instead. notListed
// is the fault of a host that is not in hosts. It returns the table with its hosts in
// lower case, or nil if it is empty.
func (p *Parser) Dial(path string, table map[string]string, hosts []string, notListed string) map[string]string {
	if len(table) == 0 {
		return nil
	}
	dial := make(map[string]string, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		at, host := strictyaml.Key(path, name), strings.ToLower(name)
		if !slices.Contains(hosts, host) {
			p.Fault(at, "%s", notListed)
		} else if _, twice := dial[host]; twice {
			p.Fault(at, "the same host is listed twice")
		}
		if !ValidAddress(table[name]) {
			p.Fault(at, "expected the address to connect to, host:port, such as 127.0.0.1:8444")
		}
		dial[host] = table[name]
	}
	return dial
}
