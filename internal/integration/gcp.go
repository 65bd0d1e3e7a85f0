package integration

import (
	"slices"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// GCP is how an integration reaches Google Cloud's Secret Manager.
type GCP struct {
	// Stores are the projects, and locations of projects, whose secrets may be
	// read, canonical (secret.Kind.ParseStore). Nothing else is asked for.
	Stores []string
	// ImpersonateServiceAccount is the e-mail address of the service account that
	// reads, whose tokens Credential is exchanged for; empty to read as Credential.
	ImpersonateServiceAccount string
	Credential                GCPCredential
	// CAFile is a PEM file of roots added to the system's, for all of Hosts; empty
	// for none.
	CAFile string
	// Dial maps one of Hosts to the "host:port" to connect to instead. Name and
	// certificate checks stay those of the host name.
	Dial map[string]string
	// PrivateEndpoint says that the names of Hosts may lead to private addresses.
	// Without it they are refused.
	PrivateEndpoint bool
}

// GCPCredentialType is a way to prove an identity to Google.
type GCPCredentialType string

// The credential types, by Google's names for them.
const (
	// GCPMetadataServer is the service account of the machine or, in GKE, of the
	// Kubernetes service account, from the metadata server.
	GCPMetadataServer GCPCredentialType = "metadata_server"
	// GCPWorkloadIdentityFederation exchanges another identity provider's token.
	GCPWorkloadIdentityFederation GCPCredentialType = "workload_identity_federation"
	// GCPServiceAccountKey is a service account's own key.
	GCPServiceAccountKey GCPCredentialType = "service_account_key"
	// GCPApplicationDefault is what Google's own tools would find.
	GCPApplicationDefault GCPCredentialType = "application_default"
)

// GCPCredential names the files a Google credential is made of. Only the fields of
// its Type are set.
type GCPCredential struct {
	Type GCPCredentialType
	// ConfigFile is the configuration of an external account, as "gcloud iam
	// workload-identity-pools create-cred-config" writes it. The token that it
	// names is read again when a new access token is needed.
	ConfigFile string
	// KeyFile is a service account's key in JSON form.
	KeyFile string
}

// The hosts that issue access tokens. Source: the API discovery documents of
// OAuth 2.0, Security Token Service and IAM Service Account Credentials.
const (
	GCPOAuthHost          = "oauth2.googleapis.com"
	GCPSTSHost            = "sts.googleapis.com"
	GCPIAMCredentialsHost = "iamcredentials.googleapis.com"
)

// Endpoints returns the hosts of Secret Manager that have the secrets of Stores,
// each once.
func (g *GCP) Endpoints() []string {
	hosts := make([]string, 0, 1)
	for _, s := range g.Stores {
		if host := secret.GCPEndpoint(s); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// TokenHosts returns the hosts that access tokens may be asked of. The metadata
// server is not among them.
func (g *GCP) TokenHosts() []string {
	var hosts []string
	switch g.Credential.Type {
	case GCPWorkloadIdentityFederation:
		// The file may ask for a service account's token too.
		return []string{GCPSTSHost, GCPIAMCredentialsHost}
	case GCPServiceAccountKey:
		hosts = []string{GCPOAuthHost}
	case GCPApplicationDefault:
		return []string{GCPOAuthHost, GCPSTSHost, GCPIAMCredentialsHost}
	}
	if g.ImpersonateServiceAccount != "" {
		hosts = append(hosts, GCPIAMCredentialsHost)
	}
	return hosts
}

func (g *GCP) settings() []Setting {
	return slices.Concat(
		elements("gcp.projects", g.Stores),
		[]Setting{
			{Name: "gcp.credential.type", Value: string(g.Credential.Type)},
			{Name: "gcp.credential.config_file", Value: ifFile(g.Credential.ConfigFile)},
			{Name: "gcp.credential.key_file", Value: ifFile(g.Credential.KeyFile)},
			{Name: "gcp.impersonate_service_account", Value: g.ImpersonateServiceAccount},
			{Name: "gcp.private_endpoint", Value: ifSet(g.PrivateEndpoint)},
			{Name: "gcp.ca_file", Value: ifFile(g.CAFile)},
		},
		table("gcp.dial", g.Dial),
	)
}
