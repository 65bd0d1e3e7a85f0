package awssm

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

type section struct {
	Stores          []string          `yaml:"stores"`
	AccountID       string            `yaml:"account_id"`
	Role            roleSection       `yaml:"role"`
	Credential      credentialSection `yaml:"credential"`
	FIPS            bool              `yaml:"fips"`
	Endpoints       map[string]string `yaml:"endpoints"`
	STSRegion       string            `yaml:"sts_region"`
	STSEndpoint     string            `yaml:"sts_endpoint"`
	CAFile          string            `yaml:"ca_file"`
	Dial            map[string]string `yaml:"dial"`
	PrivateEndpoint bool              `yaml:"private_endpoint"`
	RotationDates   bool              `yaml:"rotation_dates"`
	Events          eventsSection     `yaml:"events"`
}

type eventsSection struct {
	QueueURL   string            `yaml:"queue_url"`
	Credential credentialSection `yaml:"credential"`
	Role       roleSection       `yaml:"role"`
}

type roleSection struct {
	ARN            string              `yaml:"arn"`
	ExternalID     string              `yaml:"external_id"`
	Duration       strictyaml.Duration `yaml:"duration"`
	SourceIdentity string              `yaml:"source_identity"`
	Tags           map[string]string   `yaml:"tags"`
}

type credentialSection struct {
	Type                string `yaml:"type"`
	AccessKeyIDFile     string `yaml:"access_key_id_file"`
	SecretAccessKeyFile string `yaml:"secret_access_key_file"`
	SessionTokenFile    string `yaml:"session_token_file"`
	CredentialsFile     string `yaml:"credentials_file"`
	Profile             string `yaml:"profile"`
	TokenFile           string `yaml:"token_file"`
	RoleARN             string `yaml:"role_arn"`
}

var credentialRules = integration.CredentialRules[CredentialType]{
	Static:            {"access_key_id_file": true, "secret_access_key_file": true, "session_token_file": false},
	Profile:           {"credentials_file": true, "profile": true},
	WebIdentity:       {"token_file": true, "role_arn": true},
	DefaultCredential: {},
}

// The patterns and limits of AWS's API reference: IAM ARNs, and the parameters of STS
// AssumeRole.
var (
	roleARNPattern    = regexp.MustCompile(`^arn:(aws(?:-[a-z-]{1,16})?):iam::([0-9]{12}):role/[\w+=,.@/-]{1,576}$`)
	externalIDPattern = regexp.MustCompile(`^[\w+=,.@:/-]{2,1000}[\w+=,.@:/-]{0,224}$`)
	sourceIdentity    = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	sessionTag        = regexp.MustCompile(`^[\p{L}\p{N} _.:/=+@-]*$`)
	profileName       = regexp.MustCompile(`^[\w+=,.@:/-]{1,128}$`)
)

const (
	minSession     = 15 * time.Minute
	maxSession     = 12 * time.Hour
	defaultSession = time.Hour // every role permits it, and role chaining permits no more
	maxTags        = 50
)

// settings validates the section. The result is usable only if the parser has
// reported no fault.
func (p parser) settings(s *section) *Settings {
	a := &Settings{PrivateEndpoint: s.PrivateEndpoint, RotationDates: s.RotationDates}
	listed := p.Stores("aws.stores", s.Stores, secret.KindAWSSecretsManager, "at least one store is required, such as https://secretsmanager.eu-west-1.amazonaws.com")
	stores := integration.StoreNames(listed)
	a.Credential = p.credential("aws.credential", s.Credential)
	a.Role = p.role("aws.role", s.Role, a.Credential.Type)
	a.AccountID = p.account(s, a)
	for _, store := range stores {
		for _, same := range a.Aliases(store) {
			if !slices.Contains(a.Stores, same) {
				a.Stores = append(a.Stores, same)
			}
		}
	}
	p.endpoints(s, a, stores)
	a.Events = p.events(s, a)
	p.partition(a, listed)
	a.CAFile = p.File("aws.ca_file", s.CAFile, integration.UseCA)
	a.Dial = p.Dial("aws.dial", s.Dial, a.hosts(), "not the host of an endpoint; nothing else is contacted")
	return a
}

func (p parser) credential(at string, s credentialSection) Credential {
	c := Credential{Type: CredentialType(s.Type)}
	integration.ParseCredential(p.Parser, at, c.Type, credentialRules,
		integration.CredentialSetting{Name: "access_key_id_file", Value: s.AccessKeyIDFile, To: &c.AccessKeyIDFile, Storable: true},
		integration.CredentialSetting{Name: "secret_access_key_file", Value: s.SecretAccessKeyFile, To: &c.SecretAccessKeyFile, Storable: true},
		integration.CredentialSetting{Name: "session_token_file", Value: s.SessionTokenFile, To: &c.SessionTokenFile, Storable: true},
		integration.CredentialSetting{Name: "credentials_file", Value: s.CredentialsFile, To: &c.CredentialsFile, Use: integration.UseToken},
		integration.CredentialSetting{Name: "profile", Value: s.Profile, To: &c.Profile,
			Check: matching(profileName, "expected the name of a section of the credentials file")},
		integration.CredentialSetting{Name: "token_file", Value: s.TokenFile, To: &c.TokenFile, Use: integration.UseToken},
		integration.CredentialSetting{Name: "role_arn", Value: s.RoleARN, To: &c.RoleARN,
			Check: matching(roleARNPattern, "expected a role's ARN, arn:aws:iam::ACCOUNT:role/NAME")},
	)
	return c
}

// matching returns a check that a text matches pattern.
func matching(pattern *regexp.Regexp, fault string) func(string) string {
	return func(text string) string {
		if pattern.MatchString(text) {
			return ""
		}
		return fault
	}
}

// role returns nil if the section has no role.
func (p parser) role(at string, s roleSection, credential CredentialType) *Role {
	if !p.Has(at) {
		return nil
	}
	r := &Role{ARN: s.ARN, ExternalID: s.ExternalID, Duration: time.Duration(s.Duration), SourceIdentity: s.SourceIdentity, Tags: s.Tags}
	if !roleARNPattern.MatchString(r.ARN) {
		p.Fault(at+".arn", "expected the ARN of the role to assume, arn:aws:iam::ACCOUNT:role/NAME")
	}
	switch {
	case r.ExternalID == "" && !p.Has(at+".external_id"):
		p.Fault(at+".external_id", "missing; it is required: a unique identifier, for example from uuidgen, that the role's trust policy requires")
	case !externalIDPattern.MatchString(r.ExternalID):
		p.Fault(at+".external_id", "expected 2 to 1224 letters, digits and characters of +=,.@:/_-")
	}
	chained := credential == WebIdentity
	switch {
	case !p.Has(at + ".duration"):
		r.Duration = defaultSession
	case r.Duration < minSession || r.Duration > maxSession || r.Duration%time.Second != 0:
		p.Fault(at+".duration", "expected 15m to 12h in whole seconds, and no more than the role allows")
	case chained && r.Duration > defaultSession:
		p.Fault(at+".duration", "at most 1h for a role that another role assumes, as with the credential type %s", credential)
	}
	if p.Has(at+".source_identity") && (!sourceIdentity.MatchString(r.SourceIdentity) || strings.HasPrefix(strings.ToLower(r.SourceIdentity), "aws:")) {
		p.Fault(at+".source_identity", "expected 2 to 64 letters, digits and characters of +=,.@_-")
	}
	if len(r.Tags) > maxTags {
		p.Fault(at+".tags", "expected at most %d", maxTags)
	}
	for _, key := range slices.Sorted(maps.Keys(r.Tags)) {
		value := r.Tags[key]
		if key == "" || len(key) > 128 || len(value) > 256 || !sessionTag.MatchString(key) || !sessionTag.MatchString(value) || strings.HasPrefix(strings.ToLower(key), "aws:") {
			p.Fault(strictyaml.Key(at+".tags", key), "expected a key of 1 to 128 and a value of up to 256 letters, digits, spaces and characters of _.:/=+@-; keys do not begin with aws:")
		}
	}
	return r
}

// account returns the account of the identity that reads.
func (p parser) account(s *section, a *Settings) string {
	const path = "aws.account_id"
	arn, from := a.Credential.RoleARN, "aws.credential.role_arn"
	if a.Role != nil {
		arn, from = a.Role.ARN, "aws.role.arn"
	}
	account := s.AccountID
	if p.Has(path) && !secret.IsAWSAccount(account) {
		p.Fault(path, "expected an account's 12 digits, in quotation marks")
		return ""
	}
	if m := roleARNPattern.FindStringSubmatch(arn); m != nil {
		if account != "" && account != m[2] {
			p.Fault(path, "not the account of %s, from which secrets are read", from)
		}
		return m[2]
	}
	if account == "" && arn == "" {
		p.Fault(path, "missing; without a role it is required: the account of the credential")
	}
	return account
}

// partition refuses stores of different partitions: an identity exists in one
// partition only.
func (p parser) partition(a *Settings, stores []integration.ListedStore) {
	if len(stores) == 0 {
		return
	}
	of, _ := secret.AWSPartitionOf(regionOf(stores[0].Name))
	for _, store := range stores {
		if in, _ := secret.AWSPartitionOf(regionOf(store.Name)); in != of {
			p.Fault(strictyaml.Index("aws.stores", store.Index), "a store of the partition %s, but the first one is of %s; make an integration for each partition", in.ID, of.ID)
		}
	}
	check := func(path, arn string) {
		if m := roleARNPattern.FindStringSubmatch(arn); m != nil && m[1] != of.ID {
			p.Fault(path, "a role of the partition %s, but aws.stores are of %s", m[1], of.ID)
		}
	}
	for _, id := range a.identities() {
		check(id.credentialAt+".role_arn", id.credential.RoleARN)
		if id.role != nil {
			check(id.roleAt+".arn", id.role.ARN)
		}
	}
	if a.Events != nil && a.Events.Region != "" {
		if in, _ := secret.AWSPartitionOf(a.Events.Region); in != of {
			p.Fault("aws.events.queue_url", "a queue of the partition %s, but aws.stores are of %s", in.ID, of.ID)
		}
	}
	if in, ok := secret.AWSPartitionOf(a.STSRegion); ok && in != of {
		p.Fault("aws.sts_region", "a region of the partition %s, but aws.stores are of %s", in.ID, of.ID)
	}
}

// endpoints sets the endpoints of the stores' regions and of STS.
func (p parser) endpoints(s *section, a *Settings, stores []string) {
	a.Endpoints = make(map[string]string, len(stores))
	for _, store := range stores {
		region := regionOf(store)
		a.Endpoints[region] = hostOf("secretsmanager", region, s.FIPS)
	}
	for _, region := range slices.Sorted(maps.Keys(s.Endpoints)) {
		path := strictyaml.Key("aws.endpoints", region)
		if a.Endpoints[region] == "" {
			p.Fault(path, "not a region of aws.stores; nothing else is contacted")
		} else if endpoint := p.url(path, s.Endpoints[region]); endpoint != "" {
			a.Endpoints[region] = endpoint
		}
	}
	a.STSRegion = s.STSRegion
	if _, ok := secret.AWSPartitionOf(s.STSRegion); p.Has("aws.sts_region") && !ok {
		p.Fault("aws.sts_region", "expected a region, such as eu-west-1")
		return
	}
	if a.STSRegion == "" && len(stores) > 0 {
		a.STSRegion = regionOf(stores[0])
	}
	if a.STSRegion != "" {
		a.STSEndpoint = hostOf("sts", a.STSRegion, s.FIPS)
	}
	if p.Has("aws.sts_endpoint") {
		a.STSEndpoint = p.url("aws.sts_endpoint", s.STSEndpoint)
	}
}

// hostOf returns the host of a service's endpoint in a region. Source: the endpoint
// rules of the AWS SDKs.
func hostOf(service, region string, fips bool) string {
	partition, _ := secret.AWSPartitionOf(region)
	if fips && (service == "secretsmanager" || partition.ID != "aws-us-gov") { // there the plain names of the others are FIPS endpoints
		service += "-fips"
	}
	return "https://" + service + "." + region + partition.Suffix
}

// url returns s in the form "https://HOST[:PORT]".
func (p parser) url(path, s string) string {
	rest, ok := strings.CutPrefix(s, "https://")
	rest = strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(rest, "/"), ":443"))
	host, port, hasPort := strings.Cut(rest, ":")
	if !ok || !integration.ValidHost(host) || hasPort && !integration.ValidPort(port) {
		p.Fault(path, "expected https://HOST with nothing after it, such as https://vpce-0123-abc.secretsmanager.eu-west-1.vpce.amazonaws.com")
		return ""
	}
	return "https://" + rest
}
