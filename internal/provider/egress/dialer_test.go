package egress

import (
	"net/url"
	"testing"
)

const vaultHost, otherHost, imds = "my-vault.vault.azure.net", "other.vault.azure.net", "http://169.254.169.254"

// An address that the operator has configured is used unchecked; a name is not.
func TestRoutes(t *testing.T) {
	dial := map[string]string{
		otherHost: "169.254.1.1:443", "named.vault.azure.net": "vault.corp.example:8443", "local.vault.azure.net": "localhost:8443",
	}
	route := func(d *Dialer, addr, wantAddr string, want addressPolicy) {
		t.Helper()
		if got, within := d.route(addr); got != wantAddr || within != want {
			t.Errorf("%s: to %s with policy %d, want %s with %d", addr, got, within, wantAddr, want)
		}
	}
	d := NewDialer(Config{Origins: []string{"https://" + vaultHost, "https://" + otherHost, "https://127.0.0.1:8444"}, Dial: dial})
	route(d, "My-Vault.vault.azure.net:443", vaultHost+":443", publicOnly)
	route(d, otherHost+":443", "169.254.1.1:443", anyAddress)
	route(d, "named.vault.azure.net:443", "vault.corp.example:8443", publicAndPrivate)
	route(d, "local.vault.azure.net:443", "localhost:8443", anyAddress)
	route(d, "127.0.0.1:8444", "127.0.0.1:8444", anyAddress)
	route(d, "127.0.0.1:8445", "127.0.0.1:8445", publicOnly)
	route(d, "proxy.corp.example:3128", "proxy.corp.example:3128", publicOnly) // not yet known as a proxy

	for _, proxy := range []string{"http://Proxy.corp.example:3128", "https://proxy.corp.example", "http://10.1.2.3", "socks5://10.1.2.3", "https://" + vaultHost} {
		u, err := url.Parse(proxy)
		if err != nil {
			t.Fatal(err)
		}
		d.trust(u)
	}
	route(d, "proxy.corp.example:3128", "proxy.corp.example:3128", anyAddress)
	route(d, "proxy.corp.example:443", "proxy.corp.example:443", anyAddress)
	route(d, "10.1.2.3:80", "10.1.2.3:80", anyAddress)
	route(d, "10.1.2.3:1080", "10.1.2.3:1080", anyAddress)
	route(d, "10.1.2.3:8080", "10.1.2.3:8080", publicOnly)
	route(d, vaultHost+":443", vaultHost+":443", publicOnly) // a proxy does not exempt a vault's name from the check

	d = NewDialer(Config{Origins: []string{"https://" + vaultHost}, PrivateEndpoint: true})
	route(d, vaultHost+":443", vaultHost+":443", publicAndPrivate)
	route(d, "proxy.corp.example:3128", "proxy.corp.example:3128", publicOnly)

	d = NewDialer(Config{Local: []string{imds, "http://localhost:41741", "http://agent.example:1"}})
	route(d, "169.254.169.254:80", "169.254.169.254:80", anyAddress)
	route(d, "localhost:41741", "localhost:41741", anyAddress)
	route(d, "agent.example:1", "agent.example:1", anyAddress)
}
