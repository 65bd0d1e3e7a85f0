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
// role's sessions; the next request then replaces them once. The SDK's own caches are not used,
// because they would keep keys that AWS has refused.
//
// The package has no process-wide state, and only the credential type default reads
// the process's environment.
package awssm

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go/logging"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

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
	*connection
	// endpoints are the stores that may be read, by their canonical form.
	endpoints map[string]*endpoint
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
	c, err := newConnection(cfg, in, settingsOf(in).identity())
	if err != nil {
		return nil, err
	}
	s := &store{connection: c, endpoints: make(map[string]*endpoint, len(c.aws.Stores))}
	client := s.newClient(slices.Collect(maps.Values(c.aws.Endpoints)), nil)
	endpoints := make(map[string]*secretsmanager.Client, len(c.aws.Endpoints))
	for region, endpoint := range c.aws.Endpoints {
		endpoints[region] = secretsmanager.New(secretsManagerOptions(region, endpoint, client))
	}
	for _, st := range c.aws.Stores {
		region, account := c.aws.Place(st)
		if endpoints[region] == nil {
			return nil, storeerror.Setup("aws.stores has an entry that has no endpoint")
		}
		s.endpoints[st] = &endpoint{
			arn:    secret.AWSAccountStore(region, account) + ":secret:",
			region: region,
			host:   strings.TrimPrefix(c.aws.Endpoints[region], "https://"),
			client: endpoints[region],
		}
	}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
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

// Fetch implements provider.Provider. It repeats requests as signed does.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindAWSSecretsManager); err != nil {
		return nil, err
	}
	at, ok := s.endpoints[ref.Store]
	if !ok {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the store is not one of the integration's; add it to aws.stores")
	}
	var sec *secret.Secret
	err := s.signed(ctx, at.region, func(k *keys) (err error) {
		sec, err = s.read(ctx, at, k, ref)
		return err
	})
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
func (s *store) Close() error { return s.close() }
