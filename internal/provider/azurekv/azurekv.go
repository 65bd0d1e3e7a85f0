// Package azurekv reads secrets from Azure Key Vault.
//
// It owns everything that is specific to Azure: credentials and their tokens, the
// connections to the vaults and to the login authority, and the interpretation of
// their responses. It keeps no value. Authorization, caching and limits on requests
// belong to its callers.
//
// Requests are sent only to the integration's vaults and to its login authority (see
// newVaultClient and newLoginClient), by two separate clients, so that no access
// token reaches a host of the other kind. The names of these hosts must not resolve
// to internal addresses, see egress.Dialer.
//
// Tokens (token.go). The SDK's credentials hold a lock during a token request, use
// the context of the first caller, and send a new request with each read after a
// failure. A tokenSource between the vault clients and the credential avoids all
// three.
//
// Sessions (login.go). A service may refuse a token before its expiry, but the SDK's
// caches keep the token until then and cannot be emptied. A login therefore replaces
// the credential and all clients together, as one session.
//
// The package has no process-wide state, with one exception in the SDK: managed
// identities share one token cache per process.
package azurekv

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Opener returns the provider.Opener of Azure Key Vault. Opening reads the
// integration's files and sends no request. Its errors are *secret.Error with
// ReasonStoreAuthenticationFailed and name the setting or file to fix, never a
// file's content.
func Opener(cfg provider.Config) provider.Opener {
	return func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
		return open(ctx, cfg, in)
	}
}

// store reads the vaults of one integration.
type store struct {
	*login[vaultClients]
	azure *Settings
	in    *integration.Integration
	// hosts are the vaults that may be read, from canonical URL to host.
	hosts     map[string]string
	vaultHTTP *http.Client
}

// vaultClients are clients by canonical vault URL.
type vaultClients map[string]*azsecrets.Client

func open(ctx context.Context, cfg provider.Config, in *integration.Integration) (*store, error) {
	a := settingsOf(in)
	if a == nil {
		a = &Settings{}
	}
	if err := checkSettings(in, a.identity()); err != nil {
		return nil, err
	}
	cfg = cfg.For(in)
	s := &store{azure: a, in: in, hosts: make(map[string]string, len(a.Vaults))}
	for _, v := range a.Vaults {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, storeerror.Setup("azure.vaults has an entry that is not the https:// URL of a vault")
		}
		s.hosts[v] = u.Host
	}
	roots, err := loadRoots(a.CAFile)
	if err != nil {
		return nil, err
	}
	s.vaultHTTP = newVaultClient(cfg, in, roots, s.hosts)
	s.login, err = newLogin(ctx, cfg, in, a.identity(), roots, s.newClients)
	return s, err
}

// newClients creates the clients of a session. It does not use s.login.
func (s *store) newClients(opts azcore.ClientOptions, tokens *tokenSource) (vaultClients, error) {
	clients := make(vaultClients, len(s.hosts))
	opts.Transport = s.vaultHTTP
	for vault := range s.hosts {
		var err error
		if clients[vault], err = azsecrets.NewClient(vault, tokens, &azsecrets.ClientOptions{ClientOptions: opts}); err != nil {
			return nil, storeerror.Setup("azure.vaults: cannot create a client for a vault").WithCause(err)
		}
	}
	return clients, nil
}

// Fetch implements provider.Provider.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindAzureKeyVault); err != nil {
		return nil, err
	}
	host, ok := s.hosts[ref.Store]
	if !ok {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the vault is not one of the integration's; add it to azure.vaults")
	}
	seen := &trace{}
	sec, err := s.fetch(withTrace(ctx, seen), host, ref)
	var e *secret.Error
	if errors.As(err, &e) && e.Reason == secret.ReasonStoreUnavailable && seen.answered() {
		return nil, e.WithCause(storeerror.Answered(e.Cause))
	}
	return sec, err
}

func (s *store) fetch(ctx context.Context, host string, ref secret.Ref) (*secret.Secret, error) {
	a, err := request(ctx, s.login, host, func(ctx context.Context, clients vaultClients) (*answer, error) {
		a := &answer{began: s.cfg.Now()}
		var err error
		a.GetSecretResponse, err = clients[ref.Store].GetSecret(ctx, ref.Name, ref.Version, nil)
		return a, err
	})
	if err != nil {
		return nil, explainRead(ctx, host, err)
	}
	return a.check(host, ref, s.cfg.Now())
}

// Close implements provider.Provider. It waits a few seconds at most for token
// requests that no caller waits for, and returns an error if some of them are still
// running.
func (s *store) Close() error {
	err := s.close()
	s.vaultHTTP.CloseIdleConnections()
	return err
}
