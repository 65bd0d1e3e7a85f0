package client

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// CheckRequest is a dry run of a ResolveRequest.
type CheckRequest struct {
	// IntegrationID, Configs, MaxAge, NotReadBefore and Connector are as in ResolveRequest.
	IntegrationID string
	Configs       map[string]string
	MaxAge        *time.Duration
	NotReadBefore time.Time
	Connector     string
}

// CheckResponse is the result of a dry run. It belongs to the caller and contains no value.
type CheckResponse struct {
	// Reports has every reference and every invalid config, sorted by config.
	Reports []Report
	// OK reports that every config can be resolved.
	OK bool
	// RequestID identifies this call in the broker's audit log and other logs.
	RequestID string
}

// Report is the result for one config. Fields that the broker could not determine, because
// of Err, are zero.
type Report struct {
	// Config is the name of the config.
	Config string
	// Store is the canonical store, for example
	// "https://my-vault.vault.azure.net", and Secret the canonical name in the store.
	Store, Secret string
	// Version is the store's identifier of the version that was read.
	Version string
	// JSONKey is the reference's JSON key, empty for the whole secret. JSONKeyFound
	// reports that the secret contains it.
	JSONKey      string
	JSONKeyFound bool
	// FetchTime is the time at which the broker read the secret from the store.
	FetchTime time.Time
	// SecretExpireTime is the end of the secret's own validity, zero if it has none.
	// TimeLeft is the time from the check to that end, by the broker's clock; it is valid
	// only if HasTimeLeft is set.
	SecretExpireTime time.Time
	TimeLeft         time.Duration
	HasTimeLeft      bool
	// Length is the length class of the value.
	Length LengthClass
	// Err is the reason why the config cannot be resolved, nil if it can be.
	Err *ConfigError
	// Warnings are about a config that can be resolved.
	Warnings []Warning
}

// Warning says that a value is probably not what the author of the reference expects.
type Warning struct {
	// Warning identifies the warning, for example "NOT_UTF8"; docs/check.md lists the names,
	// to which later versions may add.
	Warning string
	// Message says what to do about it. It does not contain the value.
	Message string
}

// LengthClass is a coarse length of a value in bytes. It shows that there is a value, but
// does not help to guess it. The names are stable.
type LengthClass string

// The length classes. LengthUnknown means that there is no value, or that the class is
// known only to a newer broker.
const (
	LengthUnknown LengthClass = ""
	LengthEmpty   LengthClass = "empty"
	LengthTiny    LengthClass = "tiny"   // 1 to 7 bytes
	LengthShort   LengthClass = "short"  // 8 to 63
	LengthMedium  LengthClass = "medium" // 64 to 1,023
	LengthLong    LengthClass = "long"   // 1,024 and more
)

var lengthClasses = map[secretbrokerv1.LengthClass]LengthClass{
	secretbrokerv1.LengthClass_LENGTH_CLASS_EMPTY:  LengthEmpty,
	secretbrokerv1.LengthClass_LENGTH_CLASS_TINY:   LengthTiny,
	secretbrokerv1.LengthClass_LENGTH_CLASS_SHORT:  LengthShort,
	secretbrokerv1.LengthClass_LENGTH_CLASS_MEDIUM: LengthMedium,
	secretbrokerv1.LengthClass_LENGTH_CLASS_LONG:   LengthLong,
}

// Check is a dry run of Resolve: the broker parses, authorizes and resolves req.Configs and
// reports on each, but returns no values. It succeeds even if configs fail; see
// CheckResponse.OK.
//
// It retries like Resolve. The error is an *Error for the call as a whole: the broker is
// unreachable, or it refuses the request.
func (c *Client) Check(ctx context.Context, req CheckRequest) (*CheckResponse, error) {
	out, err := call(ctx, c, c.rpc.Check, req.message())
	if err != nil {
		return nil, err
	}
	return newCheckResponse(out), nil
}

func (r CheckRequest) message() *secretbrokerv1.CheckRequest {
	m := &secretbrokerv1.CheckRequest{
		IntegrationId: r.IntegrationID,
		Configs:       r.Configs,
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

func newCheckResponse(m *secretbrokerv1.CheckResponse) *CheckResponse {
	r := &CheckResponse{OK: m.GetOk(), RequestID: m.GetRequestId()}
	for _, name := range slices.Sorted(maps.Keys(m.GetConfigs())) {
		c := m.GetConfigs()[name]
		report := Report{
			Config:           name,
			Store:            c.GetStore(),
			Secret:           c.GetSecret(),
			Version:          c.GetVersion(),
			JSONKey:          c.GetJsonKey(),
			JSONKeyFound:     c.GetJsonKeyFound(),
			FetchTime:        timeOf(c.GetFetchTime()),
			SecretExpireTime: timeOf(c.GetSecretExpireTime()),
			TimeLeft:         c.GetTimeLeft().AsDuration(),
			HasTimeLeft:      c.GetTimeLeft() != nil,
			Length:           lengthClasses[c.GetLengthClass()],
		}
		if c.GetError() != nil {
			err := newConfigError(name, c.GetError())
			report.Err = &err
		}
		for _, w := range c.GetWarnings() {
			report.Warnings = append(report.Warnings, Warning{w.GetWarning(), w.GetMessage()})
		}
		r.Reports = append(r.Reports, report)
	}
	return r
}
