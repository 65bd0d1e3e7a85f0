package client

import (
	"bytes"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// ResolveResponse is the broker's answer. It belongs to the caller.
type ResolveResponse struct {
	// Values maps config names to values. It is never nil.
	Values map[string]Value
	// Errors maps config names to errors; it is empty unless ResolveRequest.AllowPartial was set.
	Errors map[string]ConfigError
	// RequestID identifies this call in the broker's audit log and other logs.
	RequestID string
}

// Value is a secret with its version and times. Only Reveal and Bytes return the secret:
// printed, logged or marshalled, a Value is "[REDACTED]". It is safe for concurrent use; the
// zero Value is empty.
type Value struct {
	// Version is the store's identifier of the version that was read.
	Version string
	// FetchTime is the time at which the broker read the value from the store.
	FetchTime time.Time
	// CacheExpireTime is the time until which the broker answers with this copy; earlier
	// requests get the same value. Zero if the broker did not send it.
	CacheExpireTime time.Time
	// SecretExpireTime is the end of the secret's own validity. Zero if it has none.
	SecretExpireTime time.Time
	// Stale reports that CacheExpireTime has passed, and that the broker returned the value only
	// because it cannot reach the store.
	Stale bool

	text    secret.Value
	decoded secret.Value
}

// NewValue returns a Value with a secret, for programs that replace the client in tests. Set the
// other fields as needed.
func NewValue(text string) Value { return Value{text: secret.NewValue([]byte(text))} }

// NewDecodedValue returns a Value as for a reference with ?decode=base64: Bytes returns decoded,
// and Reveal too if that is text. It copies decoded.
func NewDecodedValue(decoded []byte) Value {
	// secret.NewValue overwrites its argument.
	v := Value{decoded: secret.NewValue(bytes.Clone(decoded))}
	if v.decoded.IsText() {
		v.text = secret.NewValue(bytes.Clone(decoded))
	}
	return v
}

// Reveal returns the secret as text. Call it at the point of use, and pass the Value rather
// than the string until then. It is empty for a reference with ?decode=base64 whose bytes are
// not text; see Bytes.
func (v Value) Reveal() string { return v.text.Reveal() }

// Bytes returns a copy of the decoded bytes of a reference with ?decode=base64, whether they
// are text or not, and nil for any other reference. Like Reveal, call it at the point of use.
func (v Value) Bytes() []byte {
	if v.decoded.Len() == 0 {
		return nil
	}
	return v.decoded.RevealBytes()
}

// Wipe overwrites the secret with zeros. Reading v, or a copy of v, afterwards panics.
func (v Value) Wipe() {
	v.text.Wipe()
	v.decoded.Wipe()
}

// clone returns a copy that does not share the secret.
func (v Value) clone() Value {
	v.text, v.decoded = v.text.Clone(), v.decoded.Clone()
	return v
}

// same reports whether the secrets are equal.
func (v Value) same(other Value) bool {
	return sameBytes(v.text.RevealBytes(), other.text.RevealBytes()) && sameBytes(v.decoded.RevealBytes(), other.decoded.RevealBytes())
}

// sameBytes compares and overwrites two secrets.
func sameBytes(a, b []byte) bool {
	defer clear(a)
	defer clear(b)
	return bytes.Equal(a, b)
}

// String implements fmt.Stringer. It never returns the secret.
func (v Value) String() string { return v.text.String() }

// GoString implements fmt.GoStringer. It never returns the secret.
func (v Value) GoString() string { return v.text.GoString() }

// MarshalText implements encoding.TextMarshaler, which JSON uses. It never returns the
// secret.
func (v Value) MarshalText() ([]byte, error) { return v.text.MarshalText() }

// LogValue implements slog.LogValuer. It never returns the secret.
func (v Value) LogValue() slog.Value { return v.text.LogValue() }

func (r ResolveRequest) message() *secretbrokerv1.ResolveRequest {
	m := &secretbrokerv1.ResolveRequest{
		IntegrationId: r.IntegrationID,
		Configs:       r.Configs,
		AllowPartial:  r.AllowPartial,
		Connector:     r.Connector,
	}
	if r.MaxAge != nil {
		m.MaxAge = durationpb.New(*r.MaxAge)
	}
	if !r.NotReadBefore.IsZero() {
		m.NotReadBefore = timestamppb.New(r.NotReadBefore)
	}
	return m
}

func newResolveResponse(m *secretbrokerv1.ResolveResponse) *ResolveResponse {
	r := &ResolveResponse{
		Values:    make(map[string]Value, len(m.GetConfigs())),
		Errors:    make(map[string]ConfigError, len(m.GetErrors())),
		RequestID: m.GetRequestId(),
	}
	for name, c := range m.GetConfigs() {
		r.Values[name] = Value{
			Version:         c.GetVersion(),
			FetchTime:       timeOf(c.GetFetchTime()),
			CacheExpireTime: timeOf(c.GetCacheExpireTime()),
			Stale:           c.GetStale(),
			text:            secret.NewValue([]byte(c.GetValue())),
			decoded:         secret.NewValue(c.GetDecodedValue()),

			SecretExpireTime: timeOf(c.GetSecretExpireTime()),
		}
	}
	for name, e := range m.GetErrors() {
		r.Errors[name] = newConfigError(name, e)
	}
	return r
}

// wipe overwrites the values of an answer.
func (r *ResolveResponse) wipe() {
	for _, v := range r.Values {
		v.Wipe()
	}
}

func newConfigError(config string, e *secretbrokerv1.ConfigError) ConfigError {
	return ConfigError{
		Config:     config,
		Reason:     Reason(e.GetReason()),
		Message:    e.GetMessage(),
		RetryAfter: positive(e.GetRetryDelay()),
	}
}

// timeOf returns the zero time for an unset timestamp, not 1970.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}

// positive returns zero for an unset or negative duration. A duration that is too long for
// time.Duration becomes the longest one.
func positive(d *durationpb.Duration) time.Duration { return max(d.AsDuration(), 0) }
