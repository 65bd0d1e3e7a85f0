package egress

import (
	"net"
	"testing"
)

func TestReach(t *testing.T) {
	const public, private, none = "public", "private", "none"
	for address, want := range map[string]string{
		"20.50.1.1":                public,
		"100.63.255.255":           public,
		"100.128.0.0":              public,
		"172.15.255.255":           public,
		"172.32.0.0":               public,
		"168.63.129.15":            public,
		"2603:1030:408::4":         public,
		"::ffff:20.50.1.1":         public,
		"64:ff9b::1432:101":        public, // 20.50.1.1
		"2002:1432:101::1":         public,
		"10.0.0.4":                 private,
		"172.16.0.1":               private,
		"172.31.255.255":           private,
		"192.168.1.1":              private,
		"100.64.0.1":               private,
		"fd12:3456::1":             private,
		"::ffff:10.0.0.4":          private,
		"64:ff9b::a00:4":           private, // 10.0.0.4
		"2002:a00:4::1":            private,
		"::ffff:0:10.0.0.4":        private,
		"127.0.0.1":                none,
		"127.8.9.10":               none,
		"::1":                      none,
		"::ffff:127.0.0.1":         none,
		"64:ff9b::7f00:1":          none,
		"2002:7f00:1::":            none,
		"::127.0.0.1":              none,
		"169.254.169.254":          none,
		"169.254.0.1":              none,
		"fe80::1":                  none,
		"fe80::1%eth0":             none,
		"::ffff:169.254.169.254":   none,
		"64:ff9b::a9fe:a9fe":       none,
		"2002:a9fe:a9fe::1":        none,
		"::ffff:0:169.254.169.254": none,
		"168.63.129.16":            none,
		"::ffff:168.63.129.16":     none,
		"64:ff9b::a83f:8110":       none,
		"fd00:ec2::254":            none,
		"fd20:ce::254":             none,
		"100.100.100.200":          none,
		"192.0.0.192":              none,
		"0.0.0.0":                  none,
		"0.1.2.3":                  none,
		"::":                       none,
		"224.0.0.1":                none,
		"ff02::1":                  none,
		"255.255.255.255":          none,
		"240.0.0.1":                none,
		"192.0.2.1":                none,
		"198.51.100.1":             none,
		"203.0.113.1":              none,
		"198.18.0.1":               none,
		"198.19.255.255":           none,
		"2001:db8::1":              none,
		"3fff::1":                  none,
		"2001:2::1":                none,
		"2001::1":                  none, // Teredo
		"192.88.99.1":              none,
		"64:ff9b:1::a00:4":         none,
		"fec0::1":                  none,
		"100::1":                   none,
		"4000::1":                  none,
	} {
		addr := net.JoinHostPort(address, "443")
		for r, ok := range map[addressPolicy]bool{
			publicOnly:       want == public,
			publicAndPrivate: want != none,
			anyAddress:       true,
		} {
			if err := r.check(addr); (err == nil) != ok {
				t.Errorf("%s, a %s address, with policy %d: %v", address, want, r, err)
			}
		}
	}
	for _, odd := range []string{"", "20.50.1.1", "name:443", "/run/socket", "20.50.1.1:x"} {
		if publicAndPrivate.check(odd) == nil {
			t.Errorf("%q is taken for an address", odd)
		}
	}
}
