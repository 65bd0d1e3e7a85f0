package egress

import (
	"fmt"
	"net/netip"
)

// Addresses that are not of the public Internet. Source: the IANA registries of
// special-purpose IPv4 and IPv6 addresses, and the clouds' documentation for
// their metadata services.
var (
	// privateNetworks may contain a private endpoint.
	privateNetworks = prefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
		"100.64.0.0/10", // carrier-grade NAT, used inside clouds
		"fc00::/7",      // unique local
	)
	// neverDialled are addresses that no store can have. They are refused regardless
	// of PrivateEndpoint, unless a setting contains the address itself.
	neverDialled = prefixes(
		// The machine and its link, which includes the metadata services of most
		// clouds, and the other internal addresses of the clouds.
		"127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128",
		"169.254.0.0/16", "fe80::/10",
		"168.63.129.16/32",   // Azure's wire server
		"fd00:ec2::254/128",  // Amazon
		"fd20:ce::254/128",   // Google
		"100.100.100.200/32", // Alibaba
		"192.0.0.0/24",       // IETF protocol assignments; Oracle
		// Multicast, broadcast, reserved.
		"224.0.0.0/4", "ff00::/8", "240.0.0.0/4",
		// Documentation and benchmarks.
		"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15",
		"2001:db8::/32", "3fff::/20", "2001:2::/48",
		// Deprecated, or used by protocols of their own.
		"192.88.99.0/24", "2001:10::/28", "2001:20::/28", "2001::/32", "64:ff9b:1::/48",
	)
	// publicIPv6 is the allocated part of IPv6.
	publicIPv6 = netip.MustParsePrefix("2000::/3")
	// embeddings maps a prefix to the offset of the IPv4 address in its addresses.
	embeddings = map[netip.Prefix]int{
		netip.MustParsePrefix("64:ff9b::/96"):    12, // NAT64
		netip.MustParsePrefix("::ffff:0:0:0/96"): 12, // translated
		netip.MustParsePrefix("::/96"):           12, // compatible
		netip.MustParsePrefix("2002::/16"):       2,  // 6to4
	}
)

func prefixes(list ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(list))
	for i, s := range list {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// check returns an *AddressError if the policy does not allow address, "ip:port".
func (p addressPolicy) check(address string) error {
	if p == anyAddress {
		return nil
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !p.allows(ap.Addr()) {
		return &AddressError{address}
	}
	return nil
}

func (p addressPolicy) allows(a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	if contains(neverDialled, a) {
		return false
	}
	if contains(privateNetworks, a) {
		return p != publicOnly
	}
	if a.Is4() {
		return true
	}
	for prefix, at := range embeddings {
		if prefix.Contains(a) {
			b := a.As16()
			return p.allows(netip.AddrFrom4([4]byte(b[at : at+4])))
		}
	}
	return publicIPv6.Contains(a)
}

// AddressError is the error for a connection that was not made because of its
// address.
type AddressError struct{ address string }

func (e *AddressError) Error() string {
	return fmt.Sprintf("egress: refused to connect to %s, which is not a public address", e.address)
}

// NonRetriable tells Azure's SDK not to try again.
func (*AddressError) NonRetriable() {}
