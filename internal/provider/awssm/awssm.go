// Package awssm reads secrets from AWS Secrets Manager.
//
// It owns everything that is specific to AWS: credentials, the roles that they assume
// and the sessions that result, the connections to the endpoints, and the
// interpretation of their responses. It keeps no value. Authorization, caching and
// limits on requests belong to its callers.
//
// Requests are sent only to the endpoints of the integration's regions and to STS.
// The credential type default adds some origins, see defaultOrigins.
//
// Sessions (session.go). Requests are signed with keys, which are static or belong to
// a session of a role. A timer replaces the keys before their end while they are in
// use. AWS may refuse keys earlier, for example after an administrator revoked the
// role's sessions; Fetch then replaces them once. The SDK's own caches are not used,
// because they would keep keys that AWS has refused.
//
// The package has no process-wide state, and only the credential type default reads
// the process's environment.
package awssm

import (
	"context"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go/logging"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// closeTimeout limits how long Close waits for the operations that it has canceled.
const closeTimeout = 5 * time.Second

// Opener returns the provider.Opener of AWS Secrets Manager. Opening reads the
// integration's files and sends no request. Its errors are *secret.Error with
// ReasonStoreAuthenticationFailed and name the setting or file to fix, never a
// file's content.
func Opener(cfg provider.Config) provider.Opener {
	return func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
		return open(ctx, cfg, in)
	}
}

// store reads the stores of one integration.
type store struct {
	cfg provider.Config
	log *slog.Logger
	aws *Settings
	in  *integration.Integration
	// endpoints are the stores that may be read, by their canonical form.
	endpoints map[string]*endpoint
	sessions  *credential.Source[aws.Credentials]
	tasks     *task.Group
	clients   []*http.Client
}

// endpoint is the Secrets Manager endpoint of one store.
type endpoint struct {
	// arn is the prefix of the ARNs of the store's secrets, up to the name.
	arn string
	// region is the region's name in messages.
	region string
	// host is the endpoint's host.
	host   string
	client *secretsmanager.Client
}

func open(ctx context.Context, cfg provider.Config, in *integration.Integration) (*store, error) {
	if in.Kind != secret.KindAWSSecretsManager || settingsOf(in) == nil || len(settingsOf(in).Stores) == 0 {
		return nil, storeerror.Setup("the integration has no aws settings")
	}
	cfg = cfg.For(in)
	s := &store{
		cfg:       cfg,
		log:       cfg.Logger,
		aws:       settingsOf(in),
		in:        in,
		endpoints: make(map[string]*endpoint, len(settingsOf(in).Stores)),
		tasks:     task.NewGroup(),
	}
	roots, err := egress.LoadRoots("aws.ca_file", settingsOf(in).CAFile)
	if err != nil {
		return nil, err
	}
	client := s.newClient(roots, slices.Collect(maps.Values(settingsOf(in).Endpoints)), nil)
	endpoints := make(map[string]*secretsmanager.Client, len(settingsOf(in).Endpoints))
	for region, endpoint := range settingsOf(in).Endpoints {
		endpoints[region] = secretsmanager.New(secretsManagerOptions(region, endpoint, client))
	}
	for _, st := range settingsOf(in).Stores {
		region, account := settingsOf(in).Place(st)
		if endpoints[region] == nil {
			return nil, storeerror.Setup("aws.stores has an entry that has no endpoint")
		}
		s.endpoints[st] = &endpoint{
			arn:    secret.AWSAccountStore(region, account) + ":secret:",
			region: region,
			host:   strings.TrimPrefix(settingsOf(in).Endpoints[region], "https://"),
			client: endpoints[region],
		}
	}
	source, err := s.keySource(ctx, in, roots)
	if err != nil {
		return nil, err
	}
	s.sessions = newSessions(cfg, s.log, source, credentialFiles(settingsOf(in).Credential), s.tasks)
	return s, nil
}

// newClient returns a client that sends only to the origins, which are https, and to
// the local origins, which may use plain HTTP.
func (s *store) newClient(roots *x509.CertPool, origins, local []string) *http.Client {
	out := s.cfg.Egress(s.in)
	out.Origins, out.Local, out.Roots = origins, local, roots
	out.Dial, out.PrivateEndpoint = s.aws.Dial, s.aws.PrivateEndpoint
	c := egress.NewClient(out)
	s.clients = append(s.clients, c)
	return c
}

// secretsManagerOptions sets the options explicitly, so that none comes from the
// process's environment. The SDK does not retry requests, because its callers limit
// their rate. It does not log, and does not correct the clock for signatures.
func secretsManagerOptions(region, endpoint string, client *http.Client) secretsmanager.Options {
	return secretsmanager.Options{
		Region:                     region,
		BaseEndpoint:               &endpoint,
		HTTPClient:                 client,
		Retryer:                    aws.NopRetryer{},
		Logger:                     logging.Nop{},
		AppID:                      userAgent,
		DisableClockSkewCorrection: true,
	}
}

// userAgent identifies the broker in AWS's logs, in addition to the SDK's version.
const userAgent = "secretbroker"

// Fetch implements provider.Provider.
//
// Fetch repeats a read once, without a pause, if the connection broke, as happens
// when AWS has just closed it, or if AWS answered with a server error. It does not
// repeat timeouts, which have already used up their time, and throttling, which the
// caller waits out.
//
// AWS may refuse keys before their end, for example after an administrator revoked
// the role's sessions. The first Fetch that gets such a refusal drops the keys. Every
// Fetch that got one tries once more with new keys.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindAWSSecretsManager); err != nil {
		return nil, err
	}
	at, ok := s.endpoints[ref.Store]
	if !ok {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the store is not one of the integration's; add it to aws.stores")
	}
	keys, err := s.sessions.Get(ctx)
	if err != nil {
		return nil, explainGet(ctx, err)
	}
	sec, err := s.read(ctx, at, keys, ref)
	if worthRepeating(ctx, err) {
		sec, err = s.read(ctx, at, keys, ref)
	}
	if refusedKeys(err) && s.sessions.Refused(keys) {
		s.log.Warn("AWS refused the session's keys; requesting new ones", "region", at.region)
		if keys, err = s.sessions.Get(ctx); err != nil {
			return nil, explainGet(ctx, err)
		}
		sec, err = s.read(ctx, at, keys, ref)
	}
	if err != nil {
		return nil, explainRead(ctx, at, ref, err)
	}
	return sec, nil
}

// read reads a secret from the store. Its errors are the SDK's, or *secret.Error.
func (s *store) read(ctx context.Context, at *endpoint, k *keys, ref secret.Ref) (*secret.Secret, error) {
	sign := func(o *secretsmanager.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return k.Value, nil })
	}
	id := ref.Name
	if ref.Suffix != "" {
		id = at.arn + ref.FullName()
	}
	var a answer
	err := task.Contain(func() (err error) {
		if s.aws.RotationDates && ref.Version == "" {
			// The date is read before the value. If a rotation happens in between,
			// the date is too early, which costs one read; in the other order it
			// would be too late.
			if a.rotation, err = at.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &id}, sign); err != nil {
				return &describeError{err}
			}
		}
		a.began = s.cfg.Now()
		in := &secretsmanager.GetSecretValueInput{SecretId: &id}
		switch {
		case ref.Version == "":
			// AWS would return the same version without a stage. But AWS's own example
			// of a policy permits only requests that name this stage.
			in.VersionStage = aws.String(secret.AWSCurrent)
		case secret.IsAWSVersionID(ref.Version):
			in.VersionId = &ref.Version
			if ref.Version == noVersion { // a policy may permit only requests that name this stage, see above
				in.VersionStage = aws.String(secret.AWSCurrent)
			}
		default:
			in.VersionStage = &ref.Version
		}
		a.value, err = at.client.GetSecretValue(ctx, in, sign)
		return err
	})
	if err != nil {
		return nil, err
	}
	return a.check(at, ref, s.cfg.Now())
}

// Close implements provider.Provider. It waits a few seconds at most for requests
// that no caller waits for, and returns an error if some of them are still running.
func (s *store) Close() error {
	s.sessions.Close()
	err := s.tasks.Stop(closeTimeout)
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
	return err
}
