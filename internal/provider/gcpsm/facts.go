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
	if e := g.Events; e != nil {
		f.Add("GCP_EVENT_SUBSCRIPTION", "Event subscription", e.Subscription)
		if as := g.eventsLogin(); e.ownsIdentity() {
			f.Add("GCP_EVENT_CREDENTIAL", "Credential for events", string(as.credential.Type))
			f.Add("GCP_EVENT_SERVICE_ACCOUNT", "Service account for events", as.account)
		}
		f.Add("GCP_REQUIRED_EVENT_ROLE", "Role to grant", "Pub/Sub Subscriber (roles/pubsub.subscriber), to the identity that receives events, on the subscription only")
	}
	return f
}
