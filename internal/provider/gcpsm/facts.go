package gcpsm

import (
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (g *Settings) Facts() (f integration.Facts) {
	f.Add("GCP_CREDENTIAL", "Credential", string(g.Credential.Type))
	f.Add("GCP_SERVICE_ACCOUNT", "Service account", g.ImpersonateServiceAccount)
	f.AddAll("GCP_PROJECT", "Project", g.Stores)
	if g.ImpersonateServiceAccount != "" {
		f.Add("GCP_REQUIRED_IMPERSONATION_ROLE", "Role to grant", "Service Account Token Creator (roles/iam.serviceAccountTokenCreator), to the credential's identity, on the service account")
	}
	f.Add("GCP_REQUIRED_ROLE", "Role to grant", "Secret Manager Secret Accessor (roles/secretmanager.secretAccessor), to the identity that reads, on the secrets")
	return f
}
