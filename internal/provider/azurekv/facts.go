package azurekv

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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
	if q := a.Events.QueueURL; q != "" {
		f.Add("AZURE_EVENT_QUEUE", "Queue of events", q)
		f.Add("AZURE_EVENT_CLIENT_ID", "Client ID that receives events", a.Events.ClientID)
		f.Add("AZURE_EVENT_REQUIRED_ROLE", "Role to assign", queueRole+", to the identity that receives events, on the queue")
		f.Add("AZURE_EVENT_COMMANDS", "Commands that deliver events to the queue", a.eventCommands())
	}
	return f
}

// eventCommands returns commands of Azure's CLI that create the queue, permit the identity
// to receive from it, and let each vault's events be delivered to it.
func (a *Settings) eventCommands() string {
	account, _, _ := strings.Cut(a.Events.host(), ".")
	queue := a.Events.QueueURL[strings.LastIndexByte(a.Events.QueueURL, '/')+1:]
	assignee := cmp.Or(a.eventIdentity().clientID, "<CLIENT_ID>")
	vaults := make([]string, len(a.Vaults))
	for i, v := range a.Vaults {
		vaults[i], _, _ = strings.Cut(strings.TrimPrefix(v, "https://"), ".")
	}
	slices.Sort(vaults)
	return fmt.Sprintf(`az storage queue create --name %[2]s --account-name %[1]s --auth-mode login
QUEUE=$(az storage account show --name %[1]s --query id --output tsv)/queueServices/default/queues/%[2]s
az role assignment create --assignee "%[3]s" --role "%[4]s" --scope $QUEUE
for VAULT in %[5]s; do
  GROUP=$(az keyvault show --name $VAULT --query resourceGroup --output tsv)
  az eventgrid system-topic create --name $VAULT-events --resource-group $GROUP \
    --location $(az keyvault show --name $VAULT --query location --output tsv) \
    --topic-type Microsoft.KeyVault.vaults --source $(az keyvault show --name $VAULT --query id --output tsv) \
    --identity systemassigned
  az role assignment create --role "Storage Queue Data Message Sender" --scope $QUEUE \
    --assignee-principal-type ServicePrincipal --assignee-object-id $(az eventgrid system-topic show \
      --name $VAULT-events --resource-group $GROUP --query identity.principalId --output tsv)
  az eventgrid system-topic event-subscription create --name secretbroker \
    --system-topic-name $VAULT-events --resource-group $GROUP \
    --delivery-identity systemassigned --delivery-identity-endpoint-type storagequeue \
    --delivery-identity-endpoint $QUEUE --included-event-types \
    Microsoft.KeyVault.SecretNewVersionCreated Microsoft.KeyVault.SecretNearExpiry \
    Microsoft.KeyVault.SecretExpired Microsoft.KeyVault.CertificateNewVersionCreated
done`, account, queue, assignee, queueRole, strings.Join(vaults, " "))
}
