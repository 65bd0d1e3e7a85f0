package gcpsm

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// refreshMargin is how long before its end a token's successor is asked for.
	// Google's metadata server gives a new one from then on.
	refreshMargin = 4 * time.Minute
	// tokenMargin is how long a token must still be valid to be handed out.
	tokenMargin = time.Minute
)

// heldToken is an access token and its life.
type heldToken = credential.Held[token]

// tokenSource holds the access token of one integration. It is safe for concurrent use.
// Its errors are *secret.Error, the caller's context error, or storeerror.ErrClosed.
type tokenSource struct {
	*credential.Source[token]

	id      *identity
	http    http.RoundTripper
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
}

func newTokenSource(cfg provider.Config, log *slog.Logger, id *identity, client http.RoundTripper, tasks *task.Group) *tokenSource {
	t := &tokenSource{id: id, http: client, timeout: cfg.LoginTimeout, now: cfg.Now, log: log}
	c := credential.Config[token]{
		Acquire: t.acquire, Timeout: cfg.LoginTimeout, Now: cfg.Now, Tasks: tasks, Closed: storeerror.ErrClosed,
		Margin: func(time.Duration) time.Duration { return tokenMargin },
		Ahead:  func(life time.Duration) time.Duration { return min(refreshMargin, life/2) },
		Failed: func(err error) { log.Warn("no access token", "error", err) },
	}
	if len(id.files) > 0 {
		c.Inputs = credential.Files(id.files...)
	}
	t.Source = credential.New(c)
	return t
}

// refused says that Secret Manager did not take a token. It reports whether another one
// may be had.
func (t *tokenSource) refused(h *heldToken) bool {
	again := t.Refused(h)
	if again {
		t.log.Warn("Secret Manager refused the access token: getting another one")
	}
	return again
}

// acquire takes the steps of the identity.
func (t *tokenSource) acquire(ctx context.Context, _ *heldToken) (*heldToken, error) {
	var tok token
	for _, s := range t.id.steps {
		c := &caller{ctx: ctx, next: t.http}
		next, err := s.get(ctx, c, tok)
		if err != nil {
			return nil, explainToken(ctx, s, t.timeout, c.last, err)
		}
		tok = next
	}
	now := t.now()
	left := tok.expires.Sub(now)
	if left <= tokenMargin {
		last := t.id.steps[len(t.id.steps)-1]
		return nil, secret.Errorf(secret.ReasonStoreAuthenticationFailed,
			"%s gave an access token that has as good as expired; check that the broker's clock is right", last.who)
	}
	return &heldToken{Value: tok, Began: now, Life: left}, nil
}
