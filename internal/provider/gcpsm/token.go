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
	// refreshMargin is how long before the end of a token its successor is requested.
	// From then on, Google's metadata server returns a new one.
	refreshMargin = 4 * time.Minute
	// tokenMargin is the minimum remaining life of a token that is used.
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
		Failed: func(err error) { log.Warn("cannot obtain an access token", "error", err) },
	}
	if len(id.files) > 0 {
		c.Inputs = credential.Files(id.files...)
	}
	t.Source = credential.New(c)
	return t
}

// refused records that the API refused a token. It reports whether Get may
// return another one.
func (t *tokenSource) refused(h *heldToken) bool {
	again := t.Refused(h)
	if again {
		t.log.Warn("Google refused the access token; requesting another one")
	}
	return again
}

// acquire runs the steps of the identity.
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
			"%s issued an access token that is about to expire; check the broker's clock", last.who)
	}
	return &heldToken{Value: tok, Began: now, Life: left}, nil
}
