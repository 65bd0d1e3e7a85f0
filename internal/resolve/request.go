package resolve

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Bounds of one request. They keep one caller from making the broker work
// without measure and are far above what a connector needs.
const (
	// MaxConfigs is how many entries configs may have; whole connector
	// configurations have up to a few hundred.
	MaxConfigs = 1000
	// MaxReferences is how many of them may be references.
	MaxReferences = 64
	// MaxNameLen is the longest config name and connector name, in bytes.
	MaxNameLen = 256
	// maxIntegrationIDLen is the longest integration id, in bytes.
	maxIntegrationIDLen = 64
)

// Caller is who asks: the verified identity that decisions are made on, and
// what tells its instances apart in the audit.
type Caller struct {
	Principal         authz.Principal
	PeerAddress       string
	CertificateSerial string
}

// Request is one call, as the caller sent it: nothing in it is trusted.
type Request struct {
	// ID identifies the call in audit and logs. It is the broker's own.
	ID            string
	IntegrationID string
	// Configs maps config names to references, or is a connector's whole
	// configuration with its secret.manager properties.
	Configs map[string]string
	// MaxAge, if set, is how long ago a value may have been read at most.
	MaxAge *time.Duration
	// AllowPartial answers the configs that can be answered when others fail.
	AllowPartial bool
	Connector    string
}

func (r *Request) validate() error {
	switch {
	case !validID(r.IntegrationID):
		return invalid("integration_id must be 1 to %d characters of [A-Za-z0-9._-]", maxIntegrationIDLen)
	case len(r.Configs) == 0:
		return invalid("configs is empty; give at least one config name with its reference")
	case len(r.Configs) > MaxConfigs:
		return invalid("configs has %d entries, the most is %d", len(r.Configs), MaxConfigs)
	case len(r.Connector) > MaxNameLen:
		return invalid("connector is %d bytes long, the most is %d", len(r.Connector), MaxNameLen)
	case r.MaxAge != nil && *r.MaxAge < 0:
		return invalid("max_age is negative; 0s reads now")
	}
	for name := range r.Configs {
		if name == "" || len(name) > MaxNameLen {
			return invalid("configs has a name that is empty or longer than %d bytes", MaxNameLen)
		}
	}
	return nil
}

// validID holds the rule for integration ids. ':' and '}' are out because Kafka
// Connect's ${provider:path:key} ends there.
func validID(id string) bool {
	if id == "" || len(id) > maxIntegrationIDLen {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func invalid(format string, args ...any) *secret.Error {
	return secret.Errorf(secret.ReasonInvalidRequest, format, args...)
}

// ConfigError is why one config has no value.
type ConfigError struct {
	Config string
	Err    *secret.Error
}

// Failure is the error of a call that failed for one or more of its configs. It
// lists every one of them, by name.
type Failure struct {
	Configs []ConfigError
}

func newFailure(configs []ConfigError) *Failure {
	sort.Slice(configs, func(i, j int) bool { return configs[i].Config < configs[j].Config })
	return &Failure{Configs: configs}
}

func (f *Failure) Error() string {
	var b strings.Builder
	for i, c := range f.Configs {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %v", c.Config, c.Err)
	}
	return b.String()
}

// Resolved is one config that has a value.
type Resolved struct {
	Config    string
	Value     secret.Value
	Version   string
	FetchedAt time.Time
	// ExpiresAt is until when the broker answers from this copy.
	ExpiresAt time.Time
	Stale     bool
}

// Result is what a call is answered: the resolved configs, and, when partial
// answers were allowed, why the others are missing. Both are sorted by name.
type Result struct {
	Configs []Resolved
	Errors  []ConfigError
}
