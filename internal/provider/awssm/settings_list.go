package awssm

import (
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// List implements integration.Settings.
func (a *Settings) List() []integration.Setting {
	settings := slices.Concat(
		integration.Elements("aws.stores", a.Stores),
		[]integration.Setting{
			{Name: "aws.account_id", Value: a.AccountID},
		},
	)
	for _, id := range a.identities() {
		settings = append(settings, id.list()...)
	}
	if a.Events != nil {
		settings = append(settings, integration.Setting{Name: "aws.events.queue_url", Value: a.Events.QueueURL})
	}
	return slices.Concat(settings,
		integration.Table("aws.endpoints", a.Endpoints),
		[]integration.Setting{
			{Name: "aws.sts_region", Value: a.STSRegion},
			{Name: "aws.sts_endpoint", Value: a.STSEndpoint},
			{Name: "aws.rotation_dates", Value: integration.IfSet(a.RotationDates)},
			{Name: "aws.private_endpoint", Value: integration.IfSet(a.PrivateEndpoint)},
			{Name: "aws.ca_file", Value: integration.IfFile(a.CAFile)},
		},
		integration.Table("aws.dial", a.Dial),
	)
}

// list returns the settings of an identity.
func (id identity) list() []integration.Setting {
	c, at := id.credential, id.credentialAt
	settings := []integration.Setting{
		{Name: at + ".type", Value: string(c.Type)},
		{Name: at + ".profile", Value: c.Profile},
		{Name: at + ".role_arn", Value: c.RoleARN},
	}
	if r, at := id.role, id.roleAt; r != nil {
		settings = slices.Concat(settings, []integration.Setting{
			{Name: at + ".arn", Value: r.ARN},
			{Name: at + ".external_id", Value: r.ExternalID},
			{Name: at + ".duration", Value: r.Duration.String()},
			{Name: at + ".source_identity", Value: r.SourceIdentity},
		}, integration.Table(at+".tags", r.Tags))
	}
	return settings
}
