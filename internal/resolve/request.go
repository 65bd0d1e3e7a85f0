package resolve

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// MaxNameLen is the longest config name and connector name, in bytes.
const MaxNameLen = 256

// maxIntegrationIDLen is the longest integration id, in bytes.
const maxIntegrationIDLen = 64

// Limits bound one request, so that one caller cannot make the broker work
// without measure. The zero value of each stands for its default.
type Limits struct {
	// MaxConfigs is how many entries configs may have: 1000. Whole connector
	// configurations have up to a few hundred.
	MaxConfigs int
	// MaxReferences is how many of them may be references: 128.
	MaxReferences int
	// MaxSecrets is how many different secrets they may name: 64. All of them may
	// have to be read at the same time.
	MaxSecrets int
	// MaxReferenceBytes is the longest reference: 2048, at most secret.MaxRefLen.
	MaxReferenceBytes int
	// MaxKeyBytes is the longest JSON key in a reference: 512.
	MaxKeyBytes int
	// MaxDocumentBytes is the largest secret in which a JSON key is looked for:
	// 256 KiB. Stores allow between 25 KiB and 1 MiB.
	MaxDocumentBytes int
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		limit    *int
		fallback int
	}{
		{&l.MaxConfigs, 1000},
		{&l.MaxReferences, 128},
		{&l.MaxSecrets, 64},
		{&l.MaxReferenceBytes, 2048},
		{&l.MaxKeyBytes, 512},
		{&l.MaxDocumentBytes, 256 << 10},
	} {
		if *d.limit == 0 {
			*d.limit = d.fallback
		}
	}
	return l
}

// parseRef is secret.ParseRef within the limits.
func (l *Limits) parseRef(text string) (secret.Ref, error) {
	if len(text) > l.MaxReferenceBytes {
		return secret.Ref{}, secret.Errorf(secret.ReasonInvalidReference,
			"the reference is %d bytes long, the most is %d", len(text), l.MaxReferenceBytes)
	}
	ref, err := secret.ParseRef(text)
	if err == nil && len(ref.Key) > l.MaxKeyBytes {
		return secret.Ref{}, secret.Errorf(secret.ReasonInvalidReference,
			"the reference's JSON key is %d bytes long, the most is %d", len(ref.Key), l.MaxKeyBytes)
	}
	return ref, err
}

// Caller is who asks: the verified identity that decisions are made on, and
// what tells its instances apart in the audit.
type Caller struct {
	Principal         authz.Principal
	PeerAddress       string
	CertificateSerial string
	// Barrier, if not nil, delays every answer to the caller until it is recorded.
	Barrier CommitBarrier
	// Memory, if not nil, is asked before values are copied for the caller.
	Memory Memory
	// Turn, if not nil, is the call's turn to use the CPUs.
	Turn Turn
}

// Turn is a call's turn to use the CPUs. A call that needs much CPU time takes it, so
// that calls that need little do not wait for all of those, and gives it up before it
// waits for anything. It is safe for concurrent use.
type Turn interface {
	// Take waits for the turn. The error is a *secret.Error.
	Take(ctx context.Context) error
	// Leave gives the turn up, if the call has it.
	Leave()
}

// takeTurn waits for the call's turn.
func (c *Caller) takeTurn(ctx context.Context) error {
	if c.Turn == nil {
		return nil
	}
	return c.Turn.Take(ctx)
}

// leaveTurn gives the call's turn up.
func (c *Caller) leaveTurn() {
	if c.Turn != nil {
		c.Turn.Leave()
	}
}

// Memory bounds the memory that callers' values take. It is safe for concurrent use.
type Memory interface {
	// Reserve takes so many bytes for the call, until it has been answered; false
	// refuses them.
	Reserve(bytes int) bool
}

// CommitBarrier delays answers until the audit log has committed their records. After
// HoldUntil has returned, no later answer leaves the broker until commit.Wait has
// returned nil. If Wait fails, no answer leaves at all. A CommitBarrier is safe for
// concurrent use.
//
// Without it, every call of a busy broker would park its goroutine until its record is
// on the disk. The barrier waits once for all answers that it writes together.
type CommitBarrier interface {
	HoldUntil(commit Commit)
}

// Commit is a write of the audit log that may not have finished, such as an
// audit.Receipt. Values are comparable: equal ones are the same commit.
type Commit interface {
	// Wait returns once the records are committed, or with the error.
	Wait() error
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
	// Trace is the call's trace, the broker's own too; nil if it is not traced.
	Trace *tracing.Call
}

func (r *Request) validate(limits *Limits) error {
	switch {
	case !ValidID(r.IntegrationID):
		return invalid("integration_id must be 1 to %d characters of [A-Za-z0-9._-]", maxIntegrationIDLen)
	case len(r.Configs) == 0:
		return invalid("configs is empty; give at least one config name with its reference")
	case len(r.Configs) > limits.MaxConfigs:
		return invalid("configs has %d entries, the most is %d", len(r.Configs), limits.MaxConfigs)
	case len(r.Connector) > MaxNameLen:
		return invalid("connector is %d bytes long, the most is %d", len(r.Connector), MaxNameLen)
	case !printable(r.Connector):
		return invalid("connector has a control character or is not UTF-8; give the connector's name as it is in its configuration")
	case r.MaxAge != nil && *r.MaxAge < 0:
		return invalid("max_age is negative or no valid duration; 0s reads now")
	}
	for name := range r.Configs {
		if name == "" || len(name) > MaxNameLen {
			return invalid("configs has a name that is empty or longer than %d bytes", MaxNameLen)
		}
		if !printable(name) {
			return invalid("configs has a name with a control character or that is not UTF-8")
		}
	}
	return nil
}

// printable reports whether a name is free of what a record would have to escape to
// several times its length: control characters, line and paragraph separators, and
// bytes that are not UTF-8.
func printable(name string) bool {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f {
			return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
				return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
			})
		}
	}
	return true
}

// ValidID holds the rule for integration ids. ':' and '}' are out because Kafka
// Connect's ${provider:path:key} ends there.
func ValidID(id string) bool {
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
	Config string
	Value  secret.Value
	// Decoded says that the reference asked for decoding, so that Value may be
	// any bytes.
	Decoded   bool
	Version   string
	FetchedAt time.Time
	// ExpiresAt is until when the broker answers from this copy.
	ExpiresAt time.Time
	// SecretExpiresAt is the end of the secret's own validity, zero if it has none.
	SecretExpiresAt time.Time
	Stale           bool
}

// Result is what a call is answered: the resolved configs, and, when partial
// answers were allowed, why the others are missing. Both are sorted by name.
type Result struct {
	Configs []Resolved
	Errors  []ConfigError
}

// Wipe overwrites the values, which are nobody else's, when the call has been
// answered.
func (r *Result) Wipe() {
	for i := range r.Configs {
		r.Configs[i].Value.Wipe()
	}
}
