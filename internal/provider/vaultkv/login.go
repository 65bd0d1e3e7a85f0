package vaultkv

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// failurePause is how long a failed login is the answer to everybody.
const failurePause = time.Second

// refusalPause is the least time between two logins because a token was refused.
const refusalPause = 5 * time.Second

// session is a token. It does not change.
type session struct {
	token     string
	began     time.Time
	ttl       time.Duration // 0 for no end
	renewable bool
	// unproven: the token is from a file, and the server does not even let it look
	// itself up.
	unproven bool
}

// ends says until when the token can be relied on; zero for no end.
func (s *session) ends() time.Time {
	if s.ttl == 0 {
		return time.Time{}
	}
	return s.began.Add(s.ttl - margin(s.ttl))
}

func (s *session) good(now time.Time) bool { return s.ttl == 0 || now.Before(s.ends()) }

// aging: a third of its time is left, and a successor should be looked for.
func (s *session) aging(now time.Time) bool { return s.ttl > 0 && now.Sub(s.began) > s.ttl*2/3 }

// logins keeps the integration logged in. One login or renewal runs at a time,
// under a deadline of its own; who needs its result waits no longer than its own
// context, and nobody waits while the present token is good. It is safe for
// concurrent use.
type logins struct {
	client *client
	in     *registry.Integration // whose credentials are read for each login
	auth   registry.VaultAuth
	host   string
	now    func() time.Time
	log    *slog.Logger
	tasks  *task.Group

	mu       sync.Mutex
	current  *session
	running  *attempt
	failed   *attempt
	failedAt time.Time
	replaced time.Time // when a login last replaced a token that was refused
}

// attempt is one login or renewal. Its result may be read once done is closed.
type attempt struct {
	done    chan struct{}
	session *session
	err     error
}

// session returns the present one, or logs in. refused is one whose token the
// server does not take any more, nil if there is none.
func (l *logins) session(ctx context.Context, refused *session) (*session, error) {
	l.mu.Lock()
	now := l.now()
	current := l.current
	usable := current != nil && current != refused && current.good(now)
	recent := l.failed != nil && now.Sub(l.failedAt) < failurePause
	a := l.running
	switch {
	case usable && (!current.aging(now) || recent):
		l.mu.Unlock()
		return current, nil
	case a == nil && recent:
		l.mu.Unlock()
		return nil, l.failed.err
	case a == nil:
		a = &attempt{done: make(chan struct{})}
		var renew *session
		if usable && current.renewable {
			renew = current
		}
		if !l.tasks.Start(func(closing context.Context) { l.run(closing, a, renew) }) {
			l.mu.Unlock()
			return nil, errClosed
		}
		l.running = a
		if refused != nil {
			l.replaced = now
		}
	}
	l.mu.Unlock()
	if usable {
		return current, nil
	}
	select {
	case <-a.done:
		return a.session, a.err
	case <-ctx.Done():
		return nil, explainRead(ctx, l.host, ctx.Err())
	}
}

// run does what attempt is for: renew a session, or else log in.
func (l *logins) run(closing context.Context, a *attempt, renew *session) {
	ctx, cancel := context.WithTimeout(closing, loginTimeout)
	defer cancel()
	if renew != nil {
		a.session = l.renew(ctx, renew)
	}
	if a.session == nil {
		a.session, a.err = l.login(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = nil
	if a.err == nil {
		l.current, l.failed = a.session, nil
	} else {
		l.failed, l.failedAt = a, l.now()
		if closing.Err() == nil {
			l.log.Warn("logging in to Vault failed", "server", l.host, "error", a.err)
		}
	}
	close(a.done)
}

// renew extends a token's life; nil if a new login has to take its place.
func (l *logins) renew(ctx context.Context, s *session) *session {
	began := l.now()
	a, err := l.client.do(ctx, http.MethodPut, s.token, "auth/token/renew-self", "", struct{}{})
	if err != nil || a.Auth == nil || seconds(a.Auth.LeaseDuration) < s.ttl/2 {
		return nil
	}
	return &session{token: s.token, began: began, ttl: seconds(a.Auth.LeaseDuration), renewable: a.Auth.Renewable}
}

// login gets a new token. Its errors are *secret.Error.
func (l *logins) login(ctx context.Context) (*session, error) {
	began := l.now()
	if l.auth.Type == registry.VaultToken {
		return l.ownToken(ctx, began)
	}
	body, err := l.proof()
	if err != nil {
		return nil, err
	}
	a, err := l.client.do(ctx, http.MethodPost, "", "auth/"+l.auth.Mount+"/login", "", body)
	if err != nil {
		return nil, explainLogin(ctx, l.host, l.auth, err)
	}
	if a.Auth == nil || !isToken(a.Auth.ClientToken) {
		return nil, explainLogin(ctx, l.host, l.auth, errNoProtocol)
	}
	l.log.Info("logged in to Vault", "server", l.host, "ttl", seconds(a.Auth.LeaseDuration).String())
	return &session{token: a.Auth.ClientToken, began: began, ttl: seconds(a.Auth.LeaseDuration), renewable: a.Auth.Renewable}, nil
}

// proof is the body of a login: what the integration's credentials are at this moment.
func (l *logins) proof() (map[string]string, error) {
	read := func(setting, path string) (string, error) {
		b, err := egress.ReadCredential(l.in, "vault.auth."+setting, path)
		defer clear(b)
		return string(b), err
	}
	switch l.auth.Type {
	case registry.VaultAppRole:
		id, err := read("secret_id_file", l.auth.SecretIDFile)
		return map[string]string{"role_id": l.auth.RoleID, "secret_id": id}, err
	case registry.VaultCert:
		if l.auth.Role == "" {
			return map[string]string{}, nil
		}
		return map[string]string{"name": l.auth.Role}, nil
	default: // jwt and kubernetes
		jwt, err := read("token_file", l.auth.TokenFile)
		return map[string]string{"role": l.auth.Role, "jwt": jwt}, err
	}
}

// ownToken takes the token from its file and asks the server how long it lives. A
// token that may not ask for that is taken to have no end.
func (l *logins) ownToken(ctx context.Context, began time.Time) (*session, error) {
	b, err := egress.ReadCredential(l.in, "vault.auth.token_file", l.auth.TokenFile)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	s := &session{token: string(b), began: began}
	if !isToken(s.token) {
		return nil, setupFault("vault.auth.token_file: %s does not hold a token and nothing else", egress.CredentialPlace(l.auth.TokenFile))
	}
	a, err := l.client.do(ctx, http.MethodGet, s.token, "auth/token/lookup-self", "", nil)
	if isDenied(err) { // by policy, or because it is none: the first read will tell
		s.unproven = true
		return s, nil
	}
	if err != nil {
		return nil, explainLogin(ctx, l.host, l.auth, err)
	}
	var about struct {
		TTL       int64 `json:"ttl"`
		Renewable bool  `json:"renewable"`
	}
	if jsonObject(a.Data, &about) {
		s.ttl, s.renewable = seconds(about.TTL), about.Renewable
	}
	return s, nil
}

// refuses finds out, after a read was denied, whether it is the token that the
// server does not take: both are a 403. False means that another token would not
// help.
func (l *logins) refuses(ctx context.Context, s *session) bool {
	l.mu.Lock()
	old := l.current != s || l.now().Sub(l.replaced) >= refusalPause
	l.mu.Unlock()
	if !old {
		return false
	}
	_, err := l.client.do(ctx, http.MethodGet, s.token, "auth/token/lookup-self", "", nil)
	return isDenied(err)
}

// isToken reports whether s can stand in a header.
func isToken(s string) bool {
	if s == "" || len(s) > 8192 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

var errClosed = secret.Errorf(secret.ReasonStoreUnavailable, "the integration has been closed or replaced; try again")
