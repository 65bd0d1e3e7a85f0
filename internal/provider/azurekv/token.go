package azurekv

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// tokenMargin is how long a token must still be valid to be handed out.
	tokenMargin = time.Minute
	// tokenAhead is how long before its end a token's successor is asked for. The SDK's
	// own caches give up a token five minutes before its end.
	tokenAhead = 5 * time.Minute
	// maxPurposes bounds the tokens that are held: what they are for is said by vaults.
	maxPurposes = 8
)

var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// tokenSource stands between the vault clients and a credential, because the
// SDK's credentials hold a lock during their requests, use the context of
// whoever came first, and ask again with each read after a failure. It has a
// credential.Source for each purpose of a token.
//
// It is safe for concurrent use. Its errors are *secret.Error, the caller's
// context error, or storeerror.ErrClosed.
type tokenSource struct {
	cred    azcore.TokenCredential
	azure   *Settings
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
	tasks   *task.Group

	mu         sync.Mutex
	held       map[purpose]*credential.Source[azcore.AccessToken]
	challenged time.Time // when claims that are not held were last asked for
	closed     bool
}

// purpose is what an access token is for.
type purpose struct {
	tenant, scopes, claims string
	cae                    bool
}

// token is an access token and its life.
type token = credential.Held[azcore.AccessToken]

func newTokenSource(cfg provider.Config, log *slog.Logger, a *Settings, cred azcore.TokenCredential, group *task.Group) *tokenSource {
	return &tokenSource{
		cred: cred, azure: a, timeout: cfg.LoginTimeout, now: cfg.Now, log: log, tasks: group,
		held: make(map[purpose]*credential.Source[azcore.AccessToken]),
	}
}

// touch says that a read uses the tokens, which the SDK's clients hold on to as well.
func (t *tokenSource) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.held {
		s.Touch()
	}
}

// close ends the renewal of tokens by the clock.
func (t *tokenSource) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, s := range t.held {
		s.Close()
	}
}

// GetToken implements azcore.TokenCredential.
func (t *tokenSource) GetToken(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if t.hasTenant() {
		// The vault says which tenant it is in, by its id. Tokens are asked for in
		// the integration's tenant alone, which may be given by a domain name.
		asked, own := opts.TenantID, t.azure.TenantID
		if !strings.EqualFold(asked, own) && uuid.MatchString(asked) && uuid.MatchString(own) {
			return azcore.AccessToken{}, wrongTenant(asked)
		}
		opts.TenantID = own
	}
	s, err := t.source(opts)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	h, err := s.Get(ctx)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return h.Value, nil
}

func (t *tokenSource) hasTenant() bool {
	switch t.azure.Credential.Type {
	case ClientSecret, ClientCertificate, WorkloadIdentity:
		return true
	default:
		return false
	}
}

// source returns what holds the tokens of a purpose. A vault asks for claims because it
// refused the token without them; one that asks for others each time gets no token for
// them but after a pause.
func (t *tokenSource) source(opts policy.TokenRequestOptions) (*credential.Source[azcore.AccessToken], error) {
	p := purpose{opts.TenantID, strings.Join(opts.Scopes, " "), opts.Claims, opts.EnableCAE}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.held[p]; s != nil {
		return s, nil
	}
	now := t.now()
	if p.claims != "" && !t.challenged.IsZero() && now.Sub(t.challenged) < renewPause {
		return nil, secret.Errorf(secret.ReasonStoreAuthenticationFailed,
			"a vault refuses one access token after the other; look at the sign-in logs and the Conditional Access policies of the integration's identity")
	}
	if len(t.held) == maxPurposes {
		t.drop()
	}
	if p.claims != "" {
		t.challenged = now
	}
	s := t.newSource(p, opts)
	if t.closed {
		s.Close()
	}
	t.held[p] = s
	return s, nil
}

// drop makes room for another purpose. t.mu is held.
func (t *tokenSource) drop() {
	for p, s := range t.held {
		if p.claims != "" || len(t.held) == maxPurposes {
			s.Close()
			delete(t.held, p)
		}
	}
}

func (t *tokenSource) newSource(p purpose, opts policy.TokenRequestOptions) *credential.Source[azcore.AccessToken] {
	c := credential.Config[azcore.AccessToken]{
		Timeout: t.timeout, Now: t.now, Tasks: t.tasks, Closed: storeerror.ErrClosed,
		Margin: func(time.Duration) time.Duration { return tokenMargin },
		Ahead:  func(life time.Duration) time.Duration { return min(tokenAhead, life/2) },
		Failed: func(err error) { t.log.Warn("no access token", "error", err) },
		Acquire: func(ctx context.Context, _ *token) (*token, error) {
			h, err := t.acquire(ctx, opts)
			if err == nil && p.claims != "" {
				t.forget(purpose{p.tenant, p.scopes, "", p.cae})
			}
			return h, err
		},
	}
	if t.azure.Credential.Type == WorkloadIdentity {
		c.Inputs = credential.Files(t.azure.Credential.TokenFile)
	}
	return credential.New(c)
}

// forget drops a token that a vault has refused by asking for one with claims.
func (t *tokenSource) forget(p purpose) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.held[p]; s != nil {
		s.Forget(func(azcore.AccessToken) bool { return true })
	}
}

func (t *tokenSource) acquire(ctx context.Context, opts policy.TokenRequestOptions) (*token, error) {
	seen := &trace{}
	var got azcore.AccessToken
	err := task.Contain(func() (err error) {
		got, err = t.cred.GetToken(withTrace(ctx, seen), opts)
		return err
	})
	if err == nil && got.Token == "" {
		err = errors.New("azurekv: the credential gave an empty token")
	}
	if err != nil {
		return nil, explainToken(ctx, t.azure, t.timeout, err, seen)
	}
	// One that has ended by this clock is used for a moment: the clock may be wrong, and
	// the vault's is what counts.
	now := t.now()
	return &token{Value: got, Began: now, Life: max(got.ExpiresOn.Sub(now), tokenMargin+credential.RefusalPause)}, nil
}
