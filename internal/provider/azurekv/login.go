package azurekv

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

const (
	// renewPause is the minimum time between two replacements of a credential after a
	// service refused its token. It keeps a service that refuses every token from
	// causing one token request per request.
	renewPause = 5 * time.Second
	// closeTimeout limits how long Close waits for the operations that it has
	// canceled.
	closeTimeout = 5 * time.Second
)

// identity is an identity in Entra ID, with the settings that configure it.
type identity struct {
	// section is the section with the settings tenant_id, client_id and credential.
	section            string
	tenantID, clientID string
	credential         Credential
}

// identity returns the identity that reads the vaults.
func (a *Settings) identity() identity {
	return identity{section: "azure", tenantID: a.TenantID, clientID: a.ClientID, credential: a.Credential}
}

// setting returns the full name of a setting of the identity.
func (id identity) setting(name string) string { return id.section + "." + name }

// named returns text, which names settings of the section azure, with the names of the
// identity's settings instead.
func (id identity) named(text string) string {
	if id.section == "azure" {
		return text
	}
	return strings.NewReplacer(
		"azure.tenant_id", id.setting("tenant_id"),
		"azure.client_id", id.setting("client_id"),
		"azure.credential.", id.setting("credential."),
	).Replace(text)
}

// login requests access tokens for one identity and gives them to C, the clients of a
// service.
//
// A service may refuse a token that the SDK considers valid and would send until it
// expires, for example after an administrator revoked the identity's sessions. The
// first request that gets such a refusal drops the credential. Every request that got
// one is sent once more with a new credential.
type login[C any] struct {
	cfg  provider.Config
	log  *slog.Logger
	id   identity
	opts azcore.ClientOptions // without a Transport
	http *http.Client         // for token requests
	// newCredential returns a new credential, built from the files that were read at
	// opening.
	newCredential func() (azcore.TokenCredential, error)
	newClients    func(azcore.ClientOptions, *tokenSource) (C, error)
	tasks         *task.Group

	mu      sync.Mutex
	current *session[C]
	renewed time.Time // when current replaced a session whose token was refused
}

// session is a credential and the clients that hold its tokens. A token has three
// caches (in the client, in MSAL and in tokenSource), which cannot be emptied. They
// are dropped together, by replacing the session.
type session[C any] struct {
	tokens  *tokenSource
	clients C
}

func newLogin[C any](ctx context.Context, cfg provider.Config, in *integration.Integration, id identity, roots *x509.CertPool,
	newClients func(azcore.ClientOptions, *tokenSource) (C, error),
) (*login[C], error) {
	l := &login[C]{
		cfg: cfg, log: cfg.Logger, id: id, opts: clientOptions(cfg, settingsOf(in)),
		http: newLoginClient(cfg, in, id, roots), newClients: newClients, tasks: task.NewGroup(),
	}
	opts := l.opts
	opts.Transport = l.http
	var err error
	if l.newCredential, err = credentialMaker(ctx, in, id, opts); err != nil {
		return nil, err
	}
	l.current, err = l.newSession()
	return l, err
}

// clientOptions returns the SDK's options for everything that sends a request. It does
// not configure the SDK's logging, because that would be process-wide.
func clientOptions(cfg provider.Config, a *Settings) azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: a.AuthorityHost},
		Telemetry: policy.TelemetryOptions{ApplicationID: "secretbroker"},
		Retry: policy.RetryOptions{
			MaxRetries:    int32(max(cfg.MaxRetries, -1)), //nolint:gosec // a handful
			RetryDelay:    100 * time.Millisecond,
			MaxRetryDelay: time.Second,
			ShouldRetry:   worthRetrying,
			// TryTimeout would also limit the wait for a token, which has a limit of
			// its own. The transport limits each exchange.
		},
	}
}

func (l *login[C]) newSession() (*session[C], error) {
	cred, err := l.newCredential()
	if err != nil {
		return nil, err
	}
	s := &session[C]{tokens: newTokenSource(l.cfg, l.log, l.id, cred, l.tasks)}
	if s.clients, err = l.newClients(l.opts, s.tokens); err != nil {
		return nil, err
	}
	return s, nil
}

func (l *login[C]) session() *session[C] {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// renew returns the session to use after host refused the token of old: a new session,
// or the one that another request has already created. It returns nil if a new session
// would not help.
func (l *login[C]) renew(old *session[C], host string) *session[C] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != old {
		return l.current
	}
	if l.id.credential.Type == ManagedIdentity {
		return nil // the token cache is process-wide: a new credential would get the same token
	}
	now := l.cfg.Now()
	if now.Sub(l.renewed) < renewPause {
		return nil
	}
	fresh, err := l.newSession()
	if err != nil {
		l.log.Error("a store refused the access token and the credential cannot be renewed", "host", host, "error", err)
		return nil
	}
	l.log.Warn("a store refused the access token; renewed the credential", "host", host)
	old.tokens.close()
	l.current, l.renewed = fresh, now
	return fresh
}

// request calls send, which sends a request to host, and once more with a new session if
// host refused the token.
func request[C, T any](ctx context.Context, l *login[C], host string, send func(context.Context, C) (T, error)) (T, error) {
	s := l.session()
	v, err := attempt(ctx, l, s, send)
	if refusedToken(err) {
		if fresh := l.renew(s, host); fresh != nil {
			v, err = attempt(ctx, l, fresh, send)
		}
	}
	return v, err
}

// attempt calls send in a goroutine of its own, because the SDK ignores ctx while it
// waits for a token that another caller acquires. attempt itself returns as soon as ctx
// ends.
func attempt[C, T any](ctx context.Context, l *login[C], s *session[C], send func(context.Context, C) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	s.tokens.touch()
	var none T
	started := l.tasks.Start(func(closing context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(closing, cancel)()
		var r result
		r.err = task.Contain(func() (err error) {
			r.value, err = send(ctx, s.clients)
			return err
		})
		done <- r
	})
	if !started {
		return none, storeerror.ErrClosed
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// close stops the renewal of tokens and waits a few seconds at most for requests that no
// caller waits for.
func (l *login[C]) close() error {
	l.session().tokens.close()
	err := l.tasks.Stop(closeTimeout)
	l.http.CloseIdleConnections()
	return err
}
