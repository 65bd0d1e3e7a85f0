package secret

import (
	"strings"
	"testing"
)

const (
	awsURL    = "https://secretsmanager.eu-west-1.amazonaws.com"
	awsPrefix = "arn:aws:secretsmanager:eu-west-1:123456789012"
	awsUUID   = "0a1b2c3d-1111-2222-3333-444455556666"
)

func awsRef(store, name, suffix, version, key string) Ref {
	return Ref{Kind: KindAWSSecretsManager, Store: store, Name: name, Suffix: suffix, Version: version, Key: key}
}

var acceptedAWS = []struct {
	name, in string
	want     Ref
}{
	{"ARN", awsPrefix + ":secret:db-AbCdEf", awsRef(awsPrefix, "db", "AbCdEf", "", "")},
	{"ARN and key", awsPrefix + ":secret:db-AbCdEf::password", awsRef(awsPrefix, "db", "AbCdEf", "", "password")},
	{"ARN, label and key", awsPrefix + ":secret:prod/db-AbCdEf#AWSPREVIOUS::k", awsRef(awsPrefix, "prod/db", "AbCdEf", "AWSPREVIOUS", "k")},
	{"ARN and version", awsPrefix + ":secret:db-AbCdEf#" + awsUUID, awsRef(awsPrefix, "db", "AbCdEf", awsUUID, "")},
	{"ARN of a name with a hyphen", awsPrefix + ":secret:my-db-AbCdEf", awsRef(awsPrefix, "my-db", "AbCdEf", "", "")},
	{"ARN of a name that ends like an ARN", awsPrefix + ":secret:db-GhIjKl-AbCdEf", awsRef(awsPrefix, "db-GhIjKl", "AbCdEf", "", "")},
	{"part of an ARN that looks whole", awsPrefix + ":secret:my-secret", awsRef(awsPrefix, "my", "secret", "", "")},
	{"ARN of a managed secret", awsPrefix + ":secret:rds!db-12ab-AbCdEf", awsRef(awsPrefix, "rds!db-12ab", "AbCdEf", "", "")},
	{"ARN decoded", awsPrefix + ":secret:db-AbCdEf?decode=base64::k", decoded(awsRef(awsPrefix, "db", "AbCdEf", "", "k"))},
	{"GovCloud", "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012:secret:db-AbCdEf",
		awsRef("arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012", "db", "AbCdEf", "", "")},
	{"China", "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:db-AbCdEf",
		awsRef("arn:aws-cn:secretsmanager:cn-north-1:123456789012", "db", "AbCdEf", "", "")},
	{"endpoint", awsURL + "::db", awsRef(awsURL, "db", "", "", "")},
	{"endpoint, label and key", awsURL + "::prod/db#AWSPREVIOUS::password", awsRef(awsURL, "prod/db", "", "AWSPREVIOUS", "password")},
	{"the current label is no version", awsURL + "::db#AWSCURRENT", awsRef(awsURL, "db", "", "", "")},
	{"label of one's own", awsURL + "::db#blue/green", awsRef(awsURL, "db", "", "blue/green", "")},
	{"version of Terraform", awsURL + "::db#terraform-20260101000000000000000001", awsRef(awsURL, "db", "", "terraform-20260101000000000000000001", "")},
	{"endpoint written otherwise", "HTTPS://SecretsManager.EU-west-1.amazonaws.com:443/::DB", awsRef(awsURL, "DB", "", "", "")},
	{"leading slash", awsURL + "::/prod/db", awsRef(awsURL, "/prod/db", "", "", "")},
	{"all that a name may have", awsURL + "::aZ09/_+=.@-!", awsRef(awsURL, "aZ09/_+=.@-!", "", "", "")},
	{"longest name", awsURL + "::" + strings.Repeat("n", 512), awsRef(awsURL, strings.Repeat("n", 512), "", "", "")},
	{"endpoint in China", "https://secretsmanager.cn-north-1.amazonaws.com.cn::db", awsRef("https://secretsmanager.cn-north-1.amazonaws.com.cn", "db", "", "", "")},
	{"endpoint in GovCloud", "https://secretsmanager.us-gov-east-1.amazonaws.com::db", awsRef("https://secretsmanager.us-gov-east-1.amazonaws.com", "db", "", "", "")},
	{"endpoint of the sovereign cloud", "https://secretsmanager.eusc-de-east-1.amazonaws.eu::db", awsRef("https://secretsmanager.eusc-de-east-1.amazonaws.eu", "db", "", "", "")},
	{"key with ::", awsPrefix + ":secret:db-AbCdEf::a::b#c", awsRef(awsPrefix, "db", "AbCdEf", "", "a::b#c")},
}

const (
	awsNameFault     = `the secret's name must be 1 to 512 letters, digits and characters from /_+=.@-! without "//" and without "." or ".." as a path segment`
	awsVersionFault  = `the version after "#" must be a version's ID (32 to 64 letters, digits and hyphens) or a staging label such as AWSPREVIOUS`
	awsHostFault     = "the host is not a regional endpoint of AWS Secrets Manager (secretsmanager.REGION.amazonaws.com)"
	awsPartFault     = "the ARN is incomplete: a hyphen and six letters or digits must follow the secret's name; copy the complete ARN, or use https://secretsmanager.REGION.amazonaws.com::NAME"
	awsResourceFault = ":secret: and a secret's name must follow the account in the ARN"
	awsRegionFault   = "the fourth part of the ARN is not an AWS region"
	awsMixedFault    = "the ARN's region does not belong to its partition"
	awsServiceFault  = "the ARN's service is not secretsmanager"
	awsShortFault    = "the ARN ends before the account"
	awsAccountFault  = "the ARN's account is not 12 digits"
	awsAfterFault    = "it names a secret; leave out everything after the account"
	awsPortFault     = "the endpoint's URL has a port; to use another endpoint for a region, set the integration's aws.endpoints"
	awsUserFault     = "the endpoint's URL contains a user name or password"
	awsVPCFault      = "the host is a VPC endpoint; use the region's standard endpoint here, and set this one in the integration's aws.endpoints"
	awsFIPSFault     = "the host is a FIPS endpoint; use the region's standard endpoint and set the integration's aws.fips"
	awsDualFault     = "the host is a dual-stack endpoint; use the region's standard endpoint here, and set this one in the integration's aws.endpoints"
)

var rejectedAWS = []struct{ name, in, fault string }{
	{"no suffix", awsPrefix + ":secret:db", awsPartFault},
	{"suffix too short", awsPrefix + ":secret:db-AbCdE", awsPartFault},
	{"suffix with a hyphen", awsPrefix + ":secret:db-Ab-dEf", awsPartFault},
	{"suffix alone", awsPrefix + ":secret:-AbCdEf", awsPartFault},
	{"suffix beyond ASCII", awsPrefix + ":secret:db-AbCdÖ", awsPartFault},
	{"wildcard for a suffix", awsPrefix + ":secret:db-??????", `the secret's name is followed by more than one "?"; join options with "&"`},
	{"account alone", awsPrefix, awsResourceFault},
	{"no name", awsPrefix + ":secret", awsResourceFault},
	{"ecs-form, key", awsPrefix + ":secret:db-AbCdEf:k", ecsFault},
	{"ecs-form, stage", awsPrefix + ":secret:db-AbCdEf:k:AWSPREVIOUS:", ecsFault},
	{"another resource", awsPrefix + ":other:db-AbCdEf", awsResourceFault},
	{"another service", "arn:aws:ssm:eu-west-1:123456789012:parameter:db-AbCdEf", awsServiceFault},
	{"a role", "arn:aws:iam::123456789012:role/reader", awsShortFault},
	{"no region", "arn:aws:secretsmanager:nowhere:123456789012:secret:db-AbCdEf", awsRegionFault},
	{"region with a slash", "arn:aws:secretsmanager:eu-we/t-1:123456789012:secret:db-AbCdEf", awsRegionFault},
	{"region without a number", "arn:aws:secretsmanager:eu-west-:123456789012:secret:db-AbCdEf", awsRegionFault},
	{"region of letters", "arn:aws:secretsmanager:eu-west-x:123456789012:secret:db-AbCdEf", awsRegionFault},
	{"partition and region differ", "arn:aws-cn:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf", awsMixedFault},
	{"account too short", "arn:aws:secretsmanager:eu-west-1:12345678901:secret:db-AbCdEf", awsAccountFault},
	{"account of letters", "arn:aws:secretsmanager:eu-west-1:12345678901x:secret:db-AbCdEf", awsAccountFault},
	{"name with a space", awsURL + "::my db", awsNameFault},
	{"name climbs", awsURL + "::a/../b", awsNameFault},
	{"name with an empty segment", awsURL + "::a//b", awsNameFault},
	{"name beyond ASCII", awsURL + "::pässword", awsNameFault},
	{"ARN for a name", awsURL + "::arn:aws:x", awsNameFault},
	{"name too long", awsURL + "::" + strings.Repeat("n", 513), awsNameFault},
	{"name in an ARN climbs", awsPrefix + ":secret:../db-AbCdEf", awsNameFault},
	{"label with a space", awsURL + "::db#a b", awsVersionFault},
	{"label too long", awsURL + "::db#" + strings.Repeat("l", 257), awsVersionFault},
	{"another host of AWS", "https://secretsmanager.s3.eu-west-1.amazonaws.com::a/b", awsHostFault},
	{"host that goes on", awsURL + ".evil.example::a/b", awsHostFault},
	{"host without a region", "https://secretsmanager.amazonaws.com::a/b", awsHostFault},
	{"suffix of another partition", "https://secretsmanager.cn-north-1.amazonaws.com::a/b", awsHostFault},
	{"FIPS endpoint", "https://secretsmanager-fips.us-east-1.amazonaws.com::db", awsFIPSFault},
	{"dual-stack endpoint", "https://secretsmanager.us-east-1.api.aws::db", awsDualFault},
	{"VPC endpoint", "https://vpce-0a1b-2c3d.secretsmanager.eu-west-1.vpce.amazonaws.com::db", awsVPCFault},
	{"port", awsURL + ":8443::db", awsPortFault},
	{"user", "https://user@secretsmanager.eu-west-1.amazonaws.com::db", awsUserFault},
	{"path", awsURL + "/x::db", "the endpoint's URL continues after the host (byte 47); it must have no path, query, fragment or percent-encoding"},
}

func TestParseAWSStore(t *testing.T) {
	for in, want := range map[string]string{
		awsURL:                            awsURL,
		awsPrefix:                         awsPrefix,
		strings.ToUpper(awsURL) + ":443/": awsURL,
		AWSEndpoint("us-iso-east-1"):      "https://secretsmanager.us-iso-east-1.c2s.ic.gov",
		AWSEndpoint("us-isob-east-1"):     "https://secretsmanager.us-isob-east-1.sc2s.sgov.gov",
		AWSAccountStore("us-gov-west-1", "123456789012"): "arn:aws-us-gov:secretsmanager:us-gov-west-1:123456789012",
	} {
		if got, err := KindAWSSecretsManager.ParseStore(in); err != nil || got != want {
			t.Errorf("ParseStore(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for in, fault := range map[string]string{
		"":                                  "the store does not begin with https://",
		"eu-west-1":                         "the store does not begin with https://",
		awsURL + "\n":                       "there is a control character at byte 47",
		awsPrefix + ":secret:db-AbCdEf":     awsAfterFault,
		awsPrefix + ":":                     awsAfterFault,
		"arn:aws:secretsmanager:eu-west-1":  awsShortFault,
		"arn:aws:secretsmanager:eu-west-1:": awsAccountFault,
		"ARN:aws:secretsmanager:eu-west-1:123456789012": "the store does not begin with https://",
		"https://vault.example.org":                     awsHostFault,
	} {
		store, err := KindAWSSecretsManager.ParseStore(in)
		if err == nil || store != "" || !strings.Contains(err.Error(), "not a store of AWS Secrets Manager: "+fault+"; expected") {
			t.Errorf("ParseStore(%q) = %q, %v, want %q", in, store, err, fault)
		}
	}
}

func TestAWSPartitionOf(t *testing.T) {
	for region, want := range map[string]string{
		"eu-west-1": "aws", "ap-southeast-7": "aws", "us-gov-west-1": "aws-us-gov", "cn-northwest-1": "aws-cn",
		"us-iso-east-1": "aws-iso", "us-isob-east-1": "aws-iso-b", "us-isof-south-1": "aws-iso-f", "eu-isoe-west-1": "aws-iso-e",
		"eusc-de-east-1": "aws-eusc",
		"":               "", "eu": "", "eu-": "", "eu-west": "", "eu-west-1a": "", "eu-west-123": "", "EU-west-1": "", "eu-west-1-1": "",
		"us-gov-west": "", "eu-we.st-1": "", "evil.example/-1": "", "eu--1": "",
	} {
		p, ok := AWSPartitionOf(region)
		if ok != (want != "") || p.ID != want {
			t.Errorf("AWSPartitionOf(%q) = %+v, %v, want %q", region, p, ok, want)
		}
	}
	if AWSEndpoint("nowhere") != "" || AWSAccountStore("nowhere", "123456789012") != "" {
		t.Error("a region that does not exist has a store")
	}
}

// Every accepted reference names one secret in one region, and its parts can be
// separated in only one way.
func FuzzParseAWS(f *testing.F) {
	for _, tt := range acceptedAWS {
		f.Add(tt.in)
	}
	faults := make(map[string]bool)
	for _, tt := range rejectedAWS {
		f.Add(tt.in)
		faults[tt.fault] = true
	}
	f.Fuzz(func(t *testing.T, in string) {
		store, rest, _ := strings.Cut(in, "::")
		name, version, _ := strings.Cut(rest, "#")
		if strings.HasPrefix(in, "arn:") {
			store, version, _ = strings.Cut(in, "#")
			name = ""
		}
		if name == "" && !strings.HasPrefix(store, "arn:") {
			return // ParseRef rejects it
		}
		if name == "" {
			store, name = "", store
		}
		r := Ref{Kind: KindAWSSecretsManager, Store: store, Name: name, Version: version}
		fault := parseAWS(&r)
		if fault != "" {
			if !faults[fault] && !strings.HasPrefix(fault, "the endpoint's URL continues after the host (byte ") && fault != "the store does not begin with https://" {
				t.Fatalf("parseAWS of %q, %q, %q: %q, a text that the table does not know", store, name, version, fault)
			}
			return
		}
		checkCanonical(t, r)
		canonical, err := KindAWSSecretsManager.ParseStore(r.Store)
		if err != nil || canonical != r.Store {
			t.Errorf("the store %q is not canonical: %q, %v", r.Store, canonical, err)
		}
		if isARN := strings.HasPrefix(r.Store, "arn:"); isARN != (r.Suffix != "") || isARN && len(r.Suffix) != 6 {
			t.Errorf("%q, %q, %q became %+v", store, name, version, r)
		}
		if strings.ContainsAny(r.Name+r.Suffix+r.Version, ":#? \n") || r.Name == "" {
			t.Errorf("%q, %q, %q became %+v", store, name, version, r)
		}
	})
}

// ecs-form, complete: the JSON key seems to be empty.
func TestECSForm(t *testing.T) {
	_, err := ParseRef(awsPrefix + ":secret:db-AbCdEf:password::")
	if err == nil || !strings.Contains(err.Error(), ecsFault) {
		t.Error(err)
	}
}
