package gcpsm

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// refreshMargin is how long before its end a token's successor is asked for,
	// in the background. Google's metadata server gives a new one from then on.
	refreshMargin = 4 * time.Minute
	// tokenMargin is how long a token must still be valid to be handed out.
	tokenMargin = time.Minute
	// refreshPause is the least time between two attempts in the background: a
	// good token is in hand, there is no hurry.
	refreshPause = 10 * time.Second
	// renewPause is the least time between two renewals because Secret Manager
	// refused a token, so that one that is refused every time does not make the
	// broker ask for a new one with each read.
	renewPause = 5 * time.Second
)

// tokenSource holds the access token of one integration. Every acquisition runs in
// a goroutine of its own, bounded by timeout, shared by everyone who wants a token;
// callers wait no longer than their own context, and never for the renewal of a
// token that is still good.
//
// It is safe for concurrent use. Its errors are *secret.Error, the caller's
// context error, or errClosed.
type tokenSource struct {
	id      *identity
	http    http.RoundTripper
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger

	closing context.Context // of all acquisitions; done when stop is called
	cancel  context.CancelFunc
	ended   sync.WaitGroup // the acquisitions under way

	mu      sync.Mutex
	stopped bool
	good    *acquisition // the latest that succeeded, unless it was refused
	running *acquisition
	tried   time.Time // when the latest acquisition began
	renewed time.Time // when a token was last dropped because it was refused
}

// acquisition is one run of all steps. Its result may be read once done is closed.
type acquisition struct {
	done  chan struct{}
	token token
	err   error
}

func newTokenSource(cfg Config, log *slog.Logger, id *identity, client http.RoundTripper) *tokenSource {
	t := &tokenSource{id: id, http: client, timeout: cfg.TokenTimeout, now: cfg.Now, log: log}
	t.closing, t.cancel = context.WithCancel(context.Background())
	return t
}

// stop cancels what is under way and waits for it: its requests honour their
// context. Every get after it fails.
func (t *tokenSource) stop() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.cancel()
	t.ended.Wait()
}

// get returns an acquisition that has succeeded, whose token may be used.
func (t *tokenSource) get(ctx context.Context) (*acquisition, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, err := t.join()
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join returns the good acquisition, the running one, or a new one.
func (t *tokenSource) join() (*acquisition, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil, errClosed
	}
	now := t.now()
	left := time.Duration(0)
	if t.good != nil {
		left = t.good.token.expires.Sub(now)
	}
	usable := left > tokenMargin
	if left <= refreshMargin && t.running == nil && !(usable && now.Sub(t.tried) < refreshPause) {
		a := &acquisition{done: make(chan struct{})}
		t.running, t.tried = a, now
		t.ended.Go(func() { t.acquire(a) })
	}
	if usable {
		return t.good, nil
	}
	return t.running, nil
}

// refused says that Secret Manager did not take a's token. It reports whether
// another one may be had: the next get waits for it.
func (t *tokenSource) refused(a *acquisition) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.good != a {
		return true // somebody else has said so
	}
	now := t.now()
	if now.Sub(t.renewed) < renewPause {
		return false
	}
	t.log.Warn("Secret Manager refused the access token: getting another one")
	t.good, t.renewed = nil, now
	return true
}

func (t *tokenSource) acquire(a *acquisition) {
	ctx, cancel := context.WithTimeout(t.closing, t.timeout)
	defer cancel()
	a.token, a.err = t.run(ctx)
	if a.err != nil && t.closing.Err() == nil {
		t.log.Warn("no access token", "error", a.err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = nil
	if a.err == nil {
		t.good = a
	}
	close(a.done)
}

// run takes the steps of the identity.
func (t *tokenSource) run(ctx context.Context) (token, error) {
	var tok token
	for _, s := range t.id.steps {
		c := &caller{ctx: ctx, next: t.http}
		next, err := s.get(ctx, c, tok)
		if err != nil {
			return token{}, explainToken(ctx, s, t.timeout, c.last, err)
		}
		tok = next
	}
	if tok.expires.Sub(t.now()) <= tokenMargin {
		last := t.id.steps[len(t.id.steps)-1]
		return token{}, secret.Errorf(secret.ReasonStoreAuthenticationFailed,
			"%s gave an access token that has as good as expired; check that the broker's clock is right", last.who)
	}
	return tok, nil
}
