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

// credentialRules maps each type of credential to its settings: true for a required
// one, false for an optional one.
var credentialRules = map[CredentialType]map[string]bool{
	Static:            {"access_key_id_file": true, "secret_access_key_file": true, "session_token_file": false},
	Profile:           {"credentials_file": true, "profile": true},
	WebIdentity:       {"token_file": true, "role_arn": true},
	DefaultCredential: {},
}

const credentialTypes = "static, profile, web_identity or default"

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
	stores := p.stores(s.Stores)
	a.Credential = p.credential(s.Credential)
	a.Role = p.role(s.Role, a.Credential.Type)
	a.AccountID = p.account(s, a)
	for _, store := range stores {
		for _, same := range a.Aliases(store) {
			if !slices.Contains(a.Stores, same) {
				a.Stores = append(a.Stores, same)
			}
		}
	}
	p.endpoints(s, a, stores)
	p.partition(a, stores)
	a.CAFile = p.File("aws.ca_file", s.CAFile, integration.UseCA)
	a.Dial = p.Dial("aws.dial", s.Dial, a.hosts(), "not the host of an endpoint; nothing else is contacted")
	return a
}

// stores returns the valid stores of list, in canonical form.
func (p parser) stores(list []string) []string {
	const path = "aws.stores"
	if len(list) == 0 {
		p.Fault(path, "at least one is required, such as https://secretsmanager.eu-west-1.amazonaws.com")
		return nil
	}
	var stores []string
	for i, s := range list {
		store, err := secret.KindAWSSecretsManager.ParseStore(s)
		switch {
		case err != nil:
			p.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
		case slices.Contains(stores, store):
			p.Fault(strictyaml.Index(path, i), "the same store as one before it")
		default:
			stores = append(stores, store)
		}
	}
	return stores
}

func (p parser) credential(s credentialSection) Credential {
	const at = "aws.credential"
	c := Credential{Type: CredentialType(s.Type)}
	rule, known := credentialRules[c.Type]
	switch {
	case !p.Has(at + ".type"):
		p.Fault(at+".type", "missing; it is required: %s", credentialTypes)
		return c
	case !known:
		p.Fault(at+".type", "expected %s", credentialTypes)
		return c
	}
	for _, setting := range []struct {
		name, from string
		to         *string
		use        integration.FileUse
		pattern    *regexp.Regexp // the setting is a text, not a file
	}{
		{"access_key_id_file", s.AccessKeyIDFile, &c.AccessKeyIDFile, integration.UseCredential, nil},
		{"secret_access_key_file", s.SecretAccessKeyFile, &c.SecretAccessKeyFile, integration.UseCredential, nil},
		{"session_token_file", s.SessionTokenFile, &c.SessionTokenFile, integration.UseCredential, nil},
		{"credentials_file", s.CredentialsFile, &c.CredentialsFile, integration.UseToken, nil},
		{"profile", s.Profile, &c.Profile, 0, profileName},
		{"token_file", s.TokenFile, &c.TokenFile, integration.UseToken, nil},
		{"role_arn", s.RoleARN, &c.RoleARN, 0, roleARNPattern},
	} {
		path := at + "." + setting.name
		required, belongs := rule[setting.name]
		switch {
		case !belongs && p.Has(path):
			p.Fault(path, "does not belong to the credential type %s; take it out or change the type", c.Type)
		case !belongs:
		case setting.use == integration.UseCredential && p.Stored(path):
		case required && !p.Has(path):
			p.Fault(path, "missing; the credential type %s requires it", c.Type)
		case setting.pattern == nil:
			*setting.to = p.File(path, setting.from, setting.use)
		case !setting.pattern.MatchString(setting.from):
			p.Fault(path, "%s", map[*regexp.Regexp]string{
				profileName:    "expected the name of a section of the credentials file",
				roleARNPattern: "expected a role's ARN, arn:aws:iam::ACCOUNT:role/NAME",
			}[setting.pattern])
		default:
			*setting.to = setting.from
		}
	}
	return c
}

// role returns nil if the section has no role.
func (p parser) role(s roleSection, credential CredentialType) *Role {
	const at = "aws.role"
	if !p.Has(at) {
		return nil
	}
	r := &Role{ARN: s.ARN, ExternalID: s.ExternalID, Duration: time.Duration(s.Duration), SourceIdentity: s.SourceIdentity, Tags: s.Tags}
	if !roleARNPattern.MatchString(r.ARN) {
		p.Fault(at+".arn", "expected the ARN of the role to assume, arn:aws:iam::ACCOUNT:role/NAME")
	}
	switch {
	case !p.Has(at + ".external_id"):
		p.Fault(at+".external_id", "missing; it is required: an identifier that only this integration uses, such as of uuidgen, and that the role's trust policy asks for")
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
			p.Fault(path, "not the account of %s, which is the one that secrets are read in", from)
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
func (p parser) partition(a *Settings, stores []string) {
	if len(stores) == 0 {
		return
	}
	of, _ := secret.AWSPartitionOf(regionOf(stores[0]))
	for i, store := range stores {
		if in, _ := secret.AWSPartitionOf(regionOf(store)); in != of {
			p.Fault(strictyaml.Index("aws.stores", i), "a store of the partition %s, but the first one is of %s; make an integration for each partition", in.ID, of.ID)
		}
	}
	check := func(path, arn string) {
		if m := roleARNPattern.FindStringSubmatch(arn); m != nil && m[1] != of.ID {
			p.Fault(path, "a role of the partition %s, but aws.stores are of %s", m[1], of.ID)
		}
	}
	check("aws.credential.role_arn", a.Credential.RoleARN)
	if a.Role != nil {
		check("aws.role.arn", a.Role.ARN)
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
	if fips && (service != "sts" || partition.ID != "aws-us-gov") { // there the plain name is a FIPS endpoint
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

// List implements integration.Settings.
func (a *Settings) List() []integration.Setting {
	settings := slices.Concat(
		integration.Elements("aws.stores", a.Stores),
		[]integration.Setting{
			{Name: "aws.account_id", Value: a.AccountID},
			{Name: "aws.credential.type", Value: string(a.Credential.Type)},
			{Name: "aws.credential.profile", Value: a.Credential.Profile},
			{Name: "aws.credential.role_arn", Value: a.Credential.RoleARN},
		},
	)
	if r := a.Role; r != nil {
		settings = slices.Concat(settings, []integration.Setting{
			{Name: "aws.role.arn", Value: r.ARN},
			{Name: "aws.role.external_id", Value: r.ExternalID},
			{Name: "aws.role.duration", Value: r.Duration.String()},
			{Name: "aws.role.source_identity", Value: r.SourceIdentity},
		}, integration.Table("aws.role.tags", r.Tags))
	}
	return slices.Concat(settings,
		integration.Table("aws.endpoints", a.Endpoints),
		[]integration.Setting{
			{Name: "aws.sts_region", Value: a.STSRegion},
			{Name: "aws.sts_endpoint", Value: a.STSEndpoint},
			{Name: "aws.rotation_dates", Value: integration.IfSet(a.RotationDates)},
			{Name: "aws.private_endpoint", Value: integration.IfSet(a.PrivateEndpoint)},
			{Name: "aws.ca_file", Value: integration.IfFile(a.CAFile)},
		},
		integration.Table("aws.dial", a.Dial),
	)
}
