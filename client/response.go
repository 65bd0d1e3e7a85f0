package client

import (
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Response is what the broker answered. It belongs to the caller.
type Response struct {
	// Values is config name to value. It is never nil.
	Values map[string]Value
	// Errors is config name to what is wrong with it; empty unless
	// Request.AllowPartial was set.
	Errors map[string]ConfigError
	// RequestID names this call in the broker's audit and logs.
	RequestID string
}

// Value is one secret, and how fresh it is. What it holds comes out of Reveal and
// Bytes only: printed, logged or marshalled, a Value is "[REDACTED]". It is safe
// for concurrent use; the zero Value is empty.
type Value struct {
	// Version is the store's identifier of the version that was read.
	Version string
	// FetchTime is when the broker read the value from the store.
	FetchTime time.Time
	// ExpireTime is until when the broker answers from this copy; asking sooner
	// gives the same value. Zero if the broker did not say.
	ExpireTime time.Time
	// SecretExpireTime is when the secret's own validity ends. Zero if it has no end.
	SecretExpireTime time.Time
	// Stale says that the value is past ExpireTime and was answered only because
	// the store cannot be reached.
	Stale bool

	text    secret.Value
	decoded secret.Value
}

// Reveal returns the secret as text. Call it where the secret is used, and keep
// the Value rather than the string until then. It is empty for a reference with
// ?decode=base64 whose bytes are not text; see Bytes.
func (v Value) Reveal() string { return v.text.Reveal() }

// Bytes returns a copy of the decoded bytes of a reference with ?decode=base64,
// whether they are text or not, and nil for any other reference. As for Reveal,
// call it where they are used.
func (v Value) Bytes() []byte {
	if v.decoded.Len() == 0 {
		return nil
	}
	return v.decoded.RevealBytes()
}

// String implements fmt.Stringer and never shows the secret.
func (v Value) String() string { return v.text.String() }

// GoString implements fmt.GoStringer and never shows the secret.
func (v Value) GoString() string { return v.text.GoString() }

// MarshalText implements encoding.TextMarshaler, and so JSON, and never shows
// the secret.
func (v Value) MarshalText() ([]byte, error) { return v.text.MarshalText() }

// LogValue implements slog.LogValuer and never shows the secret.
func (v Value) LogValue() slog.Value { return v.text.LogValue() }

func (r Request) message() *secretbrokerv1.ResolveRequest {
	m := &secretbrokerv1.ResolveRequest{
		IntegrationId: r.IntegrationID,
		Configs:       r.Configs,
		AllowPartial:  r.AllowPartial,
		Connector:     r.Connector,
	}
	if r.MaxAge != nil {
		m.MaxAge = durationpb.New(*r.MaxAge)
	}
	return m
}

func newResponse(m *secretbrokerv1.ResolveResponse) *Response {
	r := &Response{
		Values:    make(map[string]Value, len(m.GetConfigs())),
		Errors:    make(map[string]ConfigError, len(m.GetErrors())),
		RequestID: m.GetRequestId(),
	}
	for name, c := range m.GetConfigs() {
		r.Values[name] = Value{
			Version:    c.GetVersion(),
			FetchTime:  timeOf(c.GetFetchTime()),
			ExpireTime: timeOf(c.GetExpireTime()),
			Stale:      c.GetStale(),
			text:       secret.NewValue([]byte(c.GetValue())),
			decoded:    secret.NewValue(c.GetDecodedValue()),

			SecretExpireTime: timeOf(c.GetSecretExpireTime()),
		}
	}
	for name, e := range m.GetErrors() {
		r.Errors[name] = newConfigError(name, e)
	}
	return r
}

func newConfigError(config string, e *secretbrokerv1.ConfigError) ConfigError {
	return ConfigError{
		Config:     config,
		Reason:     e.GetReason(),
		Message:    e.GetMessage(),
		RetryAfter: positive(e.GetRetryDelay()),
	}
}

// timeOf gives the zero time for an unset timestamp, not 1970.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}

// positive gives zero for an unset or negative duration. One that is too long
// for a time.Duration becomes the longest.
func positive(d *durationpb.Duration) time.Duration { return max(d.AsDuration(), 0) }
