package awssm

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Spec returns what the kind brings to integrations.
func Spec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindAWSSecretsManager, Section: "aws", Cloud: "aws",
		Mutable: []string{
			"aws.stores", "aws.account_id", "aws.role.arn", "aws.role.duration", "aws.role.source_identity", "aws.role.tags",
			"aws.fips", "aws.sts_region", "aws.rotation_dates", "aws.credential.type=static",
		},
		// An owner who could choose the external ID could choose the one by which another
		// integration's role recognises the broker.
		Immutable:   []string{"aws.role.external_id"},
		Credentials: []string{"aws.credential.access_key_id", "aws.credential.secret_access_key", "aws.credential.session_token"},
		Generated:   "role.external_id",
		Choices:     map[string][]string{"aws.credential.type": integration.ChoiceNames(credentialRules)},
		Parse:       integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
	}
}

// parser validates the section.
type parser struct{ *integration.Parser }

// settingsOf returns the settings of an integration, nil if it is of another kind.
func settingsOf(in *integration.Integration) *Settings {
	s, _ := in.Settings.(*Settings)
	return s
}

// StoreNames implements integration.Settings.
func (a *Settings) StoreNames() []string { return a.Stores }

// Settings is how an integration reaches AWS Secrets Manager.
type Settings struct {
	// Stores are the only stores that are ever read, canonical
	// (secret.Kind.ParseStore), all of one partition. A region of AccountID is
	// listed twice, by its endpoint and by its ARN: either names the same secrets.
	Stores []string
	// AccountID is the account of the identity that reads, 12 digits. Secrets named
	// by an endpoint are this account's.
	AccountID string
	// Role is what the credential takes on to read; nil if it reads itself.
	Role       *Role
	Credential Credential
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

// Role is a role that an integration's credential assumes.
type Role struct {
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

// CredentialType is a way to prove an identity to AWS.
type CredentialType string

// The credential types of AWS. AWSDefault alone looks at the process's
// environment, the user's files and the machine's metadata service.
const (
	Static            CredentialType = "static"
	Profile           CredentialType = "profile"
	WebIdentity       CredentialType = "web_identity"
	DefaultCredential CredentialType = "default"
)

// Credential names what an AWS credential is made of. Only the fields of its
// Type are set.
type Credential struct {
	Type CredentialType
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
func (a *Settings) Place(store string) (region, account string) {
	if account = accountOf(store); account == "" {
		account = a.AccountID
	}
	return regionOf(store), account
}

// regionOf returns the region of a canonical store.
func regionOf(store string) string {
	if rest, ok := strings.CutPrefix(store, "arn:"); ok {
		return strings.Split(rest, ":")[2]
	}
	return strings.Split(store, ".")[1]
}

// accountOf returns the account of a canonical store, empty for an endpoint.
func accountOf(store string) string {
	if !strings.HasPrefix(store, "arn:") {
		return ""
	}
	return store[strings.LastIndexByte(store, ':')+1:]
}

// Aliases returns the stores that name the same secrets as store: it alone, or, of
// the integration's own account, the region's endpoint and its ARN.
func (a *Settings) Aliases(store string) []string {
	if account := accountOf(store); account != "" && account != a.AccountID || a.AccountID == "" {
		return []string{store}
	}
	region := regionOf(store)
	return []string{secret.AWSEndpoint(region), secret.AWSAccountStore(region, a.AccountID)}
}

// hosts returns the hosts that requests go to, without ports.
func (a *Settings) hosts() []string {
	hosts := make([]string, 0, len(a.Endpoints)+1)
	for _, endpoint := range append(slices.Collect(maps.Values(a.Endpoints)), a.STSEndpoint) {
		host, _, _ := strings.Cut(strings.TrimPrefix(endpoint, "https://"), ":")
		hosts = append(hosts, host)
	}
	return hosts
}
