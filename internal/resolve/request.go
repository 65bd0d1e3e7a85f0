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
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/tracing"
)

// MaxNameLen is the maximum length of a config name and of a connector name, in bytes.
const MaxNameLen = 256

// Limits limits the size of a request, so that one caller cannot cause unlimited work. A
// field that is zero has its default.
type Limits struct {
	// MaxConfigs is the maximum number of entries in configs: 1000 by default. Complete
	// connector configurations have up to a few hundred.
	MaxConfigs int
	// MaxReferences is the maximum number of references among them: 128 by default.
	MaxReferences int
	// MaxSecrets is the maximum number of distinct secrets that they refer to: 64 by
	// default. The broker may have to read all of them concurrently.
	MaxSecrets int
	// MaxReferenceBytes is the maximum length of a reference: 2048 by default, and at
	// most secret.MaxRefLen.
	MaxReferenceBytes int
	// MaxKeyBytes is the maximum length of a reference's JSON key: 512 by default.
	MaxKeyBytes int
	// MaxDocumentBytes is the maximum size of a secret in which the broker looks up a JSON
	// key: 256 KiB by default. The stores' own limits are between 25 KiB and 1 MiB.
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

// parseRef applies the limits in addition to secret.ParseRef.
func (l *Limits) parseRef(text string) (secret.Ref, error) {
	if len(text) > l.MaxReferenceBytes {
		return secret.Ref{}, secret.Errorf(secret.ReasonInvalidReference,
			"the reference is %d bytes long, the maximum is %d", len(text), l.MaxReferenceBytes)
	}
	ref, err := secret.ParseRef(text)
	if err == nil && len(ref.Key) > l.MaxKeyBytes {
		return secret.Ref{}, secret.Errorf(secret.ReasonInvalidReference,
			"the reference's JSON key is %d bytes long, the maximum is %d", len(ref.Key), l.MaxKeyBytes)
	}
	return ref, err
}

// Caller is the caller of a request: the verified identity that decisions depend on, and
// the attributes that distinguish its instances in the audit log.
type Caller struct {
	Principal         authz.Principal
	PeerAddress       string
	CertificateSHA256 string
	CertificateSerial string
	// Barrier, if not nil, delays every answer to the caller until it is recorded.
	Barrier CommitBarrier
	// Memory, if not nil, must grant memory before values are copied for the caller.
	Memory Memory
	// Turn, if not nil, gives the call a CPU slot.
	Turn Turn
}

// Turn is a call's turn to use the CPUs: one of a few slots that callers get in turn.
//
// Most calls are answered from the cache within microseconds and need no slot. A call that
// needs much CPU time (many configs to parse, several secrets to read) takes a slot, so that
// a caller that makes many of these calls cannot delay the cheap calls of others. The call
// gives the slot back before it waits for a store or for the audit log: a slow store must
// not block slots. A Turn is safe for concurrent use.
type Turn interface {
	// Take waits for a slot, if the call has none. The error is a *secret.Error.
	Take(ctx context.Context) error
	// Leave gives the slot back, if the call has one.
	Leave()
}

// takeTurn waits for a CPU slot.
func (c *Caller) takeTurn(ctx context.Context) error {
	if c.Turn == nil {
		return nil
	}
	return c.Turn.Take(ctx)
}

// leaveTurn gives the CPU slot back.
func (c *Caller) leaveTurn() {
	if c.Turn != nil {
		c.Turn.Leave()
	}
}

// Memory limits the memory of callers' values. It is safe for concurrent use.
type Memory interface {
	// Reserve reserves n bytes for the call until it has been answered. It returns false
	// if the bytes are not available.
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

// Request is one call as the caller sent it: its contents are not trusted.
type Request struct {
	// ID identifies the call in the audit log and other logs. The broker generates it.
	ID            string
	IntegrationID string
	// Configs maps config names to references, or is a connector's complete configuration
	// with its secret.manager properties.
	Configs map[string]string
	// MaxAge, if set, is the maximum time since a value was read.
	MaxAge *time.Duration
	// NotReadBefore, unless zero, is when the read of a value may have begun at the
	// earliest, by the broker's wall clock.
	NotReadBefore time.Time
	// AllowPartial answers the configs that can be answered even if others fail.
	AllowPartial bool
	Connector    string
	// Trace is the broker's trace of the call; nil if the call is not traced.
	Trace *tracing.Call

	// readSince is NotReadBefore if MaxAge was computed from it.
	readSince time.Time
	// revision is the Revision of the integration that decides, for the records; "" until
	// it is known.
	revision string
}

func (r *Request) validate(limits *Limits) error {
	switch {
	case !ValidID(r.IntegrationID):
		return invalid("integration_id: expected %s", integration.IDRule)
	case len(r.Configs) == 0:
		return invalid("configs is empty; give at least one config name with its reference")
	case len(r.Configs) > limits.MaxConfigs:
		return invalid("configs has %d entries, the maximum is %d", len(r.Configs), limits.MaxConfigs)
	case len(r.Connector) > MaxNameLen:
		return invalid("connector is %d bytes long, the maximum is %d", len(r.Connector), MaxNameLen)
	case !printable(r.Connector):
		return invalid("connector contains a control character or is not UTF-8; use the connector's name from its configuration")
	case r.MaxAge != nil && *r.MaxAge < 0:
		return invalid("max_age must be a valid duration of at least 0s; 0s forces a read")
	}
	for name := range r.Configs {
		if name == "" || len(name) > MaxNameLen {
			return invalid("configs has a name that is empty or longer than %d bytes", MaxNameLen)
		}
		if !printable(name) {
			return invalid("configs has a name that contains a control character or is not UTF-8")
		}
	}
	return nil
}

// maxReadWait is how far NotReadBefore may be ahead of the broker's clock: as much as
// the clocks of replicas may differ.
const maxReadWait = 5 * time.Second

// awaitRead waits until NotReadBefore and expresses it as a MaxAge. It returns an error
// if NotReadBefore is too far ahead or ctx ends first. The call must not hold a slot of its
// Turn.
func (r *Request) awaitRead(ctx context.Context) error {
	if r.NotReadBefore.IsZero() {
		return nil
	}
	wait := time.Until(r.NotReadBefore)
	if wait > maxReadWait {
		return invalid("not_read_before is more than %v ahead of the broker's clock; use a time that the broker has given", maxReadWait)
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return secret.Errorf(secret.ReasonOverloaded,
				"the call's time ended before not_read_before; give the call a later deadline").WithCause(ctx.Err())
		}
	}
	// The wall clock may have been set back while the timer ran.
	if age := max(time.Since(r.NotReadBefore), 0); r.MaxAge == nil || age < *r.MaxAge {
		r.MaxAge, r.readSince = &age, r.NotReadBefore
	}
	return nil
}

// printable reports whether a name contains no characters that a record would escape, which
// would make it several times as long: control characters, line and paragraph separators,
// and bytes that are not UTF-8.
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

// ValidID reports whether an integration id is valid.
func ValidID(id string) bool { return integration.ValidID(id) }

func invalid(format string, args ...any) *secret.Error {
	return secret.Errorf(secret.ReasonInvalidRequest, format, args...)
}

// ConfigError is the reason why one config has no value.
type ConfigError struct {
	Config string
	Err    *secret.Error
}

// Failure is the error of a call that failed for at least one of its configs. It lists all
// of them, sorted by name.
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

// Resolved is a config that has a value.
type Resolved struct {
	Config string
	Value  secret.Value
	// Decoded reports that the reference requested decoding, so that Value may be any
	// bytes.
	Decoded   bool
	Version   string
	FetchedAt time.Time
	// ExpiresAt is the time until which the broker answers with this copy.
	ExpiresAt time.Time
	// SecretExpiresAt is the end of the secret's own validity, zero if it has none.
	SecretExpiresAt time.Time
	Stale           bool
}

// Result is the answer to a call: the resolved configs and, if the request allows partial
// answers, the errors of the others. Both are sorted by name.
type Result struct {
	Configs []Resolved
	Errors  []ConfigError
}

// Wipe overwrites the values, which only the Result has. The caller calls it after it has
// sent the answer.
func (r *Result) Wipe() {
	for i := range r.Configs {
		r.Configs[i].Value.Wipe()
	}
}
