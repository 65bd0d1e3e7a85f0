package integration

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// AWS is how an integration reaches AWS Secrets Manager.
type AWS struct {
	// Stores are the only stores that are ever read, canonical
	// (secret.Kind.ParseStore), all of one partition. A region of AccountID is
	// listed twice, by its endpoint and by its ARN: either names the same secrets.
	Stores []string
	// AccountID is the account of the identity that reads, 12 digits. Secrets named
	// by an endpoint are this account's.
	AccountID string
	// Role is what the credential takes on to read; nil if it reads itself.
	Role       *AWSRole
	Credential AWSCredential
	// Endpoints maps each region of Stores to where its Secrets Manager is:
	// "https://HOST[:PORT]".
	Endpoints map[string]string
	// STSRegion and STSEndpoint are where roles are assumed.
	STSRegion, STSEndpoint string
	// CAFile is a PEM file of roots added to the system's, for all endpoints;
	// empty for none.
	CAFile string
	// Dial maps a host name in lower case to the "host:port" to connect to
	// instead. Name and certificate checks stay those of the host name.
	Dial map[string]string
	// PrivateEndpoint says that the names of the endpoints may lead to private
	// addresses. Without it they are refused.
	PrivateEndpoint bool
	// RotationDates says that the date of a secret's next rotation, which takes a
	// second request for each read, ends the time for which a value is good.
	RotationDates bool
}

// AWSRole is a role that an integration's credential assumes.
type AWSRole struct {
	ARN string
	// ExternalID is what the role's trust policy asks for, so that nobody can have
	// the broker use another's role. It is no secret.
	ExternalID string
	// Duration is how long a session lasts, 15 minutes to 12 hours.
	Duration time.Duration
	// SourceIdentity, if set, is what CloudTrail records as the session's source.
	SourceIdentity string
	// Tags are the session's.
	Tags map[string]string
}

// AWSCredentialType is a way to prove an identity to AWS.
type AWSCredentialType string

// The credential types of AWS. AWSDefault alone looks at the process's
// environment, the user's files and the machine's metadata service.
const (
	AWSStatic      AWSCredentialType = "static"
	AWSProfile     AWSCredentialType = "profile"
	AWSWebIdentity AWSCredentialType = "web_identity"
	AWSDefault     AWSCredentialType = "default"
)

// AWSCredential names what an AWS credential is made of. Only the fields of its
// Type are set.
type AWSCredential struct {
	Type AWSCredentialType
	// AccessKeyIDFile, SecretAccessKeyFile and, for temporary keys,
	// SessionTokenFile hold one text each; surrounding white space is cut.
	AccessKeyIDFile, SecretAccessKeyFile, SessionTokenFile string
	// CredentialsFile is in the format of the AWS tools, Profile a section of it.
	CredentialsFile, Profile string
	// TokenFile holds an OpenID Connect token for which STS gives a session of
	// RoleARN. It is read again for each session.
	TokenFile, RoleARN string
}

// Place returns the region and the account whose secrets one of Stores has.
func (a *AWS) Place(store string) (region, account string) {
	if account = awsAccount(store); account == "" {
		account = a.AccountID
	}
	return awsRegion(store), account
}

// awsRegion returns the region of a canonical store.
func awsRegion(store string) string {
	if rest, ok := strings.CutPrefix(store, "arn:"); ok {
		return strings.Split(rest, ":")[2]
	}
	return strings.Split(store, ".")[1]
}

// awsAccount returns the account of a canonical store, empty for an endpoint.
func awsAccount(store string) string {
	if !strings.HasPrefix(store, "arn:") {
		return ""
	}
	return store[strings.LastIndexByte(store, ':')+1:]
}

// alike returns the stores that name the same secrets as store: it alone, or, of
// the integration's own account, the region's endpoint and its ARN.
func (a *AWS) alike(store string) []string {
	if account := awsAccount(store); account != "" && account != a.AccountID || a.AccountID == "" {
		return []string{store}
	}
	region := awsRegion(store)
	return []string{secret.AWSEndpoint(region), secret.AWSAccountStore(region, a.AccountID)}
}

// widen returns grants in which a store of the integration's own account, in
// whichever form it is written, stands in both. What is added follows what was
// there. Stores that cannot be made out are left for the policy to refuse.
func (a *AWS) widen(grants []grantSection) []grantSection {
	grants = slices.Clone(grants)
	for i := range grants {
		for _, list := range []*[]string{&grants[i].Vaults, &grants[i].Stores} {
			var also []string
			for _, s := range *list {
				store, err := secret.KindAWSSecretsManager.ParseStore(s)
				if err == nil && slices.Contains(a.Stores, store) {
					also = append(also, a.alike(store)...)
				}
			}
			if len(also) > 0 {
				*list = append(slices.Clone(*list), also...)
			}
		}
	}
	return grants
}

// hosts returns the hosts that requests go to, without ports.
func (a *AWS) hosts() map[string]bool {
	hosts := make(map[string]bool, len(a.Endpoints)+1)
	for _, endpoint := range append(slices.Collect(maps.Values(a.Endpoints)), a.STSEndpoint) {
		host, _, _ := strings.Cut(strings.TrimPrefix(endpoint, "https://"), ":")
		hosts[host] = true
	}
	return hosts
}
