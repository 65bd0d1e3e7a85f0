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
// Sessions (azurekv.go). A vault may refuse a token before its expiry, but the SDK's
// caches keep the token until then and cannot be emptied. The store therefore
// replaces the credential and all clients together, as one session.
//
// The package has no process-wide state, with one exception in the SDK: managed
// identities share one token cache per process.
package azurekv

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// renewPause is the minimum time between two replacements of a credential after a
	// vault refused its token. It keeps a vault that refuses every token from causing
	// one token request per read.
	renewPause = 5 * time.Second
	// closeTimeout limits how long Close waits for the operations that it has
	// canceled.
	closeTimeout = 5 * time.Second
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
	cfg   provider.Config
	log   *slog.Logger
	azure *Settings
	in    *integration.Integration
	// hosts are the vaults that may be read, from canonical URL to host.
	hosts map[string]string

	vaultHTTP *http.Client
	loginHTTP *http.Client
	// newCredential returns a new credential, built from the files that were read at
	// opening.
	newCredential func() (azcore.TokenCredential, error)
	tasks         *task.Group

	mu      sync.Mutex
	current *session
	renewed time.Time // when current replaced a session whose token was refused
}

// session is a credential and the clients that hold its tokens. A token has three
// caches (in the client, in MSAL and in tokenSource), which cannot be emptied. They
// are dropped together, by replacing the session.
type session struct {
	tokens  *tokenSource
	clients map[string]*azsecrets.Client // from canonical vault URL to client
}

func open(ctx context.Context, cfg provider.Config, in *integration.Integration) (*store, error) {
	if err := checkSettings(in); err != nil {
		return nil, err
	}
	cfg = cfg.For(in)
	s := &store{
		cfg:   cfg,
		log:   cfg.Logger,
		azure: settingsOf(in),
		in:    in,
		hosts: make(map[string]string, len(settingsOf(in).Vaults)),
		tasks: task.NewGroup(),
	}
	for _, v := range settingsOf(in).Vaults {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, storeerror.Setup("azure.vaults has an entry that is not the https:// URL of a vault")
		}
		s.hosts[v] = u.Host
	}
	roots, err := loadRoots(settingsOf(in).CAFile)
	if err != nil {
		return nil, err
	}
	s.vaultHTTP = newVaultClient(cfg, in, roots, s.hosts)
	s.loginHTTP = newLoginClient(cfg, in, roots)
	if s.newCredential, err = credentialMaker(ctx, in, s.clientOptions(s.loginHTTP)); err != nil {
		return nil, err
	}
	if s.current, err = s.newSession(); err != nil {
		return nil, err
	}
	return s, nil
}

// clientOptions returns the SDK's options for everything that sends through client.
// It does not configure the SDK's logging, because that would be process-wide.
func (s *store) clientOptions(client *http.Client) azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: s.azure.AuthorityHost},
		Telemetry: policy.TelemetryOptions{ApplicationID: "secretbroker"},
		Transport: client,
		Retry: policy.RetryOptions{
			MaxRetries:    int32(max(s.cfg.MaxRetries, -1)), //nolint:gosec // a handful
			RetryDelay:    100 * time.Millisecond,
			MaxRetryDelay: time.Second,
			ShouldRetry:   worthRetrying,
			// TryTimeout would also limit the wait for a token, which has a limit of
			// its own. The transport limits each exchange.
		},
	}
}

func (s *store) newSession() (*session, error) {
	cred, err := s.newCredential()
	if err != nil {
		return nil, err
	}
	ses := &session{
		tokens:  newTokenSource(s.cfg, s.log, s.azure, cred, s.tasks),
		clients: make(map[string]*azsecrets.Client, len(s.hosts)),
	}
	for vault := range s.hosts {
		opts := &azsecrets.ClientOptions{ClientOptions: s.clientOptions(s.vaultHTTP)}
		if ses.clients[vault], err = azsecrets.NewClient(vault, ses.tokens, opts); err != nil {
			return nil, storeerror.Setup("azure.vaults: cannot create a client for a vault").WithCause(err)
		}
	}
	return ses, nil
}

// Fetch implements provider.Provider.
//
// A vault may refuse a token that the SDK considers valid and would send until it
// expires, for example after an administrator revoked the identity's sessions. The
// first Fetch that gets such a refusal drops the credential. Every Fetch that got one
// tries once more with a new credential.
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
	ses := s.session()
	a, err := s.read(ctx, ses, ref)
	if refusedToken(err) {
		if fresh := s.renew(ses, host); fresh != nil {
			a, err = s.read(ctx, fresh, ref)
		}
	}
	if err != nil {
		return nil, explainRead(ctx, host, err)
	}
	return a.check(host, ref, s.cfg.Now())
}

func (s *store) session() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// renew returns the session to use after a vault refused the token of old: a new
// session, or the one that another Fetch has already created. It returns nil if a new
// session would not help.
func (s *store) renew(old *session, host string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != old {
		return s.current
	}
	if s.azure.Credential.Type == ManagedIdentity {
		return nil // the token cache is process-wide: a new credential would get the same token
	}
	now := s.cfg.Now()
	if now.Sub(s.renewed) < renewPause {
		return nil
	}
	fresh, err := s.newSession()
	if err != nil {
		s.log.Error("a vault refused the access token and the credential cannot be renewed", "vault", host, "error", err)
		return nil
	}
	s.log.Warn("a vault refused the access token; renewed the credential", "vault", host)
	old.tokens.close()
	s.current, s.renewed = fresh, now
	return fresh
}

// read reads a secret from the vault. It calls the SDK in a goroutine of its own,
// because the SDK ignores ctx while it waits for a token that another caller
// acquires. read itself returns as soon as ctx ends.
func (s *store) read(ctx context.Context, ses *session, ref secret.Ref) (*answer, error) {
	type result struct {
		answer *answer
		err    error
	}
	done := make(chan result, 1)
	ses.tokens.touch()
	started := s.tasks.Start(func(closing context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(closing, cancel)()
		a := &answer{began: s.cfg.Now()}
		err := task.Contain(func() (err error) {
			a.GetSecretResponse, err = ses.clients[ref.Store].GetSecret(ctx, ref.Name, ref.Version, nil)
			return err
		})
		done <- result{a, err}
	})
	if !started {
		return nil, storeerror.ErrClosed
	}
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close implements provider.Provider. It waits a few seconds at most for token
// requests that no caller waits for, and returns an error if some of them are still
// running.
func (s *store) Close() error {
	s.session().tokens.close()
	err := s.tasks.Stop(closeTimeout)
	s.vaultHTTP.CloseIdleConnections()
	s.loginHTTP.CloseIdleConnections()
	return err
}
