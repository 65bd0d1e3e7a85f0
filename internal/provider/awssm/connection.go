package awssm

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

// connection sends signed requests to AWS as one identity of an integration. A store and a
// source of events each have one.
type connection struct {
	cfg   provider.Config
	log   *slog.Logger
	aws   *Settings
	in    *integration.Integration
	roots *x509.CertPool
	// id is the identity that requests are signed as.
	id       identity
	sessions *credential.Source[aws.Credentials]
	tasks    *task.Group
	clients  []*http.Client
}

// newConnection reads the integration's files, and sends no request. The caller must call
// start before it signs requests, and close in the end.
func newConnection(cfg provider.Config, in *integration.Integration, id identity) (*connection, error) {
	cfg = cfg.For(in)
	c := &connection{cfg: cfg, log: cfg.Logger, aws: settingsOf(in), in: in, id: id, tasks: task.NewGroup()}
	var err error
	c.roots, err = egress.LoadRoots("aws.ca_file", c.aws.CAFile)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// start reads the credential's files.
func (c *connection) start(ctx context.Context) error {
	source, err := c.keySource(ctx)
	if err != nil {
		return err
	}
	c.sessions = newSessions(c.cfg, c.log, c.id, source, c.tasks)
	return nil
}

// newClient returns a client that sends only to the origins, which are https, and to
// the local origins, which may use plain HTTP.
func (c *connection) newClient(origins, local []string) *http.Client {
	return c.newClientWith(origins, local, func(*egress.Config) {})
}

// newClientWith is newClient with a change of the client's limits.
func (c *connection) newClientWith(origins, local []string, change func(*egress.Config)) *http.Client {
	out := c.cfg.Egress(c.in)
	out.Origins, out.Local, out.Roots = origins, local, c.roots
	out.Dial, out.PrivateEndpoint = c.aws.Dial, c.aws.PrivateEndpoint
	change(&out)
	client := egress.NewClient(out)
	c.clients = append(c.clients, client)
	return client
}

// signed calls try with keys for its request to a region, and returns its error unless a
// further attempt succeeds.
//
// It repeats a request once, without a pause, if the connection broke, as happens
// when AWS has just closed it, or if AWS answered with a server error. It does not
// repeat timeouts, which have already used up their time, and throttling, which the
// caller waits out.
//
// AWS may refuse keys before their end, for example after an administrator revoked
// the role's sessions. The first call that gets such a refusal drops the keys. Every
// call that got one tries once more with new keys. If there are none, the error is a
// *secret.Error.
func (c *connection) signed(ctx context.Context, region string, try func(*keys) error) error {
	keys, err := c.sessions.Get(ctx)
	if err != nil {
		return explainGet(ctx, err)
	}
	err = try(keys)
	if worthRepeating(ctx, err) {
		err = try(keys)
	}
	if refusedKeys(err) && c.sessions.Refused(keys) {
		c.log.Warn("AWS refused the session's keys; requesting new ones", "region", region)
		if keys, err = c.sessions.Get(ctx); err != nil {
			return explainGet(ctx, err)
		}
		err = try(keys)
	}
	return err
}

// closeTimeout limits how long close waits for the operations that it has canceled.
const closeTimeout = 5 * time.Second

// close waits a few seconds at most for requests that no caller waits for, and returns an
// error if some of them are still running.
func (c *connection) close() error {
	if c.sessions != nil {
		c.sessions.Close()
	}
	err := c.tasks.Stop(closeTimeout)
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
	return err
}
