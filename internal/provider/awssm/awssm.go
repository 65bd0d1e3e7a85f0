// Package awssm reads secrets from AWS Secrets Manager.
//
// It owns everything that is particular to AWS: credentials, the roles that they
// assume and the sessions that come of it, the way to the endpoints, the meaning
// of their answers. It keeps no value: caching, throttling and the decision who
// may read belong to its callers. Nothing here is process-wide, and nothing but
// the credential type default looks at the process's environment.
//
// Requests leave for the endpoints of the integration's regions and for STS, and
// for nowhere else; see origins for what the credential type default adds.
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

// closeTimeout bounds how long Close waits for what it has cancelled.
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

// endpoint is where the secrets of one store are.
type endpoint struct {
	// arn is how the ARNs of the store's secrets begin, up to the name.
	arn string
	// region is how people are told of it.
	region string
	// host is that of the endpoint.
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

// newClient makes a client for https on the origins, and on the local ones
// whatever they are.
func (s *store) newClient(roots *x509.CertPool, origins, local []string) *http.Client {
	out := s.cfg.Egress(s.in)
	out.Origins, out.Local, out.Roots = origins, local, roots
	out.Dial, out.PrivateEndpoint = s.aws.Dial, s.aws.PrivateEndpoint
	c := egress.NewClient(out)
	s.clients = append(s.clients, c)
	return c
}

// secretsManagerOptions are made by hand, so that nothing comes from the
// process's environment. The SDK neither repeats requests (its callers have a
// pace of their own), nor logs, nor signs with another clock than the system's.
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

// userAgent is what AWS logs of the broker, beside the SDK's version.
const userAgent = "secretbroker"

// Fetch implements provider.Provider.
//
// A read that broke off, as with a connection that AWS has just closed, or that
// AWS failed is repeated once, at once. Timeouts have already taken their time,
// and throttling is the caller's to wait for.
//
// AWS may refuse keys before their end, for example after the role's sessions
// were revoked. The first Fetch to see that drops them, and each that saw it
// tries once more with new ones.
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
		s.log.Warn("AWS refused the session's keys: asking for new ones", "region", at.region)
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

// read asks the store. Its errors are the SDK's, or *secret.Error.
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
			// Before the value is read: if it is rotated in between, the date is too
			// early, which costs a read, and not too late.
			if a.rotation, err = at.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &id}, sign); err != nil {
				return &describeError{err}
			}
		}
		a.began = s.cfg.Now()
		in := &secretsmanager.GetSecretValueInput{SecretId: &id}
		switch {
		case ref.Version == "":
		case secret.IsAWSVersionID(ref.Version):
			in.VersionId = &ref.Version
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

// Close implements provider.Provider. It waits at most a few seconds for requests
// that no caller waits for; the error says that some remained.
func (s *store) Close() error {
	s.sessions.Close()
	err := s.tasks.Stop(closeTimeout)
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
	return err
}
