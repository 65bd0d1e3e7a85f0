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

// addressPolicy determines the addresses that a client may connect to for a host.
type addressPolicy uint8

const (
	// publicOnly permits addresses of the public Internet.
	publicOnly addressPolicy = iota
	// publicAndPrivate permits private networks, too.
	publicAndPrivate
	// anyAddress permits every address, because the operator has configured it.
	anyAddress
)

// Dialer connects only to addresses that the host's address policy permits. An
// attacker who controls a store's name in the DNS must not be able to make the broker
// connect to its internal network, to the machine itself or to the cloud's metadata
// service. Dialer checks the address that it is about to connect to, after every
// lookup, so a later DNS response cannot replace the checked address.
//
// The operator configures the proxy, so Dialer does not check its address. A proxy
// resolves names itself, so behind a proxy the check is the proxy's responsibility.
// Dialer is safe for concurrent use.
type Dialer struct {
	cfg Config
	// targets maps the "host:port" of each permitted origin to its address policy.
	targets map[string]addressPolicy
	net     net.Dialer

	mu      sync.Mutex
	proxies map[string]bool // by "host:port"; true for HTTP, false for SOCKS
}

// NewDialer returns a dialer for cfg, for protocols other than HTTP; NewClient has
// its own. The dialer also connects to hosts that are not among cfg's origins if
// their addresses are public; callers have to refuse such hosts themselves.
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
			// The operator wrote the address in a setting, as in a dial table.
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

// trust records a proxy that the operator's settings name.
func (d *Dialer) trust(proxy *url.URL) {
	if proxy == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.proxies[hostPort(proxy)] = isHTTP(proxy)
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
	conn, err := nd.DialContext(ctx, network, addr)
	if t := tunnelOf(ctx); err == nil && t != nil && d.isProxy(addr) {
		t.await(conn, d.cfg.Timeout)
	}
	return conn, err
}

// isProxy reports whether addr is that of an HTTP proxy.
func (d *Dialer) isProxy(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proxies[addr]
}

// route returns the address to connect to for addr, and the policy for it.
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
	if _, ok := d.proxies[addr]; ok {
		return addr, anyAddress
	}
	return addr, publicOnly
}

// exact reports whether host is an address, which needs no DNS lookup.
func exact(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

// hostPort returns the "host:port" that http.Transport connects to for u.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
