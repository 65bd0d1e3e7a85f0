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
	// tokenMargin is the minimum remaining life of a token that GetToken returns.
	tokenMargin = time.Minute
	// tokenAhead is how long before the end of a token its successor is requested.
	// The SDK's own caches drop a token five minutes before its end.
	tokenAhead = 5 * time.Minute
	// maxPurposes limits the number of tokens that are held, because the vaults
	// choose the purposes.
	maxPurposes = 8
)

var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// tokenSource sits between the clients of a service and a credential. It is needed because
// the SDK's credentials hold a lock during their requests, use the context of the
// first caller, and send a new request with each read after a failure. It has one
// credential.Source for each purpose of a token.
//
// It is safe for concurrent use. Its errors are *secret.Error, the caller's context
// error, or storeerror.ErrClosed.
type tokenSource struct {
	cred    azcore.TokenCredential
	id      identity
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
	tasks   *task.Group

	mu         sync.Mutex
	held       map[purpose]*credential.Source[azcore.AccessToken]
	challenged time.Time // when claims without a held token were last requested
	closed     bool
}

// purpose identifies what an access token is for.
type purpose struct {
	tenant, scopes, claims string
	cae                    bool
}

// token is an access token and its life.
type token = credential.Held[azcore.AccessToken]

func newTokenSource(cfg provider.Config, log *slog.Logger, id identity, cred azcore.TokenCredential, group *task.Group) *tokenSource {
	return &tokenSource{
		cred: cred, id: id, timeout: cfg.LoginTimeout, now: cfg.Now, log: log, tasks: group,
		held: make(map[purpose]*credential.Source[azcore.AccessToken]),
	}
}

// touch marks the tokens as in use. A read calls it because the SDK's clients cache
// tokens, too, and may not call GetToken.
func (t *tokenSource) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.held {
		s.Touch()
	}
}

// close stops the renewal of tokens by timers.
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
		// The vault names its tenant by ID. Tokens are requested only in the
		// integration's tenant, which may also be configured as a domain name.
		asked, own := opts.TenantID, t.id.tenantID
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
	switch t.id.credential.Type {
	case ClientSecret, ClientCertificate, WorkloadIdentity:
		return true
	default:
		return false
	}
}

// source returns the credential.Source for a purpose. A vault requests claims when it
// has refused the token without them. If it requests different claims each time,
// source returns an error until a pause is over.
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
			"a vault refuses every new access token; check the sign-in logs and the Conditional Access policies of the integration's identity")
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

// drop removes at least one purpose. The caller holds t.mu.
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
		Failed: func(err error) { t.log.Warn("cannot obtain an access token", "error", err) },
		Acquire: func(ctx context.Context, _ *token) (*token, error) {
			h, err := t.acquire(ctx, opts)
			if err == nil && p.claims != "" {
				t.forget(purpose{p.tenant, p.scopes, "", p.cae})
			}
			return h, err
		},
	}
	if t.id.credential.Type == WorkloadIdentity {
		c.Inputs = credential.Files(t.id.credential.TokenFile)
	}
	return credential.New(c)
}

// forget drops the token of p, which a vault has refused by requesting claims.
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
		err = errors.New("azurekv: the credential returned an empty token")
	}
	if err != nil {
		return nil, explainToken(ctx, t.id, t.timeout, err, seen)
	}
	// A token that has already ended by the local clock is still used for a moment:
	// the local clock may be wrong, and the vault goes by its own.
	now := t.now()
	return &token{Value: got, Began: now, Life: max(got.ExpiresOn.Sub(now), tokenMargin+credential.RefusalPause)}, nil
}
