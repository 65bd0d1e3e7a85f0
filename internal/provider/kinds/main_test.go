package kinds

import (
	"fmt"
)

const (
	tenantID = "11111111-2222-3333-4444-555555555555"
	clientID = "66666666-7777-8888-9999-aaaaaaaaaaaa"
)

// withSecret returns the file of an integration with a client secret.
func withSecret(id, secretFile string) string {
	return fmt.Sprintf("id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: %s\n  client_id: %s\n  credential: {type: client_secret, client_secret_file: %s}\n  vaults: [https://abc.vault.azure.net]\n",
		id, tenantID, clientID, secretFile)
}
