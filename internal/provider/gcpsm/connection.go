package gcpsm

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

// connection sends requests to an API of Google as one identity of an integration. A store
// and a source of events each have one.
type connection struct {
	cfg    provider.Config
	in     *integration.Integration
	api    *http.Client // to the API
	login  *http.Client // to the token endpoints
	tokens *tokenSource
	tasks  *task.Group
	quota  string // the project that pays, empty for that of the resource
}

// connectConfig is what distinguishes the connections of an integration.
type connectConfig struct {
	login login
	scope string   // of the access tokens
	hosts []string // of the API
	// change changes the limits of the requests to the API; nil keeps them.
	change func(*egress.Config)
}

// connect reads the integration's files, and sends no request.
func connect(ctx context.Context, cfg provider.Config, in *integration.Integration, with connectConfig) (*connection, error) {
	g := settingsOf(in)
	cfg = cfg.For(in)
	roots, err := egress.LoadRoots("gcp.ca_file", g.CAFile)
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(ctx, in, with.login, with.scope)
	if err != nil {
		return nil, err
	}
	client := func(hosts, local []string, change func(*egress.Config)) *http.Client {
		origins := make([]string, len(hosts))
		for i, h := range hosts {
			origins[i] = "https://" + h
		}
		out := cfg.Egress(in)
		out.Origins, out.Local, out.Roots = origins, local, roots
		out.Dial, out.PrivateEndpoint = g.Dial, g.PrivateEndpoint
		if change != nil {
			change(&out)
		}
		return egress.NewClient(out)
	}
	var local []string
	switch with.login.credential.Type {
	case MetadataServer, ApplicationDefault:
		local = []string{metadataOrigin()}
	}
	c := &connection{
		cfg: cfg, in: in, tasks: task.NewGroup(), quota: id.quotaProject,
		api: client(with.hosts, nil, with.change), login: client(with.login.hosts(), local, nil),
	}
	c.tokens = newTokenSource(cfg, cfg.Logger, id, c.login.Transport, c.tasks)
	return c, nil
}

// withToken calls try with an access token for its request. answered is that of the last call
// of try: whether the request got a response that shows that the service works.
//
// An API may refuse a token that has not expired, for example after an administrator disabled
// the service account or deleted its key. The first call that gets such a refusal drops the
// token. Every call that got one tries once more with another token.
func (c *connection) withToken(ctx context.Context, try func(token) (answered bool, err error)) (answered bool, err error) {
	for again := false; ; again = true {
		held, err := c.tokens.Get(ctx)
		if err != nil {
			return false, err
		}
		answered, err := try(held.Value)
		var refused *apiError
		if again || !errors.As(err, &refused) || refused.status != http.StatusUnauthorized || !c.tokens.refused(held) {
			return answered, err
		}
	}
}

// authorize adds the credentials to a request.
func (c *connection) authorize(req *http.Request, tok token) {
	req.Header.Set("Authorization", "Bearer "+tok.text())
	req.Header.Set("User-Agent", "secretbroker")
	if c.quota != "" {
		req.Header.Set("X-Goog-User-Project", c.quota)
	}
}

// closeTimeout limits how long close waits for the operations that it has canceled.
const closeTimeout = 5 * time.Second

func (c *connection) close() error {
	c.tokens.Close()
	err := c.tasks.Stop(closeTimeout)
	c.api.CloseIdleConnections()
	c.login.CloseIdleConnections()
	return err
}
