package egress

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// addressPolicy says which addresses a client may connect to for a host.
type addressPolicy uint8

const (
	// publicOnly allows addresses of the public Internet.
	publicOnly addressPolicy = iota
	// publicAndPrivate allows private networks too.
	publicAndPrivate
	// anyAddress allows every address: the operator wrote it down.
	anyAddress
)

// Dialer connects for a client, to addresses that the host's address policy allows only.
// Whoever controls a store's name in the DNS must not make the broker connect to
// the inside of its network, the machine itself or the cloud's metadata service.
// The check is of the very address that is connected to, after every lookup, so
// that no second answer of the DNS can differ from the one that was checked.
//
// A proxy is the operator's choice and not checked; it does its own lookups, so
// behind one the check is the proxy's to make. It is safe for concurrent use.
type Dialer struct {
	cfg Config
	// targets has the address policy of each "host:port" that requests are for.
	targets map[string]addressPolicy
	net     net.Dialer

	mu      sync.Mutex
	proxies map[string]bool // "host:port"
}

// NewDialer makes the dialer of cfg, for protocols other than HTTP: NewClient has
// one of its own. Hosts that are not among cfg's origins are connected to if they
// are public; to refuse them is the caller's business.
func NewDialer(cfg Config) *Dialer {
	cfg = cfg.withDefaults()
	d := &Dialer{
		cfg:     cfg,
		targets: make(map[string]addressPolicy),
		net:     net.Dialer{Timeout: cfg.Timeout, KeepAlive: 30 * time.Second, Resolver: cfg.Resolver},
		proxies: make(map[string]bool),
	}
	add := func(origins []string, local bool) {
		for _, o := range origins {
			u, err := url.Parse(o)
			if err != nil {
				continue
			}
			policy := publicOnly
			switch {
			// An address in a setting is as exact as one in a dial table.
			case local, exact(u.Hostname()):
				policy = anyAddress
			case cfg.PrivateEndpoint:
				policy = publicAndPrivate
			}
			d.targets[hostPort(u)] = policy
		}
	}
	add(cfg.Origins, false)
	add(cfg.Local, true)
	return d
}

// trust notes a proxy that the operator's settings name.
func (d *Dialer) trust(proxy *url.URL) {
	if proxy == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.proxies[hostPort(proxy)] = true
}

// Dial implements http.Transport.DialContext.
func (d *Dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	addr, policy := d.route(addr)
	nd := d.net
	nd.ControlContext = func(_ context.Context, _, address string, c syscall.RawConn) error {
		if err := policy.check(address); err != nil {
			return err
		}
		setUserTimeout(c, d.cfg.Timeout)
		if d.cfg.Connecting != nil {
			return d.cfg.Connecting(address)
		}
		return nil
	}
	return nd.DialContext(ctx, network, addr)
}

// route returns where to connect for addr, and the policy for its address.
func (d *Dialer) route(addr string) (string, addressPolicy) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, publicOnly
	}
	if target, ok := d.cfg.Dial[strings.ToLower(host)]; ok {
		if h, _, err := net.SplitHostPort(target); err == nil && exact(h) {
			return target, anyAddress
		}
		return target, publicAndPrivate
	}
	addr = strings.ToLower(addr)
	if policy, ok := d.targets[addr]; ok {
		return addr, policy
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proxies[addr] {
		return addr, anyAddress
	}
	return addr, publicOnly
}

// exact reports whether host names one address, without the help of the DNS.
func exact(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

// hostPort is where http.Transport connects to for u.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
