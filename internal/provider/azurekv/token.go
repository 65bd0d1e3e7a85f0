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

	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// tokenMargin is how long a token must still be valid to be handed out while
// its successor is being acquired.
const tokenMargin = time.Minute

var uuid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// tokenSource stands between the vault clients and a credential, because the
// SDK's credentials hold a lock during their requests and use the context of
// whoever came first. Here every acquisition runs in a goroutine of its own,
// bounded by TokenTimeout, shared by everyone who wants the same token; callers
// wait no longer than their own context. A caller never waits for the renewal
// of a token that is still good.
//
// It is safe for concurrent use. Its errors are *secret.Error, the caller's
// context error, or errClosed.
type tokenSource struct {
	cred    azcore.TokenCredential
	azure   *registry.Azure
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
	tasks   *task.Group

	mu       sync.Mutex
	running  map[tokenKey]*acquisition
	good     *acquisition // the latest that succeeded
	failed   *acquisition // the latest that failed
	failures uint64       // how many have failed
}

// tokenKey is what an access token is for.
type tokenKey struct {
	tenant, scopes, claims string
	cae                    bool
}

// acquisition is one run of the credential. Its result may be read once done is
// closed.
type acquisition struct {
	key     tokenKey
	done    chan struct{}
	token   azcore.AccessToken
	err     error
	ordinal uint64 // its number among the failures
}

func newTokenSource(cfg Config, log *slog.Logger, a *registry.Azure, cred azcore.TokenCredential, group *task.Group) *tokenSource {
	return &tokenSource{
		cred: cred, azure: a, timeout: cfg.TokenTimeout, now: cfg.Now, log: log, tasks: group,
		running: make(map[tokenKey]*acquisition),
	}
}

type markKey struct{}

// mark returns a context for one read. An acquisition that fails after mark was
// called is the answer to that read, even if the read asks for the token only
// then: otherwise everyone whom the SDK has queued behind a failing acquisition
// would start another in turn.
func (t *tokenSource) mark(ctx context.Context) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	return context.WithValue(ctx, markKey{}, t.failures)
}

// GetToken implements azcore.TokenCredential.
func (t *tokenSource) GetToken(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if err := ctx.Err(); err != nil {
		return azcore.AccessToken{}, err
	}
	if t.hasTenant() {
		// The vault says which tenant it is in, by its id. Tokens are asked for in
		// the integration's tenant alone, which may be given by a domain name.
		asked, own := opts.TenantID, t.azure.TenantID
		if !strings.EqualFold(asked, own) && uuid.MatchString(asked) && uuid.MatchString(own) {
			return azcore.AccessToken{}, wrongTenant(asked)
		}
		opts.TenantID = own
	}
	a, err := t.join(ctx, opts)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	select {
	case <-a.done:
		return a.token, a.err
	case <-ctx.Done():
		return azcore.AccessToken{}, ctx.Err()
	}
}

func (t *tokenSource) hasTenant() bool {
	switch t.azure.Credential.Type {
	case registry.AzureClientSecret, registry.AzureClientCertificate, registry.AzureWorkloadIdentity:
		return true
	default:
		return false
	}
}

// join returns the acquisition whose result answers ctx's read: a finished one,
// the running one, or a new one.
func (t *tokenSource) join(ctx context.Context, opts policy.TokenRequestOptions) (*acquisition, error) {
	key := tokenKey{opts.TenantID, strings.Join(opts.Scopes, " "), opts.Claims, opts.EnableCAE}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Claims are asked for because the token without them was refused.
	usable := key.claims == "" && t.good != nil && t.good.key == key && t.good.token.ExpiresOn.Sub(t.now()) > tokenMargin
	a := t.running[key]
	if a == nil {
		if seen, ok := ctx.Value(markKey{}).(uint64); ok && !usable && t.failed != nil && t.failed.key == key && t.failed.ordinal > seen {
			return t.failed, nil
		}
		a = &acquisition{key: key, done: make(chan struct{})}
		if !t.tasks.Start(func(closing context.Context) { t.acquire(closing, a, opts) }) {
			return nil, errClosed
		}
		t.running[key] = a
	}
	if usable {
		return t.good, nil
	}
	return a, nil
}

func (t *tokenSource) acquire(closing context.Context, a *acquisition, opts policy.TokenRequestOptions) {
	ctx, cancel := context.WithTimeout(closing, t.timeout)
	defer cancel()
	seen := &trace{}
	err := task.Contain(func() (err error) {
		a.token, err = t.cred.GetToken(withTrace(ctx, seen), opts)
		return err
	})
	if err == nil && a.token.Token == "" {
		err = errors.New("azurekv: the credential gave an empty token")
	}
	if err != nil {
		e := explainToken(ctx, t.azure, t.timeout, err, seen)
		if closing.Err() == nil {
			t.log.Warn("no access token", "error", e)
		}
		a.token, a.err = azcore.AccessToken{}, e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, a.key)
	if a.err == nil {
		t.good = a
	} else {
		t.failures++
		a.ordinal = t.failures
		t.failed = a
	}
	close(a.done)
}
