// Package connectmap says which connectors of Kafka Connect use which secrets. It finds the
// references in the configurations of connectors: placeholders of the broker's config
// provider, secret.manager properties, and placeholders of the config providers of Confluent
// (csid) and Lenses, which read the same stores without the broker.
//
// What it cannot interpret is listed and not dropped. Neither uses nor faults contain anything
// of a configuration except names of properties and references.
package connectmap

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Map is the use of secrets by the connectors of some clusters.
type Map struct {
	// Uses are sorted by cluster, connector and property.
	Uses []Use
	// Faults are what looks like a reference and cannot be interpreted.
	Faults []Fault
	// Foreign are placeholders of config providers that are not listed in connect.yaml.
	Foreign []Foreign
	// Connectors is the number of connectors that were examined.
	Connectors int
}

// Use is one reference in a connector's configuration.
type Use struct {
	Cluster, Connector, Property string
	// Integration is the integration of the reference, "" if it is unknown.
	Integration string
	// Label is the connector that the placeholder names for the broker's records, or "".
	Label string
	Ref   secret.Ref
	// Form is "placeholder", "secret.manager", or a form of another config provider.
	Form string
}

// The forms of references to the broker.
const (
	FormPlaceholder   = "placeholder"
	FormSecretManager = "secret.manager"
)

// ThroughBroker reports whether the worker resolves the reference through the broker.
// secret.manager properties are for runtimes that send whole configurations, which an
// unmodified worker of Kafka Connect does not.
func (u *Use) ThroughBroker() bool { return u.Form == FormPlaceholder || u.Form == FormSecretManager }

// Fault is a reference that cannot be interpreted. Text says why and quotes no value.
type Fault struct{ Cluster, Connector, Property, Text string }

// Foreign is a placeholder of an unlisted config provider, which may read a secret.
type Foreign struct{ Cluster, Connector, Property, Provider string }

// Add adds the connectors of a cluster.
func (m *Map) Add(cluster *connectapi.Cluster, connectors []connectapi.Connector) {
	for i := range connectors {
		b := builder{m: m, cluster: cluster, connector: connectors[i].Name, file: connectorfile.Connector{Name: connectors[i].Name, Configs: connectors[i].Config}}
		m.Connectors++
		for _, property := range connectors[i].Unreadable {
			b.fault(property, "the value is not text, so it may contain a reference that is not found")
		}
		b.own()
		b.others()
		b.foreign()
	}
	slices.SortStableFunc(m.Uses, func(a, b Use) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Connector, b.Connector), cmp.Compare(a.Property, b.Property))
	})
}

// builder adds what one connector uses.
type builder struct {
	m         *Map
	cluster   *connectapi.Cluster
	connector string
	file      connectorfile.Connector
}

func (b *builder) fault(property, text string) {
	b.m.Faults = append(b.m.Faults, Fault{b.cluster.Name, b.connector, property, text})
}

func (b *builder) use(property, integration, label, reference, form string) {
	ref, err := secret.ParseRef(reference)
	if err != nil {
		b.fault(property, textOf(err)) // quotes nothing
		return
	}
	b.m.Uses = append(b.m.Uses, Use{b.cluster.Name, b.connector, property, integration, label, ref, form})
}

func textOf(err error) string {
	if e, ok := err.(*secret.Error); ok { //nolint:errorlint // ParseRef returns it unwrapped
		return e.Message
	}
	return "not a reference"
}

// own adds the references to the broker.
func (b *builder) own() {
	for _, p := range b.file.Placeholders(b.cluster.Aliases...) {
		if p.Fault != "" {
			b.fault(p.Property, p.Fault)
			continue
		}
		// ${secretbroker:INTEGRATION/CONNECTOR:REFERENCE}
		b.use(p.Property, p.Integration, p.Connector, p.Reference, FormPlaceholder)
	}
	for _, p := range b.file.ManagedReferences() {
		if p.Fault != "" {
			b.fault(p.Property, p.Fault)
			continue
		}
		b.use(p.Property, p.Integration, b.connector, p.Reference, FormSecretManager)
	}
}

// others adds the references of the other config providers in connect.yaml.
func (b *builder) others() {
	for i := range b.cluster.OtherProviders {
		provider := &b.cluster.OtherProviders[i]
		for _, p := range b.file.RawPlaceholders(provider.Alias) {
			reference, fault := referenceOf(provider, p.Integration, p.Reference)
			if p.Fault != "" {
				fault = "a placeholder of " + provider.Alias + " cannot be interpreted: expected ${" + provider.Alias + ":PATH:KEY}"
			}
			if fault != "" {
				b.fault(p.Property, fault)
				continue
			}
			b.use(p.Property, provider.Integration, "", reference, provider.Form)
		}
	}
}

// foreign adds the placeholders of unlisted config providers.
func (b *builder) foreign() {
	providers := b.file.Providers()
	for _, property := range slices.Sorted(maps.Keys(providers)) {
		for _, provider := range providers[property] {
			known := slices.Contains(b.cluster.Aliases, provider) ||
				slices.ContainsFunc(b.cluster.OtherProviders, func(p connectapi.OtherProvider) bool { return p.Alias == provider })
			if !known {
				b.m.Foreign = append(b.m.Foreign, Foreign{b.cluster.Name, b.connector, property, provider})
			}
		}
	}
}

// SecretOf returns the reference to the current version of the secret that r names, which
// identifies the secret.
func SecretOf(r secret.Ref) secret.Ref {
	r = r.Secret()
	r.Version = ""
	return r
}

// Same reports whether two references name the same secret, whatever the version and the
// JSON key. Secrets of AWS may be named by ARN or by endpoint, and an ARN has the account,
// which an endpoint has not: the two are the same if region and name are.
func Same(a, b secret.Ref) bool {
	if a.Kind != b.Kind || a.Name != b.Name {
		return false
	}
	if a.Kind != secret.KindAWSSecretsManager {
		return a.Store == b.Store
	}
	regionA, accountA := awsPlace(a.Store)
	regionB, accountB := awsPlace(b.Store)
	return regionA == regionB && (accountA == accountB || accountA == "" || accountB == "") &&
		(a.Suffix == b.Suffix || a.Suffix == "" || b.Suffix == "")
}

// awsPlace returns the region and the account of a store of AWS; no account for an endpoint.
func awsPlace(store string) (region, account string) {
	if rest, ok := strings.CutPrefix(store, "arn:"); ok {
		if parts := strings.Split(rest, ":"); len(parts) == 4 {
			return parts[2], parts[3]
		}
		return store, ""
	}
	_, rest, _ := strings.Cut(store, "secretsmanager.")
	region, _, _ = strings.Cut(rest, ".")
	return region, ""
}
