package awssm

import (
	"fmt"
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (a *Settings) Facts() (f integration.Facts) {
	f.Add("Account", a.AccountID)
	f.Add("Credential", string(a.Credential.Type))
	f.Add("Broker's role", a.Credential.RoleARN)
	if a.Role != nil {
		f.Add("Role", a.Role.ARN)
		f.Add("External ID", a.Role.ExternalID)
		f.Add("Session", fmt.Sprintf("for %s", integration.FormatDuration(a.Role.Duration)))
		f.Add("Source identity", a.Role.SourceIdentity)
		for _, key := range slices.Sorted(maps.Keys(a.Role.Tags)) {
			f.Add("Session tag", key+"="+a.Role.Tags[key])
		}
	}
	f.AddAll("Store", a.Stores)
	if a.Role == nil {
		f.Add("To allow", "secretsmanager:GetSecretValue on the secrets, to this identity")
	}
	return f
}
