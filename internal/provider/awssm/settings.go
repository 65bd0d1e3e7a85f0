package awssm

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Spec returns the integration.Spec of the kind.
func Spec() integration.Spec {
	return integration.Spec{
		Kind: secret.KindAWSSecretsManager, Section: "aws", Cloud: "aws",
		Mutable: []string{
			"aws.stores", "aws.account_id", "aws.role.arn", "aws.role.duration", "aws.role.source_identity", "aws.role.tags",
			"aws.fips", "aws.sts_region", "aws.rotation_dates", "aws.credential.type=static",
			"aws.events.queue_url", "aws.events.credential.type=static",
			"aws.events.role.arn", "aws.events.role.duration", "aws.events.role.source_identity", "aws.events.role.tags",
		},
		// An owner who could choose the external ID could choose the one by which
		// another integration's role recognises the broker.
		Immutable: []string{"aws.role.external_id", "aws.events.role.external_id"},
		Credentials: []string{
			"aws.credential.access_key_id", "aws.credential.secret_access_key", "aws.credential.session_token",
			"aws.events.credential.access_key_id", "aws.events.credential.secret_access_key", "aws.events.credential.session_token",
		},
		Generated: "role.external_id",
		Choices: map[string][]string{
			"aws.credential.type":        integration.ChoiceNames(credentialRules),
			"aws.events.credential.type": integration.ChoiceNames(credentialRules),
		},
		Parse: integration.ParseSection(func(p *integration.Parser, s *section) integration.Settings { return parser{p}.settings(s) }),
	}
}

// parser validates the kind's section of an integration file.
type parser struct{ *integration.Parser }

// settingsOf returns the AWS settings of an integration; nil if it is of another
// kind.
func settingsOf(in *integration.Integration) *Settings {
	s, _ := in.Settings.(*Settings)
	return s
}

// StoreNames implements integration.Settings.
func (a *Settings) StoreNames() []string { return a.Stores }

// Settings describes how an integration reaches AWS Secrets Manager.
type Settings struct {
	// Stores are the only stores that are read, in canonical form
	// (secret.Kind.ParseStore), all of one partition. A region of AccountID is listed
	// twice, by its endpoint and by its ARN: both name the same secrets.
	Stores []string
	// AccountID is the account of the identity that reads, 12 digits. A store that is
	// named by an endpoint contains this account's secrets.
	AccountID string
	// Role is the role that the credential assumes to read; nil if the credential
	// reads without a role.
	Role       *Role
	Credential Credential
	// Endpoints maps each region of Stores to its Secrets Manager endpoint:
	// "https://HOST[:PORT]".
	Endpoints map[string]string
	// STSRegion and STSEndpoint are the region and endpoint of STS.
	STSRegion, STSEndpoint string
	// CAFile is a PEM file with roots that are added to the system's, for all
	// endpoints; empty for none.
	CAFile string
	// Dial maps a host name in lower case to the "host:port" to connect to instead.
	// The certificate is still checked for the host name.
	Dial map[string]string
	// PrivateEndpoint permits the names of the endpoints to resolve to private
	// addresses.
	PrivateEndpoint bool
	// RotationDates limits the time for which a value is valid by the date of the
	// secret's next rotation. It costs a second request for each read.
	RotationDates bool
	// Events is the source of events; nil if there is none.
	Events *Events
}

// Role is a role that an integration's credential assumes.
type Role struct {
	ARN string
	// ExternalID is the external ID that the role's trust policy requires. It
	// prevents an integration from using the role of another one through the broker.
	// It is not a secret.
	ExternalID string
	// Duration is the duration of a session, 15 minutes to 12 hours.
	Duration time.Duration
	// SourceIdentity, if set, is recorded by CloudTrail as the session's source
	// identity.
	SourceIdentity string
	// Tags are the session's tags.
	Tags map[string]string
}

// CredentialType is a method of authentication to AWS.
type CredentialType string

// The credential types of AWS. Only AWSDefault reads the process's environment, the
// user's files and the machine's metadata service.
const (
	Static            CredentialType = "static"
	Profile           CredentialType = "profile"
	WebIdentity       CredentialType = "web_identity"
	DefaultCredential CredentialType = "default"
)

// Credential names the files of an AWS credential. Only the fields of its Type are
// set.
type Credential struct {
	Type CredentialType
	// AccessKeyIDFile, SecretAccessKeyFile and, for temporary keys, SessionTokenFile
	// each hold one text. Surrounding white space is removed.
	AccessKeyIDFile, SecretAccessKeyFile, SessionTokenFile string
	// CredentialsFile has the format of the AWS tools. Profile is a section of it.
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
		_, rest, _ = strings.Cut(rest, ":") // the partition
		_, rest, _ = strings.Cut(rest, ":") // the service
		region, _, _ := strings.Cut(rest, ":")
		return region
	}
	_, rest, _ := strings.Cut(store, ".")
	region, _, _ := strings.Cut(rest, ".")
	return region
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

// Canonical implements integration.Aliaser: of the stores of the integration's own account
// it returns the endpoint.
func (a *Settings) Canonical(store string) string {
	if account := accountOf(store); account == "" || account != a.AccountID {
		return store
	}
	region := regionOf(store)
	for _, other := range a.Stores {
		if accountOf(other) == "" && regionOf(other) == region {
			return other
		}
	}
	return store
}

// hosts returns the hosts that requests go to, without ports.
func (a *Settings) hosts() []string {
	hosts := make([]string, 0, len(a.Endpoints)+2)
	endpoints := append(slices.Collect(maps.Values(a.Endpoints)), a.STSEndpoint)
	if a.Events != nil {
		endpoints = append(endpoints, a.Events.Endpoint)
	}
	for _, endpoint := range endpoints {
		host, _, _ := strings.Cut(strings.TrimPrefix(endpoint, "https://"), ":")
		hosts = append(hosts, host)
	}
	return hosts
}
