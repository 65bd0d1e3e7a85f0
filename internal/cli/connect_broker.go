package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/campaign"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// rotationBroker is what a campaign needs of a broker. The caller needs the role ROTATOR or
// RESOURCE_OWNER on the integrations.
type rotationBroker struct {
	client *client.Client
	// alone is set if the broker shares no database with other replicas.
	alone bool
}

// Refresh implements campaign.Broker.
func (b *rotationBroker) Refresh(ctx context.Context, integration string, references []string) (map[string]campaign.Fresh, error) {
	configs := make(map[string]string, len(references))
	for i, reference := range references {
		configs["reference-"+strconv.Itoa(i)] = reference
	}
	res, err := b.client.Refresh(ctx, client.RefreshRequest{IntegrationID: integration, Configs: configs})
	if err != nil {
		return nil, err
	}
	for _, e := range configErrors(res.Errors) {
		return nil, &client.Error{Reason: e.Reason, Message: fmt.Sprintf("%s: %s", configs[e.Config], e.Message), RequestID: res.RequestID}
	}
	switch res.Coverage {
	case client.CoverageAllReplicas:
	case client.CoverageThisReplica:
		b.alone = true
	default:
		return nil, errors.New("not all replicas of the broker have confirmed that they answer with the new version")
	}
	fresh := make(map[string]campaign.Fresh, len(configs))
	for config, read := range res.Configs {
		fresh[configs[config]] = campaign.Fresh{Version: read.Version, FetchTime: read.FetchTime}
	}
	return fresh, nil
}

// Reads implements campaign.Broker.
func (b *rotationBroker) Reads(ctx context.Context, integration string, of secret.Ref) ([]campaign.Read, error) {
	var all []campaign.Read
	for page, err := range b.client.ListUsage(ctx, client.ListUsageRequest{IntegrationID: integration, Filter: filterOfSecret(of)}) {
		if err != nil {
			return nil, err
		}
		for i := range page.Usage {
			all = append(all, readsOf(integration, &page.Usage[i])...)
		}
	}
	return all, nil
}

// filterOfSecret returns a filter for the uses of a secret. Neither stores nor names can have
// quotation marks.
func filterOfSecret(of secret.Ref) string {
	return `store = "` + of.Store + `" AND secret = "` + of.Name + `"`
}

// readsOf returns the reads of an entry of usage, one for each version.
func readsOf(integration string, u *client.Usage) []campaign.Read {
	read := campaign.Read{
		Integration: integration, Principal: u.Principal, Connector: u.Connector, Store: u.Store, Secret: u.Secret, JSONKey: u.JSONKey,
		Version: u.Version, LastTime: u.LastUseTime,
	}
	if len(u.Versions) == 0 { // an older broker
		return []campaign.Read{read}
	}
	reads := make([]campaign.Read, len(u.Versions))
	for i, v := range u.Versions {
		read.Version, read.LastTime, read.FirstTime = v.Version, v.LastUseTime, v.FirstUseTime
		read.RequestID, read.AuditSequence, read.Replica = v.RequestID, v.AuditSequence, v.Replica
		reads[i] = read
	}
	return reads
}

// memoryStore keeps the state of a campaign in the process only.
type memoryStore struct{}

func (memoryStore) Save(context.Context, *campaign.Campaign) error { return nil }
