// Package gcpsm reads secrets from Google Cloud's Secret Manager, and receives its
// notifications of changes from Pub/Sub.
//
// It owns everything that is specific to Google: credentials and their tokens, the
// few methods of the REST APIs that it uses, and the interpretation of their responses.
// It keeps no value. Authorization, caching and limits on requests belong to its
// callers.
//
// Requests are sent through package egress. A store or a source of events has a
// connection (connection.go) with two clients: one sends to the endpoints of its API
// only, the other to those that issue its tokens. So no access token can reach a host of
// another kind. Credential files name hosts, too; a file that names a host other than
// Google's is refused.
//
// Events (subscription.go, message.go). Only the attributes of a message are used, and
// they only select what may be read again.
//
// Tokens (credential.go, token.go). An access token is the result of a few steps,
// each one request: for example a federation's exchange and then the impersonation of
// a service account. Package golang.org/x/oauth2 implements most steps. It may quote
// responses in its errors and does not pass its context to every request; a caller
// (exchange.go) wraps each request for that reason.
//
// The package implements the REST calls itself. The official client adds more than a
// hundred modules for a single GET of a secret; neither can its requests be
// restricted to hosts, nor its errors be kept from quoting responses.
package gcpsm

import (
	"context"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
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
	*connection
	hosts   map[string]string // from canonical store to the host that has its secrets
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
	hosts := make(map[string]string, len(g.Stores))
	for _, project := range g.Stores {
		// The location in the store's name determines the host, so an invalid store
		// must not get here.
		if canonical, err := secret.KindGCPSecretManager.ParseStore(project); err != nil || canonical != project {
			return nil, storeerror.Setup("gcp.projects has an entry that is not projects/PROJECT or projects/PROJECT/locations/LOCATION")
		}
		hosts[project] = secret.GCPEndpoint(project)
	}
	c, err := connect(ctx, cfg, in, connectConfig{login: g.readLogin(), scope: allScope, hosts: g.Endpoints()})
	if err != nil {
		return nil, err
	}
	return &store{connection: c, hosts: hosts}, nil
}

// Fetch implements provider.Provider.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindGCPSecretManager); err != nil {
		return nil, err
	}
	host, ok := s.hosts[ref.Store]
	if !ok {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the project is not one of the integration's; add it to gcp.projects, spelt like in the reference")
	}
	var sec *secret.Secret
	answered, err := s.withToken(ctx, func(tok token) (answered bool, err error) {
		sec, answered, err = s.read(ctx, host, ref, tok)
		return answered, err
	})
	if err == nil {
		return sec, nil
	}
	e := explainRead(ctx, host, ref, err)
	if e.Reason == secret.ReasonStoreUnavailable && answered {
		e = e.WithCause(storeerror.Answered(e.Cause))
	}
	return nil, e
}

// Close implements provider.Provider.
func (s *store) Close() error { return s.close() }
