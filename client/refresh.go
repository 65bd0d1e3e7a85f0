package client

import (
	"context"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// RefreshRequest names secrets that the broker reads now.
type RefreshRequest struct {
	// IntegrationID, Configs and Connector are as in ResolveRequest. JSON keys are not looked
	// up.
	IntegrationID string
	Configs       map[string]string
	Connector     string
}

// RefreshResponse has the outcome of the reads, and says which replicas know of them. It
// contains no value.
type RefreshResponse struct {
	// Configs has the configs that were read, by name, and Errors the others.
	Configs map[string]Refreshed
	Errors  map[string]ConfigError
	// Coverage says what other replicas of the broker answer from now on. Unacknowledged are
	// the replicas that did not confirm it, with CoverageSomeReplicas.
	Coverage       Coverage
	Unacknowledged []Replica
	// RequestID identifies this call in the broker's audit log and other logs.
	RequestID string
}

// Refreshed is the version that the broker has read.
type Refreshed struct {
	// Version is the store's identifier of the version, as in Value.
	Version string
	// FetchTime is when the broker began the read, by its clock. With this time as
	// ResolveRequest.NotReadBefore, every replica returns this version or a later one.
	FetchTime time.Time
	// SecretExpireTime is the end of the secret's own validity. Zero if it has none.
	SecretExpireTime time.Time
}

// Replica is one process of the broker.
type Replica struct {
	// ID identifies the process; a restart changes it. Name is its host and address.
	ID, Name string
	// LastSeenTime is when the replica was last known to be alive.
	LastSeenTime time.Time
}

// Coverage says which replicas no longer answer with reads before a Refresh.
type Coverage string

// The coverages. A newer broker may have others, which are CoverageUnknown.
const (
	CoverageAllReplicas Coverage = "ALL_REPLICAS"
	// CoverageSomeReplicas means all but those in RefreshResponse.Unacknowledged, which did
	// not confirm it within two seconds.
	CoverageSomeReplicas Coverage = "SOME_REPLICAS"
	// CoverageThisReplica means only the one that answered: the replicas share no database.
	// Any others answer with earlier reads until their time-to-live ends.
	CoverageThisReplica Coverage = "THIS_REPLICA"
	// CoverageUnknown means that the broker could not tell the other replicas.
	CoverageUnknown Coverage = "UNKNOWN"
)

var coverages = map[secretbrokerv1.RefreshResponse_Coverage]Coverage{
	secretbrokerv1.RefreshResponse_COVERAGE_ALL_REPLICAS:  CoverageAllReplicas,
	secretbrokerv1.RefreshResponse_COVERAGE_SOME_REPLICAS: CoverageSomeReplicas,
	secretbrokerv1.RefreshResponse_COVERAGE_THIS_REPLICA:  CoverageThisReplica,
}

// Refresh makes the broker read secrets from their stores now, at most once per second, and
// waits up to two seconds until no replica answers with an older read. A program that rotates
// a secret calls it after it has stored the new version. The caller needs a grant for the
// secrets, or the role RoleRotator or RoleResourceOwner on their integration.
//
// It succeeds even if configs fail; see RefreshResponse.Errors. It retries like Resolve, and
// the error is an *Error for the call as a whole.
func (c *Client) Refresh(ctx context.Context, req RefreshRequest) (*RefreshResponse, error) {
	out, err := call(ctx, c, c.watches.Refresh, &secretbrokerv1.RefreshRequest{IntegrationId: req.IntegrationID, Configs: req.Configs, Connector: req.Connector})
	if err != nil {
		return nil, err
	}
	return newRefreshResponse(out), nil
}

func newRefreshResponse(m *secretbrokerv1.RefreshResponse) *RefreshResponse {
	r := &RefreshResponse{
		Configs: make(map[string]Refreshed), Errors: make(map[string]ConfigError),
		Coverage: coverages[m.GetCoverage()], RequestID: m.GetRequestId(),
	}
	if r.Coverage == "" {
		r.Coverage = CoverageUnknown
	}
	for name, c := range m.GetConfigs() {
		if c.GetError() != nil {
			r.Errors[name] = newConfigError(name, c.GetError())
			continue
		}
		r.Configs[name] = Refreshed{c.GetVersion(), timeOf(c.GetFetchTime()), timeOf(c.GetSecretExpireTime())}
	}
	for _, replica := range m.GetUnacknowledged() {
		r.Unacknowledged = append(r.Unacknowledged, Replica{replica.GetId(), replica.GetName(), timeOf(replica.GetLastSeenTime())})
	}
	return r
}
