package azurekv

import (
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (a *Settings) Facts() (f integration.Facts) {
	f.Add("Tenant ID", a.TenantID)
	f.Add("Client ID", a.ClientID)
	f.Add("Credential", string(a.Credential.Type))
	f.Add("Login authority", a.AuthorityHost)
	f.AddAll("Vault", a.Vaults)
	f.Add("Role to assign", "Key Vault Secrets User, to this identity, on each vault")
	return f
}
