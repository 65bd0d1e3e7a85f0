package vaultkv

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

// session is a token. It is immutable.
type session struct {
	token     string
	began     time.Time
	ttl       time.Duration // 0 means no end
	renewable bool
	// unproven means that the token is from a file and that the server did not allow
	// it to look itself up, so it is not known whether the token is valid.
	unproven bool
}

// ends returns until when the token can be used; zero means no end.
func (s *session) ends() time.Time {
	if s.ttl == 0 {
		return time.Time{}
	}
	return s.began.Add(s.ttl - margin(s.ttl))
}

// logins keeps the integration logged in. It is safe for concurrent use.
type logins struct {
	client *client
	in     *integration.Integration // the integration whose credentials each login reads
	auth   Auth
	host   string
	now    func() time.Time
	log    *slog.Logger

	held *credential.Source[*session]
	// unrenewed is the token of a file whose renewal the server has refused, so that it is
	// logged once. Only acquire uses it, and held calls acquire once at a time.
	unrenewed string
}

func newLogins(cfg provider.Config, in *integration.Integration, c *client, host string, tasks *task.Group) *logins {
	l := &logins{client: c, in: in, auth: settingsOf(in).Auth, host: host, now: cfg.Now, log: cfg.Logger}
	source := credential.Config[*session]{
		Acquire: l.acquire, Timeout: cfg.LoginTimeout, Now: cfg.Now, Tasks: tasks, Closed: storeerror.Closed(),
		Margin: margin,
		// A token in a file cannot be acquired again after it has ended.
		Keep:   l.auth.Type == Token,
		Failed: func(err error) { l.log.Warn("logging in to Vault failed", "server", host, "error", err) },
	}
	var files []string
	for _, path := range []string{l.auth.SecretIDFile, l.auth.TokenFile} {
		if path != "" {
			files = append(files, path)
		}
	}
	if len(files) > 0 {
		source.Inputs = credential.Files(files...)
	}
	l.held = credential.New(source)
	return l
}

// session returns the current session, or logs in.
func (l *logins) session(ctx context.Context) (*session, error) {
	h, err := l.held.Get(ctx)
	switch {
	case err == nil:
		return h.Value, nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, explainRead(ctx, l.host, err)
	default:
		return nil, err
	}
}

// acquire renews the token of last, or logs in if it cannot be renewed.
func (l *logins) acquire(ctx context.Context, last *credential.Held[*session]) (*credential.Held[*session], error) {
	var s *session
	var err error
	if last != nil && last.Value.renewable && !l.replaced(ctx, last.Value) {
		s = l.renew(ctx, last.Value)
	}
	if s == nil {
		s, err = l.login(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &credential.Held[*session]{Value: s, Began: s.began, Life: s.ttl}, nil
}

// replaced reports whether the token's file now holds another token.
func (l *logins) replaced(ctx context.Context, s *session) bool {
	if l.auth.Type != Token {
		return false
	}
	b, err := egress.ReadCredential(ctx, l.in.Stored("vault.auth.token_file"), "vault.auth.token_file", l.auth.TokenFile)
	defer clear(b)
	return err == nil && string(b) != s.token
}

// renew extends a token's life. It returns nil if a new login is necessary.
func (l *logins) renew(ctx context.Context, s *session) *session {
	began := l.now()
	a, err := l.client.do(ctx, http.MethodPut, s.token, "auth/token/renew-self", "", struct{}{})
	if l.auth.Type == Token {
		l.noteRenewal(s.token, err)
	}
	if err != nil || a.Auth == nil {
		return nil
	}
	// A token that is close to its maximum lifetime is replaced by a new login,
	// except a token from a file.
	if seconds(a.Auth.LeaseDuration) < s.ttl/2 && l.auth.Type != Token {
		return nil
	}
	return &session{token: s.token, began: began, ttl: seconds(a.Auth.LeaseDuration), renewable: a.Auth.Renewable}
}

// noteRenewal logs that the server refuses to renew the token of a file, once for each
// token. The token may be revoked, at its maximum lifetime, or without the permission.
func (l *logins) noteRenewal(token string, err error) {
	var refusal *statusError
	switch {
	case err == nil:
		l.unrenewed = ""
	case errors.As(err, &refusal) && refusal.status < http.StatusInternalServerError && refusal.status != http.StatusTooManyRequests && l.unrenewed != token:
		l.unrenewed = token
		l.log.Warn("Vault refuses to renew the token in vault.auth.token_file; reads fail when it has ended; put another token into the file", "server", l.host, "status", refusal.status)
	}
}

// login gets a new token. Its errors are *secret.Error.
func (l *logins) login(ctx context.Context) (*session, error) {
	began := l.now()
	if l.auth.Type == Token {
		return l.ownToken(ctx, began)
	}
	body, err := l.proof(ctx)
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

// proof returns the body of a login request, with the integration's current
// credentials.
func (l *logins) proof(ctx context.Context) (map[string]string, error) {
	read := func(setting, path string) (string, error) {
		b, err := egress.ReadCredential(ctx, l.in.Stored("vault.auth."+setting), "vault.auth."+setting, path)
		defer clear(b)
		return string(b), err
	}
	switch l.auth.Type {
	case AppRole:
		id, err := read("secret_id_file", l.auth.SecretIDFile)
		return map[string]string{"role_id": l.auth.RoleID, "secret_id": id}, err
	case Cert:
		if l.auth.Role == "" {
			return map[string]string{}, nil
		}
		return map[string]string{"name": l.auth.Role}, nil
	default: // JWT and Kubernetes
		jwt, err := read("token_file", l.auth.TokenFile)
		return map[string]string{"role": l.auth.Role, "jwt": jwt}, err
	}
}

// ownToken reads the token from its file and asks the server for its remaining life.
// If the token is not permitted to look itself up, ownToken assumes that it has no
// end.
func (l *logins) ownToken(ctx context.Context, began time.Time) (*session, error) {
	b, err := egress.ReadCredential(ctx, l.in.Stored("vault.auth.token_file"), "vault.auth.token_file", l.auth.TokenFile)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	s := &session{token: string(b), began: began}
	if !isToken(s.token) {
		return nil, storeerror.Setup("vault.auth.token_file: %s must contain a token and nothing else", egress.CredentialSource(l.auth.TokenFile))
	}
	a, err := l.client.do(ctx, http.MethodGet, s.token, "auth/token/lookup-self", "", nil)
	if isDenied(err) { // a policy denies the lookup, or the token is not valid
		if renewed := l.renew(ctx, s); renewed != nil {
			return renewed, nil
		}
		s.unproven = true // the first read will show it
		return s, nil
	}
	if err != nil {
		return nil, explainLogin(ctx, l.host, l.auth, err)
	}
	var about struct {
		TTL       int64 `json:"ttl"`
		Renewable bool  `json:"renewable"`
		Whole     int64 `json:"creation_ttl"`
		Period    int64 `json:"period"`
	}
	if jsonObject(a.Data, &about) {
		s.ttl, s.renewable = seconds(about.TTL), about.Renewable
	}
	// The token may be close to its end. A renewal resets its life to the full
	// duration.
	if whole := seconds(max(about.Whole, about.Period)); s.renewable && s.ttl > 0 && (whole == 0 || s.ttl < whole*2/3) {
		if renewed := l.renew(ctx, s); renewed != nil {
			return renewed, nil
		}
	}
	return s, nil
}

// refuses reports, after a read was denied, whether the server refused the token and
// another one may help. A refused token and a missing permission both give a 403, so
// refuses asks the server about the token. It returns false if another token would
// not help, or if a new one must not be requested yet.
func (l *logins) refuses(ctx context.Context, s *session) bool {
	same := func(v *session) bool { return v == s }
	if l.replaced(ctx, s) {
		l.held.Forget(same)
		return true
	}
	if !l.held.Replaceable() {
		return false
	}
	if !s.unproven { // an unproven token may not look itself up even if it is valid
		if _, err := l.client.do(ctx, http.MethodGet, s.token, "auth/token/lookup-self", "", nil); !isDenied(err) {
			return false
		}
	}
	return l.held.RefusedValue(same)
}

// isToken reports whether s can be sent in a header.
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
