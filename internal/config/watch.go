package config

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Watch configures the notices of changed secrets.
type Watch struct {
	// VersionKeyFile is a file with the key by which the broker computes versions of
	// secrets whose store has none; empty for none. All replicas need the same key.
	VersionKeyFile string `yaml:"version_key_file"`
	// Splay is the time over which the notices of one change are spread, 0 s to 10 min.
	Splay strictyaml.Duration `yaml:"splay"`
	// ExpiryLead is how long before the end of a secret's validity its watchers are told,
	// 1 min to 365 days.
	ExpiryLead strictyaml.Duration `yaml:"expiry_lead"`
	// MaxStreamsPerPrincipal and MaxStreams are the maximum numbers of open streams, 1 to
	// 1,000,000.
	MaxStreamsPerPrincipal int `yaml:"max_streams_per_principal"`
	MaxStreams             int `yaml:"max_streams"`
	// MaxItemsPerPrincipal and MaxItems are the maximum numbers of watched configs of all
	// open streams, 1 to 10,000,000.
	MaxItemsPerPrincipal int `yaml:"max_items_per_principal"`
	MaxItems             int `yaml:"max_items"`
	// MaxSecretsPerPrincipal is the maximum number of distinct secrets that one principal
	// watches, 1 to 1,000,000.
	MaxSecretsPerPrincipal int `yaml:"max_secrets_per_principal"`
	// MaxReadsPerSecond is the maximum number of reads of watched secrets that the broker
	// begins in a second, 1 to 10,000.
	MaxReadsPerSecond int `yaml:"max_reads_per_second"`
}

func defaultWatch() Watch {
	return Watch{
		Splay: strictyaml.Duration(10 * time.Second), ExpiryLead: strictyaml.Duration(24 * time.Hour),
		MaxStreamsPerPrincipal: 1000, MaxStreams: 10_000,
		MaxItemsPerPrincipal: 20_000, MaxItems: 200_000, MaxSecretsPerPrincipal: 2000,
		MaxReadsPerSecond: 100,
	}
}

func (w *Watch) validate(doc *strictyaml.Document) {
	if d := time.Duration(w.Splay); d < 0 || d > 10*time.Minute {
		doc.Fault("watch.splay", "expected 0s to 10m")
	}
	if d := time.Duration(w.ExpiryLead); d < time.Minute || d > 365*24*time.Hour {
		doc.Fault("watch.expiry_lead", "expected 1m to 365d")
	}
	for _, n := range []struct {
		path     string
		is, most int
	}{
		{"watch.max_streams_per_principal", w.MaxStreamsPerPrincipal, 1_000_000},
		{"watch.max_streams", w.MaxStreams, 1_000_000},
		{"watch.max_items_per_principal", w.MaxItemsPerPrincipal, 10_000_000},
		{"watch.max_items", w.MaxItems, 10_000_000},
		{"watch.max_secrets_per_principal", w.MaxSecretsPerPrincipal, 1_000_000},
		{"watch.max_reads_per_second", w.MaxReadsPerSecond, 10_000},
	} {
		if n.is < 1 || n.is > n.most {
			doc.Fault(n.path, "expected 1 to %d", n.most)
		}
	}
}
