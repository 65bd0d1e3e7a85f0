package awssm

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// profileLife is how long keys of a credentials file are used before the file is read
// again. The program that renews the keys does so well before their end.
const profileLife = 10 * time.Minute

// keySource returns the source of the connection's keys: its credential, and the
// role that the credential assumes, if any. It reads the credential's files.
func (c *connection) keySource(ctx context.Context) (keySource, error) {
	sts := c.newSTS()
	base, err := c.credential(ctx, sts)
	if err != nil || c.id.role == nil {
		return base, err
	}
	return func(ctx context.Context) (aws.Credentials, error) {
		keys, err := base(ctx)
		if err != nil {
			return aws.Credentials{}, err
		}
		return sts.assume(ctx, keys)
	}, nil
}

func (c *connection) credential(ctx context.Context, sts *tokenService) (keySource, error) {
	cred := c.id.credential
	switch cred.Type {
	case Static:
		return c.staticKeys(ctx)
	case Profile:
		return c.profileKeys(ctx)
	case WebIdentity:
		setting := c.id.credentialAt + ".token_file"
		if _, err := egress.ReadFile(setting, cred.TokenFile); err != nil {
			return nil, err
		}
		return func(ctx context.Context) (aws.Credentials, error) {
			token, err := egress.ReadFile(setting, cred.TokenFile)
			if err != nil {
				return aws.Credentials{}, err
			}
			return sts.assumeWithToken(ctx, string(token), cred.RoleARN)
		}, nil
	case DefaultCredential:
		return c.defaultKeys(ctx)
	default:
		return nil, storeerror.Setup("%s.type is not one of static, profile, web_identity, default", c.id.credentialAt)
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
func (c *connection) staticKeys(ctx context.Context) (keySource, error) {
	cred := c.id.credential
	keys := aws.Credentials{Source: "secretbroker"}
	for _, f := range []struct {
		setting, path string
		to            *string
	}{
		{c.id.credentialAt + ".access_key_id_file", cred.AccessKeyIDFile, &keys.AccessKeyID},
		{c.id.credentialAt + ".secret_access_key_file", cred.SecretAccessKeyFile, &keys.SecretAccessKey},
		{c.id.credentialAt + ".session_token_file", cred.SessionTokenFile, &keys.SessionToken},
	} {
		if f.path == "" && c.in.Stored(f.setting) == nil && f.to == &keys.SessionToken {
			continue
		}
		b, err := egress.ReadCredential(ctx, c.in.Stored(f.setting), f.setting, f.path)
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
func (c *connection) profileKeys(ctx context.Context) (keySource, error) {
	cred, setting := c.id.credential, c.id.credentialAt+".credentials_file"
	read := func(ctx context.Context) (aws.Credentials, error) {
		if _, err := egress.ReadFile(setting, cred.CredentialsFile); err != nil { // the SDK would treat a missing file as empty
			return aws.Credentials{}, err
		}
		p, err := config.LoadSharedConfigProfile(ctx, cred.Profile, func(o *config.LoadSharedConfigOptions) {
			o.CredentialsFiles, o.ConfigFiles = []string{cred.CredentialsFile}, []string{}
			o.Logger = logging.Nop{}
		})
		if err != nil { // the cause may quote the file
			return aws.Credentials{}, storeerror.Setup("%s: %s has no usable section %s; it must contain aws_access_key_id and aws_secret_access_key", setting, cred.CredentialsFile, cred.Profile)
		}
		if p.RoleARN != "" || p.SourceProfileName != "" || p.CredentialSource != "" || p.CredentialProcess != "" ||
			p.WebIdentityTokenFile != "" || p.SSOStartURL != "" || p.SSOSessionName != "" || p.LoginSession != "" || !p.Credentials.HasKeys() {
			return aws.Credentials{}, storeerror.Setup("%s: the section %s of %s may contain only keys (aws_access_key_id, aws_secret_access_key, aws_session_token); set %s for a role, and the type default for any other source", setting, cred.Profile, cred.CredentialsFile, c.id.roleAt)
		}
		keys := p.Credentials
		keys.Source, keys.CanExpire, keys.Expires = "secretbroker", true, c.cfg.Now().Add(profileLife)
		return keys, nil
	}
	if _, err := read(ctx); err != nil {
		return nil, err
	}
	return read, nil
}

// defaultKeys uses the SDK's default chain: the process's environment, the user's
// files, and the metadata service of the container or machine.
func (c *connection) defaultKeys(ctx context.Context) (keySource, error) {
	origins, local := defaultOrigins(ctx, c.aws)
	client := c.newClient(origins, local)
	load := func(ctx context.Context) (aws.Config, error) {
		cfg, err := config.LoadDefaultConfig(ctx,
			config.WithRegion(c.aws.STSRegion),
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
