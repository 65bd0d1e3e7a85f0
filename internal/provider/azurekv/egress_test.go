package azurekv

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestNamesThatLeadInside: the vault's name resolves to addresses where no vault can
// be. The client connects to none of them, and does not even request a token.
func TestNamesThatLeadInside(t *testing.T) {
	const public, public6 = "20.50.1.1", "2603:1030:408::4"
	for name, tc := range map[string]struct {
		answer    string
		private   bool
		connected []string // without the port
	}{
		"loopback":                 {"127.0.0.1 ::1", false, nil},
		"metadata":                 {"169.254.169.254", false, nil},
		"wire server":              {"168.63.129.16", false, nil},
		"private":                  {"10.0.0.4 192.168.1.1 fd12::1", false, nil},
		"mapped, NAT64, 6to4":      {"::ffff:127.0.0.1 64:ff9b::a9fe:a9fe 2002:a00:4::1", false, nil},
		"public":                   {public, false, []string{public}},
		"mixed, public first":      {public + " 127.0.0.1", false, []string{public}},
		"mixed, private first":     {"10.0.0.4 169.254.169.254 " + public, false, []string{public}},
		"mixed families":           {"10.0.0.4 " + public6, false, []string{public6}},
		"a private endpoint":       {"10.0.0.4", true, []string{"10.0.0.4"}},
		"never, loopback":          {"127.0.0.1", true, nil},
		"never, metadata":          {"169.254.169.254 168.63.129.16 fd00:ec2::254 100.100.100.200", true, nil},
		"never, mixed with others": {"127.0.0.1 fd12::1", true, []string{"fd12::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			delete(settingsOf(in).Dial, vaultHost)
			settingsOf(in).PrivateEndpoint = tc.private
			dns := newHostileDNS(map[string][]string{vaultHost: {tc.answer}})
			s := f.open(dns.config(f.Config()), in)
			e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
			if got := withoutPorts(t, dns.connected); !slices.Equal(got, tc.connected) {
				t.Errorf("connections to %v, want %v", got, tc.connected)
			}
			if tc.connected == nil && !strings.Contains(e.Message, "azure.private_endpoint") {
				t.Errorf("message %q", e.Message)
			}
			for _, address := range strings.Fields(tc.answer) {
				if strings.Contains(e.Message, address) {
					t.Errorf("the caller is told of the inside: %q", e.Message)
				}
			}
			if f.issued != 0 {
				t.Error("a token was asked for")
			}
		})
	}
}

func withoutPorts(t *testing.T, addresses []string) []string {
	t.Helper()
	var hosts []string
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		providertest.Must(t, err)
		hosts = append(hosts, host)
	}
	return hosts
}

// TestRebinding: a name resolves to a public address at its first lookup and to an
// internal one at every later lookup. The client checks the address that it connects
// to, at each connection.
func TestRebinding(t *testing.T) {
	f := newFake(t)
	arrived := make(chan net.Addr, 8)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	providertest.Must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			arrived <- c.RemoteAddr()
			_ = c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	providertest.Must(t, err)
	in := f.integration()
	settingsOf(in).AuthorityHost = "https://" + loginHost + ":" + port + "/"
	delete(settingsOf(in).Dial, vaultHost)
	delete(settingsOf(in).Dial, loginHost)
	dns := newHostileDNS(map[string][]string{
		vaultHost: {"20.50.1.1", "127.0.0.1", "169.254.169.254"},
		loginHost: {"20.50.1.2", "127.0.0.1"},
	})
	s := f.open(dns.config(f.Config()), in)
	for range 4 {
		f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
		e := f.Fails(t.Context(), s, otherURL+"::db", secret.ReasonStoreUnavailable)
		if !strings.Contains(e.Message, "login authority") {
			t.Errorf("message %q", e.Message)
		}
	}
	want := []string{"20.50.1.1:443", f.Dial[otherHost], "20.50.1.2:" + port}
	if !slices.Equal(dns.connected, want) {
		t.Errorf("connections to %v, want %v", dns.connected, want)
	}
	if n := dns.asked[fmt.Sprint(vaultHost, 1)]; n != 4 {
		t.Errorf("the name was looked up %d times, want once for each connection", n)
	}
	if len(arrived) != 0 || len(f.forms) != 0 {
		t.Error("something arrived inside")
	}
}

// TestTokenStaysWithTheVault: whatever a hostile vault answers to an authorized read,
// the client connects to no other host, so the token cannot reach one.
func TestTokenStaysWithTheVault(t *testing.T) {
	type respond func(f *fake, w http.ResponseWriter, r *http.Request)
	stranger := "https://" + strangers + "/secrets/db"
	redirect := func(status int, to string) respond {
		return func(_ *fake, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(status)
		}
	}
	header := func(status int, kv ...string) respond {
		return func(f *fake, w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(kv); i += 2 {
				w.Header().Add(kv[i], kv[i+1])
			}
			f.answer(w, r, "", status)
		}
	}
	challenge := func(text string) respond {
		return func(_ *fake, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", text)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	cases := map[string]respond{
		"scheme-relative": redirect(302, "//"+strangers+"/secrets/db"),
		"plain http":      redirect(307, "http://"+strangers+"/secrets/db"),
		"with user":       redirect(307, "https://"+vaultHost+"@"+strangers+"/secrets/db"),
		"other port":      redirect(307, "https://"+vaultHost+":8443/secrets/db"),
		"Refresh":         header(200, "Refresh", "0; url="+stranger),
		"Alt-Svc":         header(200, "Alt-Svc", `h2="`+strangers+`:443"; ma=86400, h3=":443"`, "Alt-Used", strangers),
		"Link":            header(200, "Link", "<"+stranger+">; rel=preload", "Content-Location", stranger),
		"accepted, poll":  header(202, "Azure-AsyncOperation", stranger, "Operation-Location", stranger, "Location", stranger),
		"use proxy":       redirect(305, stranger),
		"proxy wants":     header(407, "Proxy-Authenticate", `Bearer realm="`+stranger+`"`),
		"misdirected":     header(421, "Location", stranger),
		"early hints": func(f *fake, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<"+stranger+">; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			f.answer(w, r, "", 0)
		},
		"push": func(f *fake, w http.ResponseWriter, r *http.Request) {
			if p, ok := w.(http.Pusher); !ok || p.Push(stranger, nil) == nil {
				f.Error("the client takes pushes")
			}
			f.answer(w, r, "", 0)
		},
		"challenge, other authority": challenge(fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://vault.azure.net"`, strangers, tenantID)),
		"challenge, other resource":  challenge(fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://%s"`, loginHost, tenantID, strangers)),
		"challenge, other scope":     challenge(fmt.Sprintf(`Bearer authorization_uri="https://%s/%s", scope="https://%s/.default"`, strangers, tenantID, strangers)),
		"challenge, claims": challenge(fmt.Sprintf(
			`Bearer authorization="https://%s/%s", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="`, strangers, tenantID)),
	}
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		cases[fmt.Sprint(status)] = redirect(status, stranger)
	}
	for name, respond := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.vault = func(w http.ResponseWriter, r *http.Request) { respond(f, w, r) }
			connections := watchConnections(f, strangers)
			in := f.integration()
			settingsOf(in).Vaults = settingsOf(in).Vaults[:1]
			dns := newHostileDNS(nil) // records every lookup
			s := f.open(dns.config(f.Config()), in)
			for range 2 { // the second read uses what the SDK learned in the first
				_, err := s.Fetch(t.Context(), providertest.Ref(t, vaultURL+"::db"))
				if err != nil {
					f.CheckError(err, secret.AsError(err).Reason)
				}
			}
			if _, reads := f.counts(); reads == 0 {
				t.Error("the vault got no token: the test proves nothing")
			}
			if len(f.elsewhere) != 0 || connections() != 0 {
				t.Errorf("%d requests and %d connections went to the stranger", len(f.elsewhere), connections())
			}
			for _, to := range dns.connected {
				if !slices.Contains([]string{f.Dial[vaultHost], f.Dial[loginHost]}, to) {
					t.Errorf("a connection to %s", to)
				}
			}
			if len(dns.asked) != 0 {
				t.Errorf("names were looked up: %v", dns.asked)
			}
		})
	}
}

// watchConnections replaces host by a listener and returns a func that counts the
// connections to it.
func watchConnections(f *fake, host string) (count func() int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	providertest.Must(f, err)
	var mu sync.Mutex
	n := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			n++
			mu.Unlock()
			_ = c.Close()
		}
	}()
	f.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	f.Dial[host] = l.Addr().String()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// A raw HTTP/1.1 response can contain headers that net/http's server would not send.
func TestTokenStaysWithTheVaultRaw(t *testing.T) {
	for name, answer := range map[string]string{
		"absolute status line": "HTTP/1.1 302 https://" + strangers + "/\r\nLocation: https://" + strangers + "/secrets/db\r\nContent-Length: 0\r\n\r\n",
		"two locations":        "HTTP/1.1 307 x\r\nLocation: /secrets/db\r\nLocation: https://" + strangers + "/secrets/db\r\nContent-Length: 0\r\n\r\n",
		"protocol switch":      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\nLocation: https://" + strangers + "/\r\n\r\n",
		"second answer":        "HTTP/1.1 307 x\r\nLocation: https://" + strangers + "/\r\nContent-Length: 0\r\n\r\nHTTP/1.1 307 x\r\nLocation: https://" + strangers + "/\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.Dial[vaultHost] = rawTLS(f, answer)
			connections := watchConnections(f, strangers)
			in := f.integration()
			settingsOf(in).Vaults = settingsOf(in).Vaults[:1]
			s := f.open(newHostileDNS(nil).config(f.Config()), in)
			f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
			if connections() != 0 {
				t.Error("the stranger was connected to")
			}
		})
	}
}
