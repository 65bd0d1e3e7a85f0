package awssm

import (
	"fmt"
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (a *Settings) Facts() (f integration.Facts) {
	f.Add("AWS_ACCOUNT", "Account", a.AccountID)
	f.Add("AWS_CREDENTIAL", "Credential", string(a.Credential.Type))
	f.Add("AWS_BROKER_ROLE", "Broker's role", a.Credential.RoleARN)
	if a.Role != nil {
		f.Add("AWS_ROLE", "Role", a.Role.ARN)
		f.Add("AWS_EXTERNAL_ID", "External ID", a.Role.ExternalID)
		f.Add("AWS_SESSION_DURATION", "Session", fmt.Sprintf("for %s", integration.FormatDuration(a.Role.Duration)))
		f.Add("AWS_SOURCE_IDENTITY", "Source identity", a.Role.SourceIdentity)
		for _, key := range slices.Sorted(maps.Keys(a.Role.Tags)) {
			f.Add("AWS_SESSION_TAG", "Session tag", key+"="+a.Role.Tags[key])
		}
	}
	f.AddAll("AWS_STORE", "Store", a.Stores)
	if e := a.Events; e != nil {
		f.Add("AWS_EVENT_QUEUE", "Event queue", e.QueueURL)
		if e.Role != nil {
			f.Add("AWS_EVENT_ROLE", "Role for events", e.Role.ARN)
		}
	}
	if a.Role == nil {
		f.Add("AWS_REQUIRED_PERMISSION", "To allow", "secretsmanager:GetSecretValue on the secrets, to this identity")
	}
	return f
}
