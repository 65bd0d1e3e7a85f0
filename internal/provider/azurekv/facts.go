package azurekv

import (
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (a *Settings) Facts() (f integration.Facts) {
	f.Add("AZURE_TENANT_ID", "Tenant ID", a.TenantID)
	f.Add("AZURE_CLIENT_ID", "Client ID", a.ClientID)
	f.Add("AZURE_CREDENTIAL", "Credential", string(a.Credential.Type))
	f.Add("AZURE_LOGIN_AUTHORITY", "Login authority", a.AuthorityHost)
	f.AddAll("AZURE_VAULT", "Vault", a.Vaults)
	f.Add("AZURE_REQUIRED_ROLE", "Role to assign", "Key Vault Secrets User, to this identity, on each vault")
	return f
}
