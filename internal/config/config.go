// Package config owns broker.yaml: what may stand in it, its defaults, and what
// makes it acceptable.
//
// Only cmd/broker and the commands in internal/cli import it; cmd/broker passes every part
// of the broker its own settings, and this package knows none of those parts. Live is the
// broker.yaml in force while the broker runs. Names of settings are a promise:
// they are never renamed. No secret stands in the file, only paths to files.
package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/secretbroker/secretbroker/internal/cpulimit"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Config is a validated broker.yaml. Paths are absolute.
type Config struct {
	// Listen is the gRPC address, host:port: mutual TLS, TLS 1.3.
	Listen string `yaml:"listen"`
	// AdminListen is the address of plain HTTP for /healthz, /readyz and
	// /metrics, host:port.
	AdminListen string `yaml:"admin_listen"`
	// TLS and SPIFFE are two ways to the same; exactly one of them is given.
	TLS    TLS    `yaml:"tls"`
	SPIFFE SPIFFE `yaml:"spiffe"`
	// Integrations is the directory of the integrations' files, Registry the
	// database that they are in; exactly one of them is given.
	Integrations string   `yaml:"integrations"`
	Registry     Registry `yaml:"registry"`
	Cache        Cache    `yaml:"cache"`
	Audit        Audit    `yaml:"audit"`
	Roles        Roles    `yaml:"roles"`
	Limits       Limits   `yaml:"limits"`
	Shutdown     Shutdown `yaml:"shutdown"`
	Memory       Memory   `yaml:"memory"`
	Tracing      Tracing  `yaml:"tracing"`
	// Management is how integrations are managed, Placement where they may be.
	Management Management `yaml:"management"`
	Placement  Placement  `yaml:"placement"`
}

// Limits bound what one caller can make the broker do.
type Limits struct {
	// MaxRequestBytes is the largest request, 64 KiB to 16 MiB.
	MaxRequestBytes strictyaml.Bytes `yaml:"max_request_bytes"`
	// MaxConfigs is how many entries a request's configs may have, 1 to 100,000.
	MaxConfigs int `yaml:"max_configs"`
	// MaxReferences is how many of them may be references, 1 to 10,000.
	MaxReferences int `yaml:"max_references"`
	// MaxSecrets is how many different secrets they may name, 1 to 1,000.
	MaxSecrets int `yaml:"max_secrets"`
	// MaxReferenceBytes is the longest reference, 64 to 8,192.
	MaxReferenceBytes int `yaml:"max_reference_bytes"`
	// MaxKeyBytes is the longest JSON key in a reference, 1 to 8,192.
	MaxKeyBytes int `yaml:"max_key_bytes"`
	// MaxDocumentBytes is the largest secret in which a JSON key is looked for, 1
	// KiB to 1 MiB.
	MaxDocumentBytes strictyaml.Bytes `yaml:"max_document_bytes"`
	// MaxStreamsPerConnection is how many calls one connection may have under
	// way, 1 to 10,000.
	MaxStreamsPerConnection int `yaml:"max_streams_per_connection"`
	// MaxConnectionsPerPrincipal is how many connections one principal may have
	// open, 1 to 100,000.
	MaxConnectionsPerPrincipal int `yaml:"max_connections_per_principal"`
	// MaxCallsPerSecondPerPrincipal is how many calls of one principal are let in
	// per second, 1 to 1,000,000.
	MaxCallsPerSecondPerPrincipal int `yaml:"max_calls_per_second_per_principal"`
	// MaxConcurrentCallsPerPrincipal is how many calls of one principal may be
	// under way, 1 to 1,000,000.
	MaxConcurrentCallsPerPrincipal int `yaml:"max_concurrent_calls_per_principal"`
	// MaxConcurrentCalls is how many calls may be under way, 1 to 10,000,000.
	MaxConcurrentCalls int `yaml:"max_concurrent_calls"`
	// MaxHandshakes is how many TLS handshakes may be under way, 16 to 100,000.
	MaxHandshakes int `yaml:"max_handshakes"`
}

// Shutdown says how the broker ends. Together the two should be less than what
// the service manager allows before it kills.
type Shutdown struct {
	// DrainDelay is how long the broker goes on as ever, but not ready, after it
	// was told to end; 0 s to 5 min.
	DrainDelay strictyaml.Duration `yaml:"drain_delay"`
	// Timeout is how long calls under way may then take to finish; 1 s to 5 min.
	Timeout strictyaml.Duration `yaml:"timeout"`
}

// Memory says what is asked of the operating system for the process's memory
// beyond what is asked always.
type Memory struct {
	// Limit is how much memory the broker may use where neither GOMEMLIMIT nor a
	// cgroup says so; at least 64 MiB, or 0 for no limit. A lower limit of the cgroup
	// counts.
	Limit strictyaml.Bytes `yaml:"limit"`
	// Lock keeps all of it out of swap, or the broker does not start.
	Lock bool `yaml:"lock"`
}

// TLS is the server's identity and whom it believes, as files. The first three
// are required unless there is SPIFFE: there is no broker without mutual TLS.
type TLS struct {
	// CertFile is a PEM file with the server's certificate chain, the leaf first.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with the leaf's private key.
	KeyFile string `yaml:"key_file"`
	// ClientCAFile is a PEM file with the authorities that issue the runtimes'
	// client certificates.
	ClientCAFile string `yaml:"client_ca_file"`
	// CRLFiles hold CRLs of those authorities, PEM or DER. If there is any, every
	// authority needs a current CRL.
	CRLFiles []string `yaml:"crl_files"`
	// TrustDomain, if set, is the only one whose SPIFFE IDs are callers.
	TrustDomain string `yaml:"trust_domain"`
}

// SPIFFE is the server's identity and whom it believes, from the SPIFFE Workload
// API. Both settings go together.
type SPIFFE struct {
	// Socket is the Workload API's address, unix:///PATH.
	Socket string `yaml:"socket"`
	// TrustDomain is the server's own, and the only one whose workloads are
	// callers.
	TrustDomain string `yaml:"trust_domain"`
}

// Cache bounds how long and how much the broker remembers.
type Cache struct {
	// TTL is how long a value is answered from memory where its integration does
	// not say otherwise; 1 s to 24 h.
	TTL strictyaml.Duration `yaml:"ttl"`
	// MaxBytes bounds all values in memory together; at least 1 MiB.
	MaxBytes strictyaml.Bytes `yaml:"max_bytes"`
}

// Audit says where the record of every decision goes.
type Audit struct {
	// File is the file that records are appended to, or AuditStdout. Required.
	File string `yaml:"file"`
	// Sync is AuditSyncBatch or AuditSyncNone.
	Sync string `yaml:"sync"`
	// KeyFile is a file with the key of the records' chain; empty for none.
	KeyFile string `yaml:"key_file"`
	// Copies are sent every record as well.
	Copies []AuditCopy `yaml:"copies"`
}

// AuditCopy is a collector that audit records are copied to.
type AuditCopy struct {
	// Syslog is its URL, as audit.ParseSyslog takes it.
	Syslog string `yaml:"syslog"`
	// CAFile is a PEM file with the authorities of a tls:// collector; empty for
	// the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are PEM files with what the broker shows to a tls://
	// collector; both or neither.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Required makes calls fail whose records the collector's connection does
	// not take.
	Required bool `yaml:"required"`
}

// The values of Audit.Sync.
const (
	// AuditSyncBatch forces records to the disk before their values leave.
	AuditSyncBatch = "batch"
	// AuditSyncNone leaves them to the operating system, which writes them to the
	// disk within some seconds.
	AuditSyncNone = "none"
)

// AuditStdout as Audit.File writes audit records to standard output.
const AuditStdout = "stdout"

// The bounds of settings.
const (
	MinTTL      = time.Second
	MaxTTL      = 24 * time.Hour
	MinMaxBytes = 1 << 20
	MinMemory   = 64 << 20
	MaxShutdown = 5 * time.Minute
)

// defaults is what holds for settings that broker.yaml leaves out.
func defaults() *Config {
	return &Config{
		Listen:      "127.0.0.1:8443",
		AdminListen: "127.0.0.1:8081",
		Cache:       Cache{TTL: strictyaml.Duration(5 * time.Minute), MaxBytes: 64 << 20},
		Audit:       Audit{Sync: AuditSyncBatch},
		Registry:    defaultRegistry(),
		Management:  Management{UsageWindow: strictyaml.Duration(24 * time.Hour)},
		Limits: Limits{
			MaxRequestBytes:            1 << 20,
			MaxConfigs:                 1000,
			MaxReferences:              128,
			MaxSecrets:                 64,
			MaxReferenceBytes:          2048,
			MaxKeyBytes:                512,
			MaxDocumentBytes:           256 << 10,
			MaxStreamsPerConnection:    256,
			MaxConnectionsPerPrincipal: 256,

			MaxCallsPerSecondPerPrincipal:  5000,
			MaxConcurrentCallsPerPrincipal: 128 * cpulimit.CPUs(),
			MaxConcurrentCalls:             1024 * cpulimit.CPUs(),

			MaxHandshakes: 1000,
		},
		Tracing:  defaultTracing(),
		Shutdown: Shutdown{DrainDelay: strictyaml.Duration(5 * time.Second), Timeout: strictyaml.Duration(15 * time.Second)},
	}
}

// Load reads and validates the file at path. Relative paths in it are taken
// from the directory that it lies in. If it is not acceptable the error is
// strictyaml.Faults with every fault; the files it names are not looked at.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return Parse(path, data)
}

// Parse is Load for data that has been read already; path is where it is said
// to come from.
func Parse(path string, data []byte) (*Config, error) {
	c := defaults()
	doc := strictyaml.Decode(path, data, c)
	c.validate(doc)
	if err := doc.Faults().Err(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c.resolvePaths(dir)
	return c, nil
}

func (c *Config) resolvePaths(dir string) {
	var paths []*string
	if c.Audit.File != AuditStdout {
		paths = append(paths, &c.Audit.File)
	}
	optional := append(c.Registry.paths(), &c.Integrations, &c.Audit.KeyFile, &c.TLS.CertFile, &c.TLS.KeyFile, &c.TLS.ClientCAFile,
		&c.Tracing.CAFile, &c.Tracing.CertFile, &c.Tracing.KeyFile)
	for i := range c.TLS.CRLFiles {
		optional = append(optional, &c.TLS.CRLFiles[i])
	}
	for i := range c.Audit.Copies {
		optional = append(optional, &c.Audit.Copies[i].CAFile, &c.Audit.Copies[i].CertFile, &c.Audit.Copies[i].KeyFile)
	}
	for _, p := range optional {
		if *p != "" {
			paths = append(paths, p)
		}
	}
	for _, p := range paths {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}
