package azurekv

import (
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// answer is a vault's response, with the time of the request.
type answer struct {
	azsecrets.GetSecretResponse
	began time.Time
}

// check converts the response to ref to a Secret. It refuses a response to something
// else, and a secret whose attributes forbid its use. Key Vault returns secrets that
// are expired or not yet valid like any other, so the broker has to enforce these
// dates.
func (a *answer) check(host string, ref secret.Ref, now time.Time) (*secret.Secret, error) {
	version, ok := a.identifies(host, ref)
	if !ok {
		return nil, unexpectedResponse(host, "the response is for another secret")
	}
	expires := time.Time{}
	if attr := a.Attributes; attr != nil {
		if attr.Enabled != nil && !*attr.Enabled {
			return nil, disabled(host)
		}
		if attr.NotBefore != nil && now.Before(*attr.NotBefore) {
			return nil, secret.Errorf(secret.ReasonSecretNotYetValid,
				"the secret in vault %s is not valid before %s; wait, or move its activation date", host, stamp(*attr.NotBefore))
		}
		if attr.Expires != nil {
			if expires = *attr.Expires; !now.Before(expires) {
				return nil, secret.Errorf(secret.ReasonSecretExpired,
					"the secret in vault %s expired at %s; set a new version, or move its expiry date", host, stamp(expires))
			}
		}
	}
	if a.Value == nil {
		return nil, unexpectedResponse(host, "the response has no value")
	}
	return secret.New(version, a.began, expires, []byte(*a.Value)), nil
}

// identifies reports whether the identifier in the response,
// https://VAULT/secrets/NAME/VERSION, is the one that ref asks for, and returns its
// version. The SDK's own ID.Name panics if the name is missing.
func (a *answer) identifies(host string, ref secret.Ref) (version string, ok bool) {
	if a.ID == nil {
		return "", false
	}
	u, err := url.Parse(string(*a.ID))
	if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Hostname(), host) {
		return "", false
	}
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if len(parts) != 3 || !strings.EqualFold(parts[0], "secrets") || !strings.EqualFold(parts[1], ref.Name) {
		return "", false
	}
	version = strings.ToLower(parts[2])
	if version != storeerror.Plain(version) || version == "" {
		return "", false
	}
	return version, ref.Version == "" || version == ref.Version
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
