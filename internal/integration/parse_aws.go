package integration

import (
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

type awsSection struct {
	Stores          []string          `yaml:"stores"`
	AccountID       string            `yaml:"account_id"`
	Role            awsRole           `yaml:"role"`
	Credential      awsCredential     `yaml:"credential"`
	FIPS            bool              `yaml:"fips"`
	Endpoints       map[string]string `yaml:"endpoints"`
	STSRegion       string            `yaml:"sts_region"`
	STSEndpoint     string            `yaml:"sts_endpoint"`
	CAFile          string            `yaml:"ca_file"`
	Dial            map[string]string `yaml:"dial"`
	PrivateEndpoint bool              `yaml:"private_endpoint"`
	RotationDates   bool              `yaml:"rotation_dates"`
}

type awsRole struct {
	ARN            string              `yaml:"arn"`
	ExternalID     string              `yaml:"external_id"`
	Duration       strictyaml.Duration `yaml:"duration"`
	SourceIdentity string              `yaml:"source_identity"`
	Tags           map[string]string   `yaml:"tags"`
}

type awsCredential struct {
	Type                string `yaml:"type"`
	AccessKeyIDFile     string `yaml:"access_key_id_file"`
	SecretAccessKeyFile string `yaml:"secret_access_key_file"`
	SessionTokenFile    string `yaml:"session_token_file"`
	CredentialsFile     string `yaml:"credentials_file"`
	Profile             string `yaml:"profile"`
	TokenFile           string `yaml:"token_file"`
	RoleARN             string `yaml:"role_arn"`
}

// awsCredentialRules are the settings of each type of credential: true for those
// that it requires.
var awsCredentialRules = map[AWSCredentialType]map[string]bool{
	AWSStatic:      {"access_key_id_file": true, "secret_access_key_file": true, "session_token_file": false},
	AWSProfile:     {"credentials_file": true, "profile": true},
	AWSWebIdentity: {"token_file": true, "role_arn": true},
	AWSDefault:     {},
}

const awsCredentialTypes = "static, profile, web_identity or default"

// The patterns and bounds of AWS's API reference: IAM ARNs, and the parameters of
// STS AssumeRole.
var (
	awsRoleARN    = regexp.MustCompile(`^arn:(aws(?:-[a-z-]{1,16})?):iam::([0-9]{12}):role/[\w+=,.@/-]{1,576}$`)
	awsExternalID = regexp.MustCompile(`^[\w+=,.@:/-]{2,1000}[\w+=,.@:/-]{0,224}$`)
	awsSource     = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	awsTag        = regexp.MustCompile(`^[\p{L}\p{N} _.:/=+@-]*$`)
	awsProfile    = regexp.MustCompile(`^[\w+=,.@:/-]{1,128}$`)
)

const (
	awsMinSession     = 15 * time.Minute
	awsMaxSession     = 12 * time.Hour
	awsDefaultSession = time.Hour // what every role allows, and the most for a role that a role assumes
	awsMaxTags        = 50
)

// aws validates the section; what it returns is usable if there is no fault.
func (p *parser) aws(s *awsSection) *AWS {
	a := &AWS{PrivateEndpoint: s.PrivateEndpoint, RotationDates: s.RotationDates}
	stores := p.awsStores(s.Stores)
	a.Credential = p.awsCredential(s.Credential)
	a.Role = p.awsRole(s.Role, a.Credential.Type)
	a.AccountID = p.awsAccount(s, a)
	for _, store := range stores {
		for _, same := range a.alike(store) {
			if !slices.Contains(a.Stores, same) {
				a.Stores = append(a.Stores, same)
			}
		}
	}
	p.awsEndpoints(s, a, stores)
	p.awsPartition(a, stores)
	a.CAFile = p.file("aws.ca_file", s.CAFile, UseCA)
	a.Dial = p.awsDial(s.Dial, a)
	return a
}

// awsStores returns the stores that can be made out, in canonical form.
func (p *parser) awsStores(list []string) []string {
	const path = "aws.stores"
	if len(list) == 0 {
		p.doc.Fault(path, "at least one is required, such as https://secretsmanager.eu-west-1.amazonaws.com")
		return nil
	}
	var stores []string
	for i, s := range list {
		store, err := secret.KindAWSSecretsManager.ParseStore(s)
		switch {
		case err != nil:
			p.doc.Fault(strictyaml.Index(path, i), "%s", secret.AsError(err).Message)
		case slices.Contains(stores, store):
			p.doc.Fault(strictyaml.Index(path, i), "the same store as one before it")
		default:
			stores = append(stores, store)
		}
	}
	return stores
}

func (p *parser) awsCredential(s awsCredential) AWSCredential {
	const section = "aws.credential"
	c := AWSCredential{Type: AWSCredentialType(s.Type)}
	rule, known := awsCredentialRules[c.Type]
	switch {
	case !p.doc.Has(section + ".type"):
		p.doc.Fault(section+".type", "missing; it is required: %s", awsCredentialTypes)
		return c
	case !known:
		p.doc.Fault(section+".type", "expected %s", awsCredentialTypes)
		return c
	}
	for _, setting := range []struct {
		name, from string
		to         *string
		use        FileUse
		pattern    *regexp.Regexp // not a file, but a text
	}{
		{"access_key_id_file", s.AccessKeyIDFile, &c.AccessKeyIDFile, UseCredential, nil},
		{"secret_access_key_file", s.SecretAccessKeyFile, &c.SecretAccessKeyFile, UseCredential, nil},
		{"session_token_file", s.SessionTokenFile, &c.SessionTokenFile, UseCredential, nil},
		{"credentials_file", s.CredentialsFile, &c.CredentialsFile, UseToken, nil},
		{"profile", s.Profile, &c.Profile, 0, awsProfile},
		{"token_file", s.TokenFile, &c.TokenFile, UseToken, nil},
		{"role_arn", s.RoleARN, &c.RoleARN, 0, awsRoleARN},
	} {
		path := section + "." + setting.name
		required, belongs := rule[setting.name]
		switch {
		case !belongs && p.doc.Has(path):
			p.doc.Fault(path, "does not belong to the credential type %s; take it out or change the type", c.Type)
		case !belongs:
		case setting.use == UseCredential && p.isStored(path):
		case required && !p.doc.Has(path):
			p.doc.Fault(path, "missing; the credential type %s requires it", c.Type)
		case setting.pattern == nil:
			*setting.to = p.file(path, setting.from, setting.use)
		case !setting.pattern.MatchString(setting.from):
			p.doc.Fault(path, "%s", map[*regexp.Regexp]string{
				awsProfile: "expected the name of a section of the credentials file",
				awsRoleARN: "expected a role's ARN, arn:aws:iam::ACCOUNT:role/NAME",
			}[setting.pattern])
		default:
			*setting.to = setting.from
		}
	}
	return c
}

// awsRole returns nil if there is no such section.
func (p *parser) awsRole(s awsRole, credential AWSCredentialType) *AWSRole {
	const section = "aws.role"
	if !p.doc.Has(section) {
		return nil
	}
	r := &AWSRole{ARN: s.ARN, ExternalID: s.ExternalID, Duration: time.Duration(s.Duration), SourceIdentity: s.SourceIdentity, Tags: s.Tags}
	if !awsRoleARN.MatchString(r.ARN) {
		p.doc.Fault(section+".arn", "expected the ARN of the role to assume, arn:aws:iam::ACCOUNT:role/NAME")
	}
	switch {
	case !p.doc.Has(section + ".external_id"):
		p.doc.Fault(section+".external_id", "missing; it is required: an identifier that only this integration uses, such as of uuidgen, and that the role's trust policy asks for")
	case !awsExternalID.MatchString(r.ExternalID):
		p.doc.Fault(section+".external_id", "expected 2 to 1224 letters, digits and characters of +=,.@:/_-")
	}
	chained := credential == AWSWebIdentity
	switch {
	case !p.doc.Has(section + ".duration"):
		r.Duration = awsDefaultSession
	case r.Duration < awsMinSession || r.Duration > awsMaxSession || r.Duration%time.Second != 0:
		p.doc.Fault(section+".duration", "expected 15m to 12h in whole seconds, and no more than the role allows")
	case chained && r.Duration > awsDefaultSession:
		p.doc.Fault(section+".duration", "at most 1h for a role that another role assumes, as with the credential type %s", credential)
	}
	if p.doc.Has(section+".source_identity") && (!awsSource.MatchString(r.SourceIdentity) || strings.HasPrefix(strings.ToLower(r.SourceIdentity), "aws:")) {
		p.doc.Fault(section+".source_identity", "expected 2 to 64 letters, digits and characters of +=,.@_-")
	}
	if len(r.Tags) > awsMaxTags {
		p.doc.Fault(section+".tags", "expected at most %d", awsMaxTags)
	}
	for _, key := range slices.Sorted(maps.Keys(r.Tags)) {
		value := r.Tags[key]
		if key == "" || len(key) > 128 || len(value) > 256 || !awsTag.MatchString(key) || !awsTag.MatchString(value) || strings.HasPrefix(strings.ToLower(key), "aws:") {
			p.doc.Fault(strictyaml.Key(section+".tags", key), "expected a key of 1 to 128 and a value of up to 256 letters, digits, spaces and characters of _.:/=+@-; keys do not begin with aws:")
		}
	}
	return r
}

// awsAccount returns the account of the identity that reads.
func (p *parser) awsAccount(s *awsSection, a *AWS) string {
	const path = "aws.account_id"
	arn, from := a.Credential.RoleARN, "aws.credential.role_arn"
	if a.Role != nil {
		arn, from = a.Role.ARN, "aws.role.arn"
	}
	account := s.AccountID
	if p.doc.Has(path) && !secret.IsAWSAccount(account) {
		p.doc.Fault(path, "expected an account's 12 digits, in quotation marks")
		return ""
	}
	if m := awsRoleARN.FindStringSubmatch(arn); m != nil {
		if account != "" && account != m[2] {
			p.doc.Fault(path, "not the account of %s, which is the one that secrets are read in", from)
		}
		return m[2]
	}
	if account == "" && arn == "" {
		p.doc.Fault(path, "missing; without a role it is required: the account of the credential")
	}
	return account
}

// awsPartition refuses to mix partitions: an identity of one is nobody in others.
func (p *parser) awsPartition(a *AWS, stores []string) {
	if len(stores) == 0 {
		return
	}
	of, _ := secret.AWSPartitionOf(awsRegion(stores[0]))
	for i, store := range stores {
		if in, _ := secret.AWSPartitionOf(awsRegion(store)); in != of {
			p.doc.Fault(strictyaml.Index("aws.stores", i), "a store of the partition %s, but the first one is of %s; make an integration for each partition", in.ID, of.ID)
		}
	}
	check := func(path, arn string) {
		if m := awsRoleARN.FindStringSubmatch(arn); m != nil && m[1] != of.ID {
			p.doc.Fault(path, "a role of the partition %s, but aws.stores are of %s", m[1], of.ID)
		}
	}
	check("aws.credential.role_arn", a.Credential.RoleARN)
	if a.Role != nil {
		check("aws.role.arn", a.Role.ARN)
	}
	if in, ok := secret.AWSPartitionOf(a.STSRegion); ok && in != of {
		p.doc.Fault("aws.sts_region", "a region of the partition %s, but aws.stores are of %s", in.ID, of.ID)
	}
}

// awsEndpoints sets where the regions of stores and STS are.
func (p *parser) awsEndpoints(s *awsSection, a *AWS, stores []string) {
	a.Endpoints = make(map[string]string, len(stores))
	for _, store := range stores {
		region := awsRegion(store)
		a.Endpoints[region] = awsHost("secretsmanager", region, s.FIPS)
	}
	for _, region := range slices.Sorted(maps.Keys(s.Endpoints)) {
		path := strictyaml.Key("aws.endpoints", region)
		if a.Endpoints[region] == "" {
			p.doc.Fault(path, "not a region of aws.stores; nothing else is contacted")
		} else if endpoint := p.awsURL(path, s.Endpoints[region]); endpoint != "" {
			a.Endpoints[region] = endpoint
		}
	}
	a.STSRegion = s.STSRegion
	if _, ok := secret.AWSPartitionOf(s.STSRegion); p.doc.Has("aws.sts_region") && !ok {
		p.doc.Fault("aws.sts_region", "expected a region, such as eu-west-1")
		return
	}
	if a.STSRegion == "" && len(stores) > 0 {
		a.STSRegion = awsRegion(stores[0])
	}
	if a.STSRegion != "" {
		a.STSEndpoint = awsHost("sts", a.STSRegion, s.FIPS)
	}
	if p.doc.Has("aws.sts_endpoint") {
		a.STSEndpoint = p.awsURL("aws.sts_endpoint", s.STSEndpoint)
	}
}

// awsHost returns a service's endpoint in a region. Source: the endpoint rules of
// the AWS SDKs.
func awsHost(service, region string, fips bool) string {
	partition, _ := secret.AWSPartitionOf(region)
	if fips && (service != "sts" || partition.ID != "aws-us-gov") { // where STS is that by itself
		service += "-fips"
	}
	return "https://" + service + "." + region + partition.Suffix
}

// awsURL returns s in the form "https://HOST[:PORT]".
func (p *parser) awsURL(path, s string) string {
	rest, ok := strings.CutPrefix(s, "https://")
	rest = strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(rest, "/"), ":443"))
	host, port, hasPort := strings.Cut(rest, ":")
	if !ok || !validHost(host) || hasPort && !validPort(port) {
		p.doc.Fault(path, "expected https://HOST with nothing after it, such as https://vpce-0123-abc.secretsmanager.eu-west-1.vpce.amazonaws.com")
		return ""
	}
	return "https://" + rest
}

func (p *parser) awsDial(entries map[string]string, a *AWS) map[string]string {
	if len(entries) == 0 {
		return nil
	}
	hosts := a.hosts()
	dial := make(map[string]string, len(entries))
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		path, addr := strictyaml.Key("aws.dial", name), entries[name]
		host := strings.ToLower(name)
		if !hosts[host] {
			p.doc.Fault(path, "not the host of an endpoint; nothing else is contacted")
		} else if _, twice := dial[host]; twice {
			p.doc.Fault(path, "the same host is listed twice")
		}
		h, port, err := net.SplitHostPort(addr)
		if err != nil || !validHost(h) || !validPort(port) {
			p.doc.Fault(path, "expected where to connect to, host:port, such as 127.0.0.1:8444")
		}
		dial[host] = addr
	}
	return dial
}

func (a *AWS) settings() []Setting {
	settings := slices.Concat(
		elements("aws.stores", a.Stores),
		[]Setting{
			{Name: "aws.account_id", Value: a.AccountID},
			{Name: "aws.credential.type", Value: string(a.Credential.Type)},
			{Name: "aws.credential.profile", Value: a.Credential.Profile},
			{Name: "aws.credential.role_arn", Value: a.Credential.RoleARN},
		},
	)
	if r := a.Role; r != nil {
		settings = slices.Concat(settings, []Setting{
			{Name: "aws.role.arn", Value: r.ARN},
			{Name: "aws.role.external_id", Value: r.ExternalID},
			{Name: "aws.role.duration", Value: r.Duration.String()},
			{Name: "aws.role.source_identity", Value: r.SourceIdentity},
		}, table("aws.role.tags", r.Tags))
	}
	return slices.Concat(settings,
		table("aws.endpoints", a.Endpoints),
		[]Setting{
			{Name: "aws.sts_region", Value: a.STSRegion},
			{Name: "aws.sts_endpoint", Value: a.STSEndpoint},
			{Name: "aws.rotation_dates", Value: ifSet(a.RotationDates)},
			{Name: "aws.private_endpoint", Value: ifSet(a.PrivateEndpoint)},
			{Name: "aws.ca_file", Value: ifFile(a.CAFile)},
		},
		table("aws.dial", a.Dial),
	)
}
