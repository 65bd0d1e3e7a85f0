package app

import (
	"crypto/x509"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// The data of TestIsolation, with names that are easily confused.
var (
	isoVaults    = []string{"alpha-vault", "alpha-vault2", "beta-vault"}
	isoNames     = []string{"db", "db-1", "db-10", "app"}
	isoKeys      = []string{"", "user", "user.name", "userx"}
	isoCallers   = []string{"spiffe://td/team/w1", "spiffe://td/team/w10", "spiffe://td/team/w1/sub", "spiffe://td2/team/w1", "dns:w1.td", "dns:w1.td2"}
	isoGrantees  = append([]string{"spiffe://td/team/*", "spiffe://td/team/w1*", "dns:*.td"}, isoCallers...)
	isoUnknownID = "none"
)

const isoCanary = "canary"

// isoGrant and isoIntegration are the content of an integration's file.
type isoGrant struct{ principals, vaults, secrets, keys []string }

type isoIntegration struct {
	id     string
	vaults []string
	grants []isoGrant
}

// isoAsk is one reference, split into its parts.
type isoAsk struct{ vault, name, key string }

func (a isoAsk) text(rng *mathrand.Rand) string {
	s := "https://" + a.vault + ".vault.azure.net::" + a.name
	if rng.IntN(2) == 0 {
		s = strings.ToUpper(s)
	}
	if a.key != "" {
		s += "::" + a.key
	}
	return s
}

// value returns the value of the reference in the embedded vault.
func (a isoAsk) value() string {
	if a.key != "" {
		return strings.Join([]string{isoCanary, a.vault, a.name, a.key}, "|")
	}
	var members []string
	for _, key := range isoKeys[1:] {
		members = append(members, fmt.Sprintf("%q:%q", key, isoAsk{a.vault, a.name, key}.value()))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// reason returns the documented reason for refusing a caller's reference, or "" if it must
// be answered. path.Match implements these patterns: "*" does not match "/".
func (in *isoIntegration) reason(who string, a isoAsk) client.Reason {
	reason := client.ReasonAccessDenied
	matches := func(patterns []string, s string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			ok, err := path.Match(p, s)
			return err == nil && ok
		})
	}
	for _, g := range in.grants {
		domain, _ := strings.CutPrefix(who, "dns:w1.")
		if !matches(g.principals, who) && !(slices.Contains(g.principals, "dns:*."+domain) && strings.HasPrefix(who, "dns:")) ||
			g.vaults != nil && !slices.Contains(g.vaults, a.vault) ||
			g.secrets != nil && !matches(g.secrets, a.name) ||
			g.keys != nil && (a.key == "" || !matches(g.keys, a.key)) {
			continue
		}
		if slices.Contains(in.vaults, a.vault) {
			return ""
		}
		reason = client.ReasonStoreNotAllowed
	}
	return reason
}

func isoSome(rng *mathrand.Rand, from []string, most int) []string {
	list := make([]string, 1+rng.IntN(most))
	for i := range list {
		list[i] = from[rng.IntN(len(from))]
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

func randomIntegration(rng *mathrand.Rand, id string) *isoIntegration {
	in := &isoIntegration{id: id, vaults: slices.Clone(isoVaults)}
	if drop := rng.IntN(4); drop < len(in.vaults) {
		in.vaults = slices.Delete(in.vaults, drop, drop+1)
	}
	for range 1 + rng.IntN(4) {
		g := isoGrant{principals: isoSome(rng, isoGrantees, 3)}
		if rng.IntN(3) == 0 {
			g.vaults = isoSome(rng, in.vaults, 1)
		}
		if rng.IntN(3) > 0 {
			g.secrets = isoSome(rng, []string{"db", "db-1", "db-*", "a*"}, 2)
		}
		if rng.IntN(3) == 0 {
			g.keys = isoSome(rng, []string{"user", "user.*", "user*", "userx"}, 2)
		}
		in.grants = append(in.grants, g)
	}
	return in
}

// yaml returns the integration's file, based on the sample one.
func (in *isoIntegration) yaml(env *devmode.Environment, sample string) string {
	settings, _, _ := strings.Cut(sample, "\ngrants:")
	_, settings, _ = strings.Cut(settings, "\nkind:")
	before, _, _ := strings.Cut(settings, "  vaults:")
	_, after, _ := strings.Cut(settings, "\n  ca_file:")
	after, _, _ = strings.Cut(after, "  dial:")
	urls := func(vaults []string) []string {
		var list []string
		for _, v := range vaults {
			list = append(list, "https://"+v+".vault.azure.net")
		}
		return list
	}
	var b strings.Builder
	fmt.Fprintf(&b, "id: %s\nkind:%s  vaults: [%s]\n  ca_file:%s  dial:\n", in.id, before, strings.Join(urls(in.vaults), ", "), after)
	for _, v := range in.vaults {
		fmt.Fprintf(&b, "    %s.vault.azure.net: %q\n", v, env.VaultListen)
	}
	fmt.Fprintln(&b, "cache: {ttl: 1s, max_stale: 1m}\ngrants:")
	for _, g := range in.grants {
		fmt.Fprintf(&b, "  - principals: [%q]\n", strings.Join(g.principals, `", "`))
		for name, list := range map[string][]string{"stores": urls(g.vaults), "secrets": g.secrets, "keys": g.keys} {
			if list != nil {
				fmt.Fprintf(&b, "    %s: [%s]\n", name, `"`+strings.Join(list, `", "`)+`"`)
			}
		}
	}
	return strings.ReplaceAll(b.String(), `\"`, `"`)
}

// writeIsoSecrets writes the secrets of the embedded vaults.
func writeIsoSecrets(env *devmode.Environment) error {
	b := strings.Builder{}
	fmt.Fprintln(&b, "vaults:")
	for _, v := range isoVaults {
		fmt.Fprintf(&b, "  %s:\n    secrets:\n", v)
		for _, name := range isoNames {
			fmt.Fprintf(&b, "      %s: {value: '%s'}\n", name, isoAsk{vault: v, name: name}.value())
		}
	}
	return replace(env.SecretsFile, b.String())
}

func writeIsoIntegrations(env *devmode.Environment, sample string, integrations []*isoIntegration) error {
	for i, in := range integrations { // on some systems, ids that differ only in case would be the same file
		if err := replace(filepath.Join(filepath.Dir(env.IntegrationFile), fmt.Sprintf("isolation-%d.yaml", i)), in.yaml(env, sample)); err != nil {
			return err
		}
	}
	return nil
}

// isoIdentity returns the paths of the certificate and key of one of isoCallers.
func isoIdentity(env *devmode.Environment, caller int) devmode.Identity {
	file := filepath.Join(env.Dir, fmt.Sprintf("caller-%d", caller))
	return devmode.Identity{CertFile: file + ".pem", KeyFile: file + "-key.pem", ID: isoCallers[caller]}
}

// issueIsoCertificates issues the certificates of isoCallers by an authority that the
// broker trusts in addition to that of development mode.
func issueIsoCertificates(t testing.TB, env *devmode.Environment, clientCAs string) {
	t.Helper()
	ca := trusttest.NewCA(t, "clients")
	for i, who := range isoCallers {
		cert := ca.Issue(func(c *x509.Certificate) {
			if host, ok := strings.CutPrefix(who, "dns:"); ok {
				c.DNSNames = []string{host}
			} else if uri, err := url.Parse(who); err == nil {
				c.URIs = []*url.URL{uri}
			}
		})
		id := isoIdentity(env, i)
		trusttest.PutPair(t, cert, id.CertFile, id.KeyFile)
	}
	trusttest.Put(t, clientCAs, append([]byte(readFile(env.CAFile)), ca.PEM()...))
}
