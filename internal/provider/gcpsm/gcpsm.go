// Package gcpsm reads secrets from Google Cloud's Secret Manager.
//
// It owns everything that is specific to Google: credentials and their tokens, the
// one method of the REST API that it uses, and the interpretation of its responses.
// It keeps no value. Authorization, caching and limits on requests belong to its
// callers.
//
// Requests are sent through package egress, by two clients: one sends to the
// endpoints of Secret Manager that hold the integration's projects, the other to the
// endpoints that issue its tokens. So no access token of the integration can reach a
// host of the other kind. Credential files name hosts, too; a file that names a host
// other than Google's is refused.
//
// Tokens (credential.go, token.go). An access token is the result of a few steps,
// each one request: for example a federation's exchange and then the impersonation of
// a service account. Package golang.org/x/oauth2 implements most steps. It may quote
// responses in its errors and does not pass its context to every request; a caller
// (exchange.go) wraps each request for that reason.
//
// The package implements the REST call itself. The official client adds more than a
// hundred modules for a single GET; neither can its requests be restricted to hosts,
// nor its errors be kept from quoting responses.
package gcpsm

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Opener returns the provider.Opener of Secret Manager. Opening reads the
// integration's files and sends no request. Its errors are *secret.Error with
// ReasonStoreAuthenticationFailed and name the setting or file to fix, never a file's
// content.
func Opener(cfg provider.Config) provider.Opener {
	return func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
		return open(ctx, cfg, in)
	}
}

// store reads the projects of one integration.
type store struct {
	cfg     provider.Config
	in      *integration.Integration
	hosts   map[string]string // from canonical store to the host that has its secrets
	api     *http.Client      // to Secret Manager
	login   *http.Client      // to the token endpoints
	tokens  *tokenSource
	tasks   *task.Group
	quota   string // the project that pays, empty for the secret's own
	numbers numbers
}

func open(ctx context.Context, cfg provider.Config, in *integration.Integration) (*store, error) {
	g := settingsOf(in)
	if in.Kind != secret.KindGCPSecretManager || g == nil {
		return nil, storeerror.Setup("the integration has no gcp settings")
	}
	if len(g.Stores) == 0 {
		return nil, storeerror.Setup("gcp.projects is empty; list the projects whose secrets the integration may read")
	}
	cfg = cfg.For(in)
	s := &store{cfg: cfg, in: in, hosts: make(map[string]string, len(g.Stores)), tasks: task.NewGroup()}
	for _, project := range g.Stores {
		// The location in the store's name determines the host, so an invalid store
		// must not get here.
		if canonical, err := secret.KindGCPSecretManager.ParseStore(project); err != nil || canonical != project {
			return nil, storeerror.Setup("gcp.projects has an entry that is not projects/PROJECT or projects/PROJECT/locations/LOCATION")
		}
		s.hosts[project] = secret.GCPEndpoint(project)
	}
	roots, err := egress.LoadRoots("gcp.ca_file", g.CAFile)
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(ctx, in)
	if err != nil {
		return nil, err
	}
	client := func(hosts, local []string) *http.Client {
		origins := make([]string, len(hosts))
		for i, h := range hosts {
			origins[i] = "https://" + h
		}
		out := cfg.Egress(in)
		out.Origins, out.Local, out.Roots = origins, local, roots
		out.Dial, out.PrivateEndpoint = g.Dial, g.PrivateEndpoint
		return egress.NewClient(out)
	}
	var local []string
	switch g.Credential.Type {
	case MetadataServer, ApplicationDefault:
		local = []string{metadataOrigin()}
	}
	s.api, s.login = client(g.Endpoints(), nil), client(g.TokenHosts(), local)
	s.quota = id.quotaProject
	s.tokens = newTokenSource(cfg, cfg.Logger, id, s.login.Transport, s.tasks)
	return s, nil
}

// Fetch implements provider.Provider.
//
// Secret Manager may refuse a token that has not expired, for example after an
// administrator disabled the service account or deleted its key. The first Fetch that
// gets such a refusal drops the token. Every Fetch that got one tries once more with
// another token.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindGCPSecretManager); err != nil {
		return nil, err
	}
	host, ok := s.hosts[ref.Store]
	if !ok {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the project is not one of the integration's; add it to gcp.projects, spelt like in the reference")
	}
	sec, answered, err := s.fetch(ctx, host, ref)
	if err == nil {
		return sec, nil
	}
	e := explainRead(ctx, host, ref, err)
	if e.Reason == secret.ReasonStoreUnavailable && answered {
		e = e.WithCause(storeerror.Answered(e.Cause))
	}
	return nil, e
}

// fetch reads ref. answered reports whether the last request got a response that
// shows that the service works.
func (s *store) fetch(ctx context.Context, host string, ref secret.Ref) (_ *secret.Secret, answered bool, err error) {
	for again := false; ; again = true {
		a, err := s.tokens.Get(ctx)
		if err != nil {
			return nil, false, err
		}
		sec, answered, err := s.read(ctx, host, ref, a.Value)
		var refused *apiError
		if again || !errors.As(err, &refused) || refused.status != http.StatusUnauthorized || !s.tokens.refused(a) {
			return sec, answered, err
		}
	}
}

// closeTimeout limits how long Close waits for the operations that it has canceled.
const closeTimeout = 5 * time.Second

// Close implements provider.Provider.
func (s *store) Close() error {
	s.tokens.Close()
	err := s.tasks.Stop(closeTimeout)
	s.api.CloseIdleConnections()
	s.login.CloseIdleConnections()
	return err
}
