package awssm

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go/logging"
)

// tokenService gets sessions of roles from STS.
type tokenService struct {
	client *sts.Client
	// session is the name of the sessions, which CloudTrail shows.
	session string
	id      identity
}

func (c *connection) newSTS() *tokenService {
	return &tokenService{
		session: sessionName(c.in.ID),
		id:      c.id,
		client: sts.New(sts.Options{
			Region:                     c.aws.STSRegion,
			BaseEndpoint:               &c.aws.STSEndpoint,
			HTTPClient:                 c.newClient([]string{c.aws.STSEndpoint}, nil),
			Retryer:                    aws.NopRetryer{},
			Logger:                     logging.Nop{},
			AppID:                      userAgent,
			DisableClockSkewCorrection: true,
		}),
	}
}

// maxSessionName is the maximum length of a RoleSessionName.
const maxSessionName = 64

// sessionName returns a session name with the integration's ID, whose characters STS
// accepts. The prefix with the broker's name ensures the minimum length of two.
func sessionName(id string) string {
	if name := userAgent + "-" + id; len(name) <= maxSessionName {
		return name
	}
	return id
}

// assume gets a session of the identity's role for the owner of keys.
func (t *tokenService) assume(ctx context.Context, keys aws.Credentials) (aws.Credentials, error) {
	role := t.id.role
	in := &sts.AssumeRoleInput{
		RoleArn:         &role.ARN,
		RoleSessionName: &t.session,
		ExternalId:      &role.ExternalID,
		DurationSeconds: aws.Int32(int32(role.Duration / time.Second)), //nolint:gosec // at most 12 hours
	}
	if role.SourceIdentity != "" {
		in.SourceIdentity = &role.SourceIdentity
	}
	for _, key := range slices.Sorted(maps.Keys(role.Tags)) {
		in.Tags = append(in.Tags, types.Tag{Key: &key, Value: aws.String(role.Tags[key])})
	}
	out, err := t.client.AssumeRole(ctx, in, func(o *sts.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return keys, nil })
	})
	if err != nil {
		return aws.Credentials{}, &acquisitionError{what: "the role " + t.id.roleAt + ".arn", assuming: true, err: err}
	}
	return t.keys(out.Credentials, out.AssumedRoleUser, role.ARN)
}

// assumeWithToken gets a session of the role for the owner of an OpenID Connect
// token. The token authenticates the request, which is not signed.
func (t *tokenService) assumeWithToken(ctx context.Context, token, arn string) (aws.Credentials, error) {
	out, err := t.client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          &arn,
		RoleSessionName:  &t.session,
		WebIdentityToken: &token,
	})
	if err != nil {
		return aws.Credentials{}, &acquisitionError{what: "the role " + t.id.credentialAt + ".role_arn", withToken: true, err: err}
	}
	return t.keys(out.Credentials, out.AssumedRoleUser, arn)
}

// keys checks STS's response: the session must belong to the role and have an end.
func (t *tokenService) keys(c *types.Credentials, user *types.AssumedRoleUser, role string) (aws.Credentials, error) {
	wrong := func(what string) (aws.Credentials, error) {
		return aws.Credentials{}, &acquisitionError{what: "STS", answer: what}
	}
	if c == nil || c.AccessKeyId == nil || c.SecretAccessKey == nil || c.SessionToken == nil || c.Expiration == nil ||
		*c.AccessKeyId == "" || *c.SecretAccessKey == "" || *c.SessionToken == "" {
		return wrong("the response has no complete keys")
	}
	if user == nil || user.Arn == nil || *user.Arn != t.sessionARN(role) {
		return wrong("the response is a session of another role")
	}
	return aws.Credentials{
		AccessKeyID:     *c.AccessKeyId,
		SecretAccessKey: *c.SecretAccessKey,
		SessionToken:    *c.SessionToken,
		Source:          userAgent,
		CanExpire:       true,
		Expires:         *c.Expiration,
	}, nil
}

// sessionARN returns the ARN of a session of the role. It does not contain the role's
// path.
func (t *tokenService) sessionARN(role string) string {
	parts := strings.SplitN(role, ":", 6) // arn, partition, iam, "", account, role/PATH/NAME
	if len(parts) != 6 {
		return ""
	}
	name := parts[5][strings.LastIndexByte(parts[5], '/')+1:]
	return "arn:" + parts[1] + ":sts::" + parts[4] + ":assumed-role/" + name + "/" + t.session
}
