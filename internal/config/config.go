// Package config implements secretbroker.yaml: its settings, their defaults and their
// validation.
//
// Only internal/app and the commands in internal/cli import it. internal/app passes each part
// of the broker its own settings, and this package does not depend on those parts. Live is
// the configuration in effect while the broker runs. Names of settings are stable: they are
// never renamed. The file contains no secrets, only paths of files that do.
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

// Config is a validated secretbroker.yaml. Its paths are absolute.
type Config struct {
	// Listen is the address of the gRPC server (mutual TLS, TLS 1.3), host:port.
	Listen string `yaml:"listen"`
	// AdminListen is the address of the plain HTTP server for /livez, /readyz and
	// /metrics, host:port.
	AdminListen string `yaml:"admin_listen"`
	// TLS and SPIFFE are alternatives; exactly one of them is set.
	TLS    TLS    `yaml:"tls"`
	SPIFFE SPIFFE `yaml:"spiffe"`
	// Registry is where the integrations are. Required.
	Registry   Registry   `yaml:"registry"`
	Denials    Denials    `yaml:"denials"`
	Cache      Cache      `yaml:"cache"`
	Audit      Audit      `yaml:"audit"`
	Roles      Roles      `yaml:"roles"`
	Usage      Usage      `yaml:"usage"`
	Validation Validation `yaml:"validation"`
	Placement  Placement  `yaml:"placement"`
	Limits     Limits     `yaml:"limits"`
	Watch      Watch      `yaml:"watch"`
	Events     Events     `yaml:"events"`
	Shutdown   Shutdown   `yaml:"shutdown"`
	Memory     Memory     `yaml:"memory"`
	Tracing    Tracing    `yaml:"tracing"`
}

// Limits limits what one caller can make the broker do.
type Limits struct {
	// MaxRequestBytes is the maximum size of a request, 64 KiB to 16 MiB.
	MaxRequestBytes strictyaml.Bytes `yaml:"max_request_bytes"`
	// MaxConfigs is the maximum number of entries in a request's configs, 1 to 100,000.
	MaxConfigs int `yaml:"max_configs"`
	// MaxReferences is the maximum number of references among them, 1 to 10,000.
	MaxReferences int `yaml:"max_references"`
	// MaxSecrets is the maximum number of distinct secrets that they refer to, 1 to 1,000.
	MaxSecrets int `yaml:"max_secrets"`
	// MaxReferenceBytes is the maximum length of a reference, 64 to 8,192.
	MaxReferenceBytes int `yaml:"max_reference_bytes"`
	// MaxKeyBytes is the maximum length of a reference's JSON key, 1 to 8,192.
	MaxKeyBytes int `yaml:"max_key_bytes"`
	// MaxDocumentBytes is the maximum size of a secret in which the broker looks up a
	// JSON key, 1 KiB to 1 MiB.
	MaxDocumentBytes strictyaml.Bytes `yaml:"max_document_bytes"`
	// MaxStreamsPerConnection is the maximum number of active calls of one connection, 1
	// to 10,000.
	MaxStreamsPerConnection int `yaml:"max_streams_per_connection"`
	// MaxConnectionsPerPrincipal is the maximum number of open connections of one
	// principal, 1 to 100,000.
	MaxConnectionsPerPrincipal int `yaml:"max_connections_per_principal"`
	// MaxCallsPerSecondPerPrincipal is the maximum number of calls per second of one
	// principal, 1 to 1,000,000.
	MaxCallsPerSecondPerPrincipal int `yaml:"max_calls_per_second_per_principal"`
	// MaxConcurrentCallsPerPrincipal is the maximum number of active calls of one
	// principal, 1 to 1,000,000.
	MaxConcurrentCallsPerPrincipal int `yaml:"max_concurrent_calls_per_principal"`
	// MaxConcurrentCalls is the maximum number of active calls, 1 to 10,000,000.
	MaxConcurrentCalls int `yaml:"max_concurrent_calls"`
	// MaxHandshakes is the maximum number of concurrent TLS handshakes, 16 to 100,000.
	MaxHandshakes int `yaml:"max_handshakes"`
}

// Shutdown configures how the broker stops. The sum of both times should be less than the
// time after which the service manager kills the process.
type Shutdown struct {
	// DrainDelay is the time for which the broker still serves calls, but reports that it
	// is not ready, after it was asked to stop; 0 s to 5 min.
	DrainDelay strictyaml.Duration `yaml:"drain_delay"`
	// Timeout is the time that active calls then have to finish; 1 s to 5 min.
	Timeout strictyaml.Duration `yaml:"timeout"`
}

// Memory configures what the broker requests from the operating system to protect the
// process's memory, in addition to what it always requests.
type Memory struct {
	// Limit is the maximum memory of the broker if neither GOMEMLIMIT nor a cgroup sets
	// one; at least 64 MiB, or 0 for no limit. A lower limit of the cgroup takes
	// precedence.
	Limit strictyaml.Bytes `yaml:"limit"`
	// Lock locks all of the memory in RAM. The broker does not start if that fails.
	Lock bool `yaml:"lock"`
}

// TLS configures the server's identity and the trusted client CAs from files. The first
// three settings are required unless SPIFFE is set: the broker always uses mutual TLS.
type TLS struct {
	// CertFile is a PEM file with the server's certificate chain, the leaf first.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with the leaf's private key.
	KeyFile string `yaml:"key_file"`
	// ClientCAFile is a PEM file with the authorities that issue the runtimes' client
	// certificates.
	ClientCAFile string `yaml:"client_ca_file"`
	// CRLFiles are files with CRLs of those authorities, PEM or DER. If there are any,
	// every authority needs a current CRL.
	CRLFiles []string `yaml:"crl_files"`
	// CRLDir is a directory of such files, in addition to CRLFiles.
	CRLDir string `yaml:"crl_dir"`
	// TrustDomain, if set, is the only trust domain whose SPIFFE IDs are accepted.
	TrustDomain string `yaml:"trust_domain"`
}

// Denials configures which client certificates and principals the broker refuses although
// their certificates are valid.
type Denials struct {
	// File is a file of denials. It adds to those in the integrations' database.
	File string `yaml:"file"`
}

// SPIFFE configures the server's identity and the trusted client CAs from the SPIFFE
// Workload API. Both settings are required together.
type SPIFFE struct {
	// Socket is the Workload API's address, unix:///PATH.
	Socket string `yaml:"socket"`
	// TrustDomain is the server's trust domain, and the only one whose workloads are
	// accepted as callers.
	TrustDomain string `yaml:"trust_domain"`
}

// Cache limits the time and the memory for which the broker caches values.
type Cache struct {
	// TTL is the time for which the broker answers from the cache, unless the integration
	// has its own; 1 s to 24 h.
	TTL strictyaml.Duration `yaml:"ttl"`
	// MaxBytes limits the total size of all cached values; at least 1 MiB.
	MaxBytes strictyaml.Bytes `yaml:"max_bytes"`
}

// Audit configures where the broker records every decision.
type Audit struct {
	// File is the file that records are appended to, or AuditStdout. Required.
	File string `yaml:"file"`
	// Sync is AuditSyncBatch or AuditSyncNone.
	Sync string `yaml:"sync"`
	// KeyFile is a file with the key of the records' chain; empty for none.
	KeyFile string `yaml:"key_file"`
	// Copies receive a copy of every record.
	Copies []AuditCopy `yaml:"copies"`
}

// AuditCopy is a collector that audit records are copied to.
type AuditCopy struct {
	// Syslog is the URL of the collector, see audit.ParseSyslog.
	Syslog string `yaml:"syslog"`
	// CAFile is a PEM file with the authorities of a tls:// collector; empty for the
	// system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are PEM files with the client certificate for a tls://
	// collector; both or neither.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Required makes a call fail if the connection to the collector does not accept the
	// call's records.
	Required bool `yaml:"required"`
}

// The values of Audit.Sync.
const (
	// AuditSyncBatch syncs records to the disk before their values leave the broker.
	AuditSyncBatch = "batch"
	// AuditSyncNone leaves syncing to the operating system, which writes the records to
	// the disk within some seconds.
	AuditSyncNone = "none"
)

// AuditStdout as Audit.File writes audit records to standard output.
const AuditStdout = "stdout"

// The ranges of settings.
const (
	MinTTL      = time.Second
	MaxTTL      = 24 * time.Hour
	MinMaxBytes = 1 << 20
	MinMemory   = 64 << 20
	MaxShutdown = 5 * time.Minute
)

// defaults returns the values of settings that secretbroker.yaml omits.
func defaults() *Config {
	return &Config{
		Listen:      "127.0.0.1:8443",
		AdminListen: "127.0.0.1:8081",
		Cache:       Cache{TTL: strictyaml.Duration(5 * time.Minute), MaxBytes: 64 << 20},
		Audit:       Audit{Sync: AuditSyncBatch},
		Registry:    defaultRegistry(),
		Usage:       defaultUsage(),
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
		Watch:    defaultWatch(),
		Tracing:  defaultTracing(),
		Shutdown: Shutdown{DrainDelay: strictyaml.Duration(5 * time.Second), Timeout: strictyaml.Duration(15 * time.Second)},
	}
}

// renamed are the former names of settings.
var renamed = map[string]string{
	"integrations":             "registry.directory.path",
	"registry.files":           "registry.allowed_files",
	"registry.key_file":        "registry.seal.key_file",
	"registry.usage_retention": "usage.retention",
	"management":               "usage (window) and validation (at_start, every)",
}

// Load reads and validates the file at path. Relative paths in it are relative to the
// directory of the file. If the file is invalid, the error is a strictyaml.Faults with
// every problem. Load does not open the files that the settings name.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading only
	data, err := io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return data, nil
}

// Parse is Load for data that was already read; path is the path of the file in errors.
func Parse(path string, data []byte) (*Config, error) {
	f, err := inspect(path, data)
	if err == nil {
		err = f.Err()
	}
	if err != nil {
		return nil, err
	}
	return f.Config, nil
}

func (c *Config) resolvePaths(dir string) {
	var paths []*string
	optional := append(append(c.Registry.paths(), c.Events.paths()...), &c.Audit.KeyFile, &c.Watch.VersionKeyFile, &c.TLS.CertFile, &c.TLS.KeyFile, &c.TLS.ClientCAFile, &c.TLS.CRLDir, &c.Denials.File,
		&c.Tracing.CAFile, &c.Tracing.CertFile, &c.Tracing.KeyFile)
	if c.Audit.File != AuditStdout {
		optional = append(optional, &c.Audit.File)
	}
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
