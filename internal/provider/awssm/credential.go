package awssm

import (
	"context"
	"crypto/x509"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// profileLife is how long keys of a credentials file are used before the file is read
// again. The program that renews the keys does so well before their end.
const profileLife = 10 * time.Minute

// keySource returns the source of the integration's keys: its credential, and the
// role that the credential assumes, if any. It reads the credential's files.
func (s *store) keySource(ctx context.Context, in *integration.Integration, roots *x509.CertPool) (keySource, error) {
	sts := s.newSTS(in.ID, roots)
	base, err := s.credential(ctx, in, sts, roots)
	if err != nil || s.aws.Role == nil {
		return base, err
	}
	role := s.aws.Role
	return func(ctx context.Context) (aws.Credentials, error) {
		keys, err := base(ctx)
		if err != nil {
			return aws.Credentials{}, err
		}
		return sts.assume(ctx, keys, role)
	}, nil
}

func (s *store) credential(ctx context.Context, in *integration.Integration, sts *tokenService, roots *x509.CertPool) (keySource, error) {
	c := s.aws.Credential
	switch c.Type {
	case Static:
		return staticKeys(ctx, in)
	case Profile:
		return s.profileKeys(ctx, c)
	case WebIdentity:
		const setting = "aws.credential.token_file"
		if _, err := egress.ReadFile(setting, c.TokenFile); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (aws.Credentials, error) {
			token, err := egress.ReadFile(setting, c.TokenFile)
			if err != nil {
				return aws.Credentials{}, err
			}
			return sts.assumeWithToken(ctx, string(token), c.RoleARN)
		}, nil
	case DefaultCredential:
		return s.defaultKeys(ctx, roots)
	default:
		return nil, storeerror.Setup("aws.credential.type is not one of static, profile, web_identity, default")
	}
}

// credentialFiles returns the files that a key source reads for each acquisition. A
// change of any other file changes the integration's revision.
func credentialFiles(c Credential) []string {
	switch c.Type {
	case Profile:
		return []string{c.CredentialsFile}
	case WebIdentity:
		return []string{c.TokenFile}
	default:
		return nil
	}
}

// staticKeys reads the files once, because a changed file changes the integration's
// revision.
func staticKeys(ctx context.Context, in *integration.Integration) (keySource, error) {
	c := settingsOf(in).Credential
	keys := aws.Credentials{Source: "secretbroker"}
	for _, f := range []struct {
		setting, path string
		to            *string
	}{
		{"aws.credential.access_key_id_file", c.AccessKeyIDFile, &keys.AccessKeyID},
		{"aws.credential.secret_access_key_file", c.SecretAccessKeyFile, &keys.SecretAccessKey},
		{"aws.credential.session_token_file", c.SessionTokenFile, &keys.SessionToken},
	} {
		if f.path == "" && in.Stored(f.setting) == nil && f.to == &keys.SessionToken {
			continue
		}
		b, err := egress.ReadCredential(ctx, in.Stored(f.setting), f.setting, f.path)
		if err != nil {
			return nil, err
		}
		*f.to = string(b)
		clear(b)
		if strings.ContainsFunc(*f.to, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, storeerror.Setup("%s: %s contains more than one word of plain text", f.setting, egress.CredentialSource(f.path))
		}
	}
	return func(context.Context) (aws.Credentials, error) { return keys, nil }, nil
}

// profileKeys reads keys from a section of a credentials file. It refuses a section
// with other settings (roles, processes to run, other sources), because they would
// grant authority that the integration's file does not show.
func (s *store) profileKeys(ctx context.Context, c Credential) (keySource, error) {
	const setting = "aws.credential.credentials_file"
	read := func(ctx context.Context) (aws.Credentials, error) {
		if _, err := egress.ReadFile(setting, c.CredentialsFile); err != nil { // the SDK would treat a missing file as empty
			return aws.Credentials{}, err
		}
		p, err := config.LoadSharedConfigProfile(ctx, c.Profile, func(o *config.LoadSharedConfigOptions) {
			o.CredentialsFiles, o.ConfigFiles = []string{c.CredentialsFile}, []string{}
			o.Logger = logging.Nop{}
		})
		if err != nil { // the cause may quote the file
			return aws.Credentials{}, storeerror.Setup("%s: %s has no usable section %s; it must contain aws_access_key_id and aws_secret_access_key", setting, c.CredentialsFile, c.Profile)
		}
		if p.RoleARN != "" || p.SourceProfileName != "" || p.CredentialSource != "" || p.CredentialProcess != "" ||
			p.WebIdentityTokenFile != "" || p.SSOStartURL != "" || p.SSOSessionName != "" || p.LoginSession != "" || !p.Credentials.HasKeys() {
			return aws.Credentials{}, storeerror.Setup("%s: the section %s of %s may contain only keys (aws_access_key_id, aws_secret_access_key, aws_session_token); set aws.role for a role, and the type default for any other source", setting, c.Profile, c.CredentialsFile)
		}
		keys := p.Credentials
		keys.Source, keys.CanExpire, keys.Expires = "secretbroker", true, s.cfg.Now().Add(profileLife)
		return keys, nil
	}
	if _, err := read(ctx); err != nil {
		return nil, err
	}
	return read, nil
}

// defaultKeys uses the SDK's default chain: the process's environment, the user's
// files, and the metadata service of the container or machine.
func (s *store) defaultKeys(ctx context.Context, roots *x509.CertPool) (keySource, error) {
	origins, local := defaultOrigins(ctx, s.aws)
	client := s.newClient(roots, origins, local)
	load := func(ctx context.Context) (aws.Config, error) {
		cfg, err := config.LoadDefaultConfig(ctx,
			config.WithRegion(s.aws.STSRegion),
			config.WithHTTPClient(client),
			config.WithLogger(logging.Nop{}),
			config.WithClientLogMode(0),
			config.WithDefaultsMode(aws.DefaultsModeLegacy), // the automatic mode would query the metadata service
			config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
			config.WithAppID(userAgent),
		)
		if err != nil || cfg.Credentials == nil {
			return cfg, storeerror.Setup("the default credential cannot be used; check the AWS_* environment variables of the broker (use aws.ca_file instead of AWS_CA_BUNDLE) and its AWS configuration files")
		}
		return cfg, nil
	}
	if _, err := load(ctx); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (aws.Credentials, error) {
		// A new provider for each acquisition, because the SDK's provider would keep
		// keys that AWS has refused.
		cfg, err := load(ctx)
		if err != nil {
			return aws.Credentials{}, err
		}
		keys, err := cfg.Credentials.Retrieve(ctx)
		if err != nil {
			return aws.Credentials{}, &acquisitionError{what: "the default credential", err: err}
		}
		return keys, nil
	}, nil
}
