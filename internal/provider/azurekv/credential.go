package azurekv

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// checkSettings refuses settings with which the first request would fail.
func checkSettings(in *integration.Integration, id identity) error {
	if in.Kind != secret.KindAzureKeyVault || settingsOf(in) == nil {
		return storeerror.Setup("the integration has no azure settings")
	}
	a := settingsOf(in)
	if len(a.Vaults) == 0 {
		return storeerror.Setup("azure.vaults is empty; list the vaults that the integration may read")
	}
	if u, err := url.Parse(a.AuthorityHost); err != nil || u.Scheme != "https" || u.Host == "" {
		return storeerror.Setup("azure.authority_host is not an https:// URL")
	}
	switch id.credential.Type {
	case ClientSecret, ClientCertificate, WorkloadIdentity:
		// The SDK would replace empty values by those in the process's environment.
		if id.tenantID == "" {
			return storeerror.Setup("%s is missing", id.setting("tenant_id"))
		}
		if id.clientID == "" {
			return storeerror.Setup("%s is missing", id.setting("client_id"))
		}
	}
	return nil
}

// credentialMaker reads the files of an identity's credential and returns a func that
// creates a new instance, which does not hold the tokens of earlier ones.
func credentialMaker(ctx context.Context, in *integration.Integration, id identity, opts azcore.ClientOptions) (func() (azcore.TokenCredential, error), error) {
	offline := settingsOf(in).DisableInstanceDiscovery
	switch id.credential.Type {
	case ClientSecret:
		return clientSecret(ctx, in, id, opts)
	case ClientCertificate:
		return clientCertificate(ctx, in, id, opts)
	case WorkloadIdentity:
		return workloadIdentity(id, offline, opts)
	case ManagedIdentity:
		return func() (azcore.TokenCredential, error) {
			o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: opts}
			if id.clientID != "" {
				o.ID = azidentity.ClientID(id.clientID)
			}
			cred, err := azidentity.NewManagedIdentityCredential(o)
			return made(cred, err, id.named("this environment's managed identity cannot be used; Service Fabric is not supported, and Cloud Shell does not accept azure.client_id"))
		}, nil
	case DefaultCredential:
		return func() (azcore.TokenCredential, error) {
			cred, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
				ClientOptions:            opts,
				DisableInstanceDiscovery: offline,
				TenantID:                 id.tenantID,
			})
			return made(cred, err, "the default credential cannot be used; check the AZURE_* environment variables of the broker")
		}, nil
	default:
		return nil, storeerror.Setup("%s is not one of client_secret, client_certificate, workload_identity, managed_identity, default", id.setting("credential.type"))
	}
}

func clientSecret(ctx context.Context, in *integration.Integration, id identity, opts azcore.ClientOptions) (func() (azcore.TokenCredential, error), error) {
	setting := id.setting("credential.client_secret_file")
	b, err := egress.ReadCredential(ctx, in.Stored(setting), setting, id.credential.ClientSecretFile)
	if err != nil {
		return nil, err
	}
	text := string(b)
	clear(b)
	return func() (azcore.TokenCredential, error) {
		cred, err := azidentity.NewClientSecretCredential(id.tenantID, id.clientID, text, &azidentity.ClientSecretCredentialOptions{
			ClientOptions: opts, DisableInstanceDiscovery: settingsOf(in).DisableInstanceDiscovery,
		})
		return made(cred, err, id.named("cannot create a credential from azure.tenant_id, azure.client_id and azure.credential.client_secret_file"))
	}, nil
}

func clientCertificate(ctx context.Context, in *integration.Integration, id identity, opts azcore.ClientOptions) (func() (azcore.TokenCredential, error), error) {
	setting := id.setting("credential.certificate_file")
	b, err := egress.ReadPrivateKey(ctx, in.Stored(setting), setting, id.credential.CertificateFile)
	if err != nil {
		return nil, err
	}
	certs, key, err := azidentity.ParseCertificates(b, nil)
	if err != nil { // the cause may quote the content
		return nil, storeerror.Setup("%s: %s does not contain a certificate and its unencrypted RSA key in PEM form", setting, egress.CredentialSource(id.credential.CertificateFile))
	}
	return func() (azcore.TokenCredential, error) {
		cred, err := azidentity.NewClientCertificateCredential(id.tenantID, id.clientID, certs, key, &azidentity.ClientCertificateCredentialOptions{
			ClientOptions: opts, DisableInstanceDiscovery: settingsOf(in).DisableInstanceDiscovery,
			SendCertificateChain: id.credential.SendCertificateChain,
		})
		return made(cred, err, setting+id.named(": cannot create a credential from it; the key must be an RSA key that belongs to the certificate, and azure.tenant_id a tenant's id"))
	}, nil
}

// workloadIdentity exchanges the token in a file, typically that of a Kubernetes
// service account. The SDK's own WorkloadIdentityCredential caches the file's content
// for ten minutes, invalid tokens included; this one reads the file for every
// exchange.
func workloadIdentity(id identity, offline bool, opts azcore.ClientOptions) (func() (azcore.TokenCredential, error), error) {
	setting := id.setting("credential.token_file")
	if _, err := readFile(setting, id.credential.TokenFile); err != nil {
		return nil, err
	}
	assertion := func(context.Context) (string, error) {
		b, err := readFile(setting, id.credential.TokenFile)
		if err != nil {
			// The SDK keeps the error chain only for errors of this type.
			return "", errors.Join(azidentity.NewCredentialUnavailableError("federated token"), err)
		}
		return string(b), nil
	}
	return func() (azcore.TokenCredential, error) {
		cred, err := azidentity.NewClientAssertionCredential(id.tenantID, id.clientID, assertion, &azidentity.ClientAssertionCredentialOptions{
			ClientOptions: opts, DisableInstanceDiscovery: offline,
		})
		return made(cred, err, id.named("cannot create a credential from azure.tenant_id and azure.client_id"))
	}, nil
}

func made(cred azcore.TokenCredential, err error, fault string) (azcore.TokenCredential, error) {
	if err != nil {
		return nil, storeerror.Setup("%s", fault).WithCause(err)
	}
	return cred, nil
}

func readFile(setting, path string) ([]byte, error) { return egress.ReadFile(setting, path) }

// loadRoots returns the system's roots and those in path. If path is empty it returns
// nil, which means the system's roots.
func loadRoots(path string) (*x509.CertPool, error) { return egress.LoadRoots("azure.ca_file", path) }
