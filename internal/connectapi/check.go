package connectapi

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// check records what is wrong with the settings of a cluster.
func (c *Cluster) check(doc *strictyaml.Document, at string) {
	if c.Name == "" {
		doc.Fault(at+".name", "a cluster needs a name for commands and reports")
	}
	if fault := c.checkURL(); fault != "" {
		doc.Fault(at+".url", "%s", fault)
	}
	plain := strings.HasPrefix(c.URL, "http://")
	if c.InsecureHTTP && !plain {
		doc.Fault(at+".insecure_http", "the URL is not an http:// URL; leave this out")
	}
	if plain && (c.CAFile != "" || c.CertFile != "" || c.ServerName != "") {
		doc.Fault(at+".url", "ca_file, cert_file and server_name have no effect on an http:// URL; use https://, or leave them out")
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		doc.Fault(at, "cert_file and key_file belong together")
	}
	if c.Basic != nil && c.BearerTokenFile != "" {
		doc.Fault(at+".basic", "basic and bearer_token_file exclude each other")
	}
	if b := c.Basic; b != nil && (b.Username == "" || b.PasswordFile == "" || strings.Contains(b.Username, ":")) {
		doc.Fault(at+".basic", "basic needs a username without a colon, and password_file")
	}
	checkDuration(doc, at+".timeout", c.Timeout, time.Second, 5*time.Minute)
	for i, alias := range c.Aliases {
		if fault := faultOfAlias(alias); fault != "" {
			doc.Fault(strictyaml.Index(at+".aliases", i), "%s", fault)
		}
	}
	for i := range c.OtherProviders {
		c.checkProvider(doc, strictyaml.Index(at+".other_providers", i), &c.OtherProviders[i])
	}
	if c.Restarts != nil {
		c.Restarts.check(doc, at+".restarts")
	} else if doc.Has(at + ".restarts") {
		doc.Fault(at+".restarts", "the section is empty; leave it out to forbid restarts, or list connectors under include")
	}
}

func faultOfAlias(alias string) string {
	if alias == "" || strings.ContainsAny(alias, ":{}$") {
		return "expected the name of a config provider, as in the workers' config.providers"
	}
	return ""
}

func (c *Cluster) checkProvider(doc *strictyaml.Document, at string, p *OtherProvider) {
	if fault := faultOfAlias(p.Alias); fault != "" {
		doc.Fault(at+".alias", "%s", fault)
	}
	aliases := c.Aliases
	if aliases == nil {
		aliases = []string{"secretbroker", "broker"}
	}
	same := func(o OtherProvider) bool { return o.Alias == p.Alias }
	if slices.Contains(aliases, p.Alias) || &c.OtherProviders[slices.IndexFunc(c.OtherProviders, same)] != p {
		doc.Fault(at+".alias", "another config provider of the cluster has the same alias")
	}
	switch {
	case !slices.Contains(forms, p.Form):
		doc.Fault(at+".form", "expected one of %s", strings.Join(forms, ", "))
	case (p.Store == "") != (p.Form == FormLensesAzure):
		doc.Fault(at+".store", "the form needs the store as references name it, except lenses_azure, whose placeholders name the vault")
	case p.Prefix != "" && p.Form != FormCSIDAWS:
		doc.Fault(at+".prefix", "only csid_aws has a prefix")
	case p.WholeSecrets && !strings.HasPrefix(p.Form, "csid_"):
		doc.Fault(at+".whole_secrets", "only csid's providers have this setting (use.json=false)")
	}
}

func (r *Restarts) check(doc *strictyaml.Document, at string) {
	if len(r.Include) == 0 {
		doc.Fault(at+".include", `list patterns of the connectors that may be restarted, such as "*"`)
	}
	for _, list := range []struct {
		name     string
		patterns []string
	}{{".include", r.Include}, {".exclude", r.Exclude}} {
		if slices.Contains(list.patterns, "") {
			doc.Fault(at+list.name, "a pattern is empty")
		}
	}
	if len(r.Workers) == 0 {
		doc.Fault(at+".workers", `list the identities of the workers at the broker, such as {worker: "*", principal: "spiffe://example.org/connect"}; without them nothing can be proved`)
	}
	for i, w := range r.Workers {
		if w.Worker == "" || w.Principal == "" {
			doc.Fault(strictyaml.Index(at+".workers", i), "expected a pattern of worker ids under worker, and the principal of their certificate")
		}
	}
	checkNumber(doc, at+".max_parallel", r.MaxParallel, 50)
	checkNumber(doc, at+".per_hour", r.PerHour, 10_000)
	checkDuration(doc, at+".min_interval", r.MinInterval, time.Second, 24*time.Hour)
	checkDuration(doc, at+".settle", r.Settle, time.Second, time.Hour)
	checkDuration(doc, at+".stuck_after", r.StuckAfter, 10*time.Second, time.Hour)
	checkDuration(doc, at+".verify_timeout", r.VerifyTimeout, 10*time.Second, 24*time.Hour)
	if cmp.Or(time.Duration(r.VerifyTimeout), defaultVerifyTimeout) <= cmp.Or(time.Duration(r.Settle), defaultSettle) {
		doc.Fault(at+".verify_timeout", "must be longer than settle")
	}
	for i := range r.Windows {
		if fault := r.Windows[i].parse(); fault != "" {
			doc.Fault(strictyaml.Index(at+".windows", i), "%s", fault)
		}
	}
}

func checkNumber(doc *strictyaml.Document, at string, n, most int) {
	if doc.Has(at) && (n < 1 || n > most) {
		doc.Fault(at, "expected a number from 1 to %d", most)
	}
}

func checkDuration(doc *strictyaml.Document, at string, d strictyaml.Duration, least, most time.Duration) {
	if doc.Has(at) && (time.Duration(d) < least || time.Duration(d) > most) {
		doc.Fault(at, "expected a duration from %s to %s", strictyaml.FormatDuration(least), strictyaml.FormatDuration(most))
	}
}
