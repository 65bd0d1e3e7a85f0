package trust

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/internal/certfile"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// FileProblem is a problem with one of the files of a FilesConfig.
type FileProblem struct {
	// Setting is "cert_file", "key_file", "client_ca_file", "crl_files" or "crl_dir".
	Setting string
	Text    string
}

// CheckFiles returns everything that is wrong with the files: the errors of OpenFiles,
// authorities without a current CRL, a certificate that clients do not accept as the one of
// a server, and certificates that are not of an authority where authorities are expected. It
// skips files whose paths are empty.
func CheckFiles(cfg FilesConfig) []FileProblem {
	cfg.Options = cfg.withDefaults()
	var problems []FileProblem
	add := func(setting, text string) { problems = append(problems, FileProblem{setting, text}) }
	f := newFiles(cfg)
	_, faults := f.read(cfg.Now())
	if cfg.KeyFile != "" {
		if _, err := keyfile.Read(cfg.KeyFile, maxPEM); err != nil {
			add("key_file", fmt.Sprintf("read the server certificate's key: %v", err))
			// Only now the certificate's own problem is of interest.
			delete(faults, cfg.CertFile)
			if _, err := keyfile.ReadRegular(cfg.CertFile, maxPEM); err != nil && cfg.CertFile != "" {
				add("cert_file", fmt.Sprintf("read the server certificate: %v", err))
			}
		}
	}
	for _, source := range slices.Sorted(maps.Keys(faults)) {
		switch text := faults[source].Error(); {
		case source == "" || source == cfg.CertFile && cfg.KeyFile == "":
		case source == cfg.CertFile:
			add("cert_file", text)
		case source == cfg.ClientCAFile:
			add("client_ca_file", text)
		case source == cfg.CRLDir || slices.Contains(f.listed, source):
			add("crl_dir", text)
		default:
			add("crl_files", text)
		}
	}
	for _, text := range serverFaults(cfg.CertFile) {
		add("cert_file", text)
	}
	for i, cert := range f.authorities {
		if cert.Version > 1 && !cert.IsCA {
			add("client_ca_file", fmt.Sprintf("certificate %d is not the certificate of an authority: it cannot issue client certificates; use the authority's own certificate", i+1))
		}
	}
	if len(faults) == 0 && f.authorities != nil {
		setting := "crl_files"
		if len(cfg.CRLFiles) == 0 {
			setting = "crl_dir"
		}
		for _, p := range f.revocation().gaps(f.authorities, cfg.Now()) {
			add(setting, p.Message)
		}
	}
	return problems
}

// serverFaults returns why clients will not accept the first certificate of a file. It
// returns nothing for a file that has none.
func serverFaults(path string) []string {
	data, err := keyfile.ReadRegular(path, maxPEM)
	if err != nil {
		return nil
	}
	leaf := certfile.First(data)
	if leaf == nil {
		return nil
	}
	var faults []string
	if !certfile.Permits(leaf, x509.ExtKeyUsageServerAuth) {
		faults = append(faults, "the certificate is not for servers: its extended key usage lacks serverAuth; issue one with serverAuth")
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		faults = append(faults, "the certificate has no DNS name and no IP address, so no client can verify it; issue one with the name that clients connect to")
	}
	return faults
}
