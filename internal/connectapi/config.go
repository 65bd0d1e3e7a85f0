package connectapi

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Config is connect.yaml.
type Config struct {
	Clusters []Cluster `yaml:"clusters"`
}

// Cluster is a cluster of Kafka Connect workers.
type Cluster struct {
	// Name is the name of the cluster in commands and reports.
	Name string `yaml:"name"`
	// URL is the REST API of a worker, or of a load balancer before the workers.
	URL string `yaml:"url"`
	// InsecureHTTP allows an http:// URL whose host is not the machine itself.
	InsecureHTTP bool `yaml:"insecure_http"`
	// CAFile has the trusted authorities, empty for the system's. CertFile and KeyFile are
	// the client certificate. All files are absolute after Load.
	CAFile     string `yaml:"ca_file"`
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	ServerName string `yaml:"server_name"`
	// Basic and BearerTokenFile are mutually exclusive. The files are read for each request.
	Basic           *Basic `yaml:"basic"`
	BearerTokenFile string `yaml:"bearer_token_file"`
	// Timeout limits one request; zero is not possible after Load.
	Timeout strictyaml.Duration `yaml:"timeout"`
	// Aliases are the names of the broker's config provider in the workers' configuration.
	Aliases []string `yaml:"aliases"`
	// OtherProviders are other config providers of the workers that read secrets from stores.
	OtherProviders []OtherProvider `yaml:"other_providers"`
	// Restarts allows rotations to restart connectors; nil if they must not.
	Restarts *Restarts `yaml:"restarts"`
}

// Basic is a user of HTTP's basic authentication.
type Basic struct {
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
}

// OtherProvider is a config provider that reads secrets from a store without the broker.
type OtherProvider struct {
	Alias string `yaml:"alias"`
	// Form is one of the constants below.
	Form string `yaml:"form"`
	// Store is the first part of references to the store. FormLenses Azure has none: its
	// placeholders name the vault.
	Store string `yaml:"store"`
	// Prefix is secret.prefix of csid's provider for AWS.
	Prefix string `yaml:"prefix"`
	// WholeSecrets is use.json=false of csid's providers.
	WholeSecrets bool `yaml:"whole_secrets"`
	// Integration is the integration of the broker that serves the store, "" if none does.
	Integration string `yaml:"integration"`
}

// The forms of placeholders of other config providers.
const (
	FormCSIDAzure   = "csid_azure"
	FormCSIDAWS     = "csid_aws"
	FormCSIDGCP     = "csid_gcp"
	FormCSIDVault   = "csid_vault"
	FormLensesAzure = "lenses_azure"
	FormLensesAWS   = "lenses_aws"
	FormLensesVault = "lenses_vault"
)

var forms = []string{FormCSIDAzure, FormCSIDAWS, FormCSIDGCP, FormCSIDVault, FormLensesAzure, FormLensesAWS, FormLensesVault}

// Restarts says which connectors may be restarted, and how fast.
type Restarts struct {
	// Include and Exclude are patterns of connectors' names. A connector may be restarted if
	// it matches one of Include and none of Exclude.
	Include []string `yaml:"include"`
	Exclude []string `yaml:"exclude"`
	// Workers has the identities of the workers at the broker, by worker id. The first match
	// counts.
	Workers []Worker `yaml:"workers"`
	// MaxParallel is how many connectors may be between restart and proof at a time.
	MaxParallel int `yaml:"max_parallel"`
	// MinInterval is the time between two restarts, and PerHour the most in an hour.
	MinInterval strictyaml.Duration `yaml:"min_interval"`
	PerHour     int                 `yaml:"per_hour"`
	// Settle is how long a connector and all its tasks must be RUNNING.
	Settle strictyaml.Duration `yaml:"settle"`
	// StuckAfter is how long RESTARTING or UNASSIGNED may last before it counts as failed.
	StuckAfter strictyaml.Duration `yaml:"stuck_after"`
	// VerifyTimeout is how long the proof may take after a restart.
	VerifyTimeout strictyaml.Duration `yaml:"verify_timeout"`
	// Windows are the times at which restarts may begin; none means at any time.
	Windows []Window `yaml:"windows"`
}

// Worker maps the worker ids that match Worker, such as "connect-1.example.org:8083", to the
// principal of their certificate.
type Worker struct {
	Worker    string `yaml:"worker"`
	Principal string `yaml:"principal"`
}

// Principal returns the principal of a worker, "" if there is none.
func (r *Restarts) Principal(workerID string) string {
	for _, w := range r.Workers {
		if Match(w.Worker, workerID) {
			return w.Principal
		}
	}
	return ""
}

// Allows reports whether a connector may be restarted.
func (r *Restarts) Allows(connector string) bool {
	if r == nil {
		return false
	}
	return matchAny(r.Include, connector) && !matchAny(r.Exclude, connector)
}

func matchAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if Match(p, s) {
			return true
		}
	}
	return false
}

// Match reports whether s matches a pattern, in which "*" stands for any text.
func Match(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok || len(parts) == 1 {
		return ok && s == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

// Load reads connect.yaml. The error is a strictyaml.Faults with every problem, or says why
// the file cannot be read.
func Load(path string) (*Config, error) {
	data, err := keyfile.ReadRegular(path, strictyaml.MaxSize)
	if err != nil {
		return nil, err
	}
	return parse(path, data)
}

func parse(path string, data []byte) (*Config, error) {
	var c Config
	doc := strictyaml.Decode(path, data, &c)
	if len(c.Clusters) == 0 {
		doc.Fault("clusters", "list at least one cluster of Kafka Connect")
	}
	names := make(map[string]bool)
	for i := range c.Clusters {
		at, cl := strictyaml.Index("clusters", i), &c.Clusters[i]
		if cl.Name != "" && names[cl.Name] {
			doc.Fault(at+".name", "another cluster has the same name")
		}
		names[cl.Name] = true
		cl.check(doc, at)
		cl.setDefaults()
		for _, file := range cl.files() {
			if *file != "" && !filepath.IsAbs(*file) {
				*file = filepath.Join(filepath.Dir(path), *file)
			}
		}
	}
	return &c, doc.Faults().Err()
}

func (c *Cluster) files() []*string {
	files := []*string{&c.CAFile, &c.CertFile, &c.KeyFile, &c.BearerTokenFile}
	if c.Basic != nil {
		files = append(files, &c.Basic.PasswordFile)
	}
	return files
}

// The defaults.
const (
	defaultTimeout       = 30 * time.Second
	defaultMinInterval   = 30 * time.Second
	defaultPerHour       = 60
	defaultSettle        = 30 * time.Second
	defaultStuckAfter    = time.Minute
	defaultVerifyTimeout = 5 * time.Minute
)

func (c *Cluster) setDefaults() {
	duration(&c.Timeout, defaultTimeout)
	if c.Aliases == nil {
		c.Aliases = []string{"secretbroker", "broker"}
	}
	r := c.Restarts
	if r == nil {
		return
	}
	r.MaxParallel = max(r.MaxParallel, 1)
	if r.PerHour == 0 {
		r.PerHour = defaultPerHour
	}
	duration(&r.MinInterval, defaultMinInterval)
	duration(&r.Settle, defaultSettle)
	duration(&r.StuckAfter, defaultStuckAfter)
	duration(&r.VerifyTimeout, defaultVerifyTimeout)
}

func duration(d *strictyaml.Duration, fallback time.Duration) {
	if *d == 0 {
		*d = strictyaml.Duration(fallback)
	}
}

// loopback reports whether a URL's host is the machine itself.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// checkURL returns what is wrong with the URL of a cluster.
func (c *Cluster) checkURL() string {
	u, err := url.Parse(c.URL)
	switch {
	case c.URL == "":
		return "the URL of the cluster's REST API is missing"
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return "expected a URL such as https://connect.example.org:8083"
	case u.User != nil:
		return "a URL must not contain a password; use basic with password_file"
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "the URL must not have a query or a fragment"
	case u.Scheme == "http" && !loopback(u.Hostname()) && !c.InsecureHTTP:
		return "http:// sends configurations and credentials in clear text; use https://, or set insecure_http: true if the network between the two is trusted"
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "the port is not valid"
		}
	}
	return ""
}
