package client

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// CheckRequest asks what Resolve would come to.
type CheckRequest struct {
	// IntegrationID, Configs, MaxAge and Connector are as in Request.
	IntegrationID string
	Configs       map[string]string
	MaxAge        *time.Duration
	Connector     string
}

// CheckResponse is what the broker found out. It belongs to the caller and holds
// no value.
type CheckResponse struct {
	// Reports has every reference and every config at fault, sorted by config.
	Reports []Report
	// OK says that every config can be resolved.
	OK bool
	// RequestID names this call in the broker's audit and logs.
	RequestID string
}

// Report is what the broker found out about one config. What it could not find
// out, because of Err, is left zero.
type Report struct {
	// Config is the name of the config.
	Config string
	// Store is the canonical store, for example
	// "https://my-vault.vault.azure.net", and Secret the canonical name in it.
	Store, Secret string
	// Version is the store's identifier of the version that was read.
	Version string
	// JSONKey is the JSON key that the reference names, empty for the whole
	// secret. JSONKeyFound says that it is there.
	JSONKey      string
	JSONKeyFound bool
	// FetchTime is when the broker read the secret from the store.
	FetchTime time.Time
	// SecretExpireTime is when the secret's own validity ends, zero if it has no
	// end. TimeLeft is how long that is from the check on, by the broker's clock;
	// it means something only if HasTimeLeft is set.
	SecretExpireTime time.Time
	TimeLeft         time.Duration
	HasTimeLeft      bool
	// Length is roughly how long the value is.
	Length LengthClass
	// Err is why the config cannot be resolved, nil if it can.
	Err *ConfigError
}

// LengthClass is a coarse length of a value in bytes: enough to see that
// something is there, not enough to help anybody guess it. The names do not
// change.
type LengthClass string

// The length classes. LengthUnknown means that there is no value, and for
// classes that only a newer broker knows.
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

// Check is the dry run of Resolve: the broker parses, authorizes and resolves
// req.Configs and reports on each, but no value comes back. It succeeds also
// when configs fail; see CheckResponse.OK.
//
// It tries again as Resolve does. The error is an *Error, for the call as a
// whole: the broker cannot be reached, or does not take the request.
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
		r.Reports = append(r.Reports, report)
	}
	return r
}
