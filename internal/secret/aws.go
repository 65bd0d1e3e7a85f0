package secret

import (
	"fmt"
	"strings"
)

// AWSPartition is one of AWS's clouds, which know nothing of each other: neither
// identities nor ARNs of one are worth anything in another.
type AWSPartition struct {
	// ID is how ARNs name the partition.
	ID string
	// Suffix is what follows a service and its region in a host name, with the dot.
	Suffix string
}

// awsRegions finds the partition of a region by how its name begins. What follows
// is a word and a number: "us-gov-" and "west-1". Source: partitions.json of the
// AWS SDKs. The rest are regions of the partition aws.
var awsRegions = []struct {
	prefix    string
	partition AWSPartition
}{
	{"us-gov-", AWSPartition{"aws-us-gov", ".amazonaws.com"}},
	{"us-iso-", AWSPartition{"aws-iso", ".c2s.ic.gov"}},
	{"us-isob-", AWSPartition{"aws-iso-b", ".sc2s.sgov.gov"}},
	{"us-isof-", AWSPartition{"aws-iso-f", ".csp.hci.ic.gov"}},
	{"eu-isoe-", AWSPartition{"aws-iso-e", ".cloud.adc-e.uk"}},
	{"eusc-de-", AWSPartition{"aws-eusc", ".amazonaws.eu"}},
	{"cn-", AWSPartition{"aws-cn", ".amazonaws.com.cn"}},
}

var awsCommercial = AWSPartition{"aws", ".amazonaws.com"}

// AWSPartitionOf returns the partition of a region such as "eu-west-1".
func AWSPartitionOf(region string) (AWSPartition, bool) {
	partition := awsCommercial
	place, ok := "", false
	for i := range awsRegions {
		if place, ok = strings.CutPrefix(region, awsRegions[i].prefix); ok {
			partition = awsRegions[i].partition
			break
		}
	}
	if !ok {
		if len(region) < 3 || !isLower(region[0]) || !isLower(region[1]) || region[2] != '-' {
			return AWSPartition{}, false
		}
		place = region[3:]
	}
	word, number, ok := strings.Cut(place, "-")
	if !ok || word == "" || len(word) > 16 || number == "" || len(number) > 2 {
		return AWSPartition{}, false
	}
	for i := range len(word) {
		if !isLower(word[i]) {
			return AWSPartition{}, false
		}
	}
	for i := range len(number) {
		if !isDigit(number[i]) {
			return AWSPartition{}, false
		}
	}
	return partition, true
}

// AWSEndpoint returns the store that the secrets of an integration's own account
// in a region belong to, in canonical form:
// "https://secretsmanager.REGION.amazonaws.com". It is empty if there is no such
// region.
func AWSEndpoint(region string) string {
	p, ok := AWSPartitionOf(region)
	if !ok {
		return ""
	}
	return "https://" + awsService + "." + region + p.Suffix
}

// AWSAccountStore returns the store that ARNs of an account's secrets in a region
// belong to, in canonical form: "arn:PARTITION:secretsmanager:REGION:ACCOUNT". It
// is empty if there is no such region.
func AWSAccountStore(region, account string) string {
	p, ok := AWSPartitionOf(region)
	if !ok {
		return ""
	}
	return "arn:" + p.ID + ":" + awsService + ":" + region + ":" + account
}

const awsService = "secretsmanager"

const awsExample = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-secret-AbCdEf::password"

// parseAWSStore returns the canonical form of a store of AWS Secrets Manager: a
// regional endpoint in lower case without ":443" and trailing slash (see
// AWSEndpoint), or an account in a region (see AWSAccountStore). The error is an
// *Error with ReasonInvalidReference that does not quote s.
func parseAWSStore(s string) (string, error) {
	store, fault := "", checkText(s)
	if fault == "" {
		store, fault = awsStore(s)
	}
	if fault != "" {
		return "", Errorf(ReasonInvalidReference,
			"not a store of AWS Secrets Manager: %s; expected https://secretsmanager.REGION.amazonaws.com or arn:aws:secretsmanager:REGION:ACCOUNT", fault)
	}
	return store, nil
}

// awsStore does the work of parseAWSStore for s that has passed checkText; fault
// says what is wrong with s, without quoting it.
func awsStore(s string) (store, fault string) {
	if !strings.HasPrefix(s, "arn:") {
		return awsEndpoint(s)
	}
	account, _, fault := awsARN(s)
	if fault == "" && account != s {
		fault = "it names a secret; leave out everything after the account"
	}
	if fault != "" {
		return "", fault
	}
	return s, ""
}

// awsEndpoint returns the canonical form of a regional endpoint; fault says what
// is wrong with s, without quoting it.
func awsEndpoint(s string) (store, fault string) {
	if !isHTTPS(s) {
		return "", "the store does not begin with https://"
	}
	host := s[len(httpsScheme):]
	if !isPlain(host) {
		host = strings.TrimSuffix(host, "/")
		if strings.ContainsRune(host, '@') {
			return "", "the endpoint's URL has a user name or password in it"
		}
		if i := strings.IndexAny(host, "/?#%\\"); i >= 0 {
			return "", fmt.Sprintf("the endpoint's URL goes on after the host (byte %d): it has no path, query, fragment or encoding", len(httpsScheme)+i+1)
		}
		host = lower(host)
	}
	host = strings.TrimSuffix(host, ":443")
	if strings.ContainsRune(host, ':') {
		return "", "the endpoint's URL has a port; an integration's aws.endpoints say where else a region's endpoint is"
	}
	service, rest, _ := strings.Cut(host, ".")
	region, _, _ := strings.Cut(rest, ".")
	partition, ok := AWSPartitionOf(region)
	switch {
	case service == awsService && ok && rest[len(region):] == partition.Suffix:
		return httpsURL(s, host), ""
	case service == awsService+"-fips":
		return "", "the host is a FIPS endpoint; name the region's plain endpoint and set the integration's aws.fips"
	case service == awsService && ok && strings.Contains(rest, ".api."):
		return "", "the host is a dual-stack endpoint; name the region's plain endpoint, and this one in the integration's aws.endpoints"
	case strings.Contains(host, ".vpce."):
		return "", "the host is a VPC endpoint; name the region's plain endpoint, and this one in the integration's aws.endpoints"
	default:
		return "", "the host is not a regional endpoint of AWS Secrets Manager (secretsmanager.REGION.amazonaws.com)"
	}
}

// awsARN splits an ARN of AWS Secrets Manager behind its account:
// "arn:PARTITION:secretsmanager:REGION:ACCOUNT", and from the next colon on, if
// there is one, the resource. fault says what is wrong with it, without quoting it.
func awsARN(s string) (account, resource, fault string) {
	_, rest, _ := strings.Cut(s, ":")
	id, rest, _ := strings.Cut(rest, ":")
	service, rest, _ := strings.Cut(rest, ":")
	region, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return "", "", "the ARN ends before the account"
	}
	if service != awsService {
		return "", "", "the ARN is not one of the service secretsmanager"
	}
	partition, ok := AWSPartitionOf(region)
	if !ok {
		return "", "", "the ARN has no region of AWS as its fourth part"
	}
	if partition.ID != id {
		return "", "", "the ARN's region is not one of its partition"
	}
	number, _, _ := strings.Cut(rest, ":")
	if !IsAWSAccount(number) {
		return "", "", "the ARN's account is not 12 digits"
	}
	end := len(s) - len(rest) + len(number)
	return s[:end], s[end:], ""
}

// IsAWSAccount reports whether s is an AWS account ID: 12 digits.
func IsAWSAccount(s string) bool {
	if len(s) != 12 {
		return false
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// awsSuffixLen is how many letters and digits AWS puts behind a secret's name in
// its ARN, after a hyphen.
const awsSuffixLen = 6

// parseAWS parses a secret's complete ARN, if the reference has no store, and else
// the endpoint and the name of a secret.
func parseAWS(r *Ref) (fault string) {
	if r.Store == "" {
		fault = splitAWSARN(r)
	} else {
		r.Store, fault = awsEndpoint(r.Store)
	}
	if fault != "" {
		return fault
	}
	if !isAWSName(r.Name) {
		return `the secret's name must be 1 to 512 letters, digits and characters of /_+=.@-! without "//" and without "." and ".." between slashes`
	}
	if r.Version != "" && !IsAWSVersionID(r.Version) && !isAWSStage(r.Version) {
		return `the version after "#" must be a version's ID (32 to 64 letters, digits and hyphens) or a staging label such as AWSPREVIOUS`
	}
	if r.Version == AWSCurrent {
		r.Version = ""
	}
	return ""
}

// splitAWSARN splits a secret's complete ARN, which is in Name. It cuts the last
// seven characters off to get the name, for it is the name that a policy speaks
// of. A part of an ARN, which AWS would complete, can end in a hyphen and six
// letters too: "...:secret:my-secret" gives the name "my". So whoever reads the
// secret has to compare the whole ARN with the answer's.
func splitAWSARN(r *Ref) (fault string) {
	account, resource, fault := awsARN(r.Name)
	if fault != "" {
		return fault
	}
	full, ok := strings.CutPrefix(resource, ":secret:")
	if !ok || strings.Contains(full, ":") {
		return "the ARN does not go on with :secret: and a secret's name after the account"
	}
	cut := len(full) - awsSuffixLen - 1
	if cut < 1 || full[cut] != '-' || !isAWSSuffix(full[cut+1:]) {
		return "the ARN is not complete: behind the secret's name stand a hyphen and six letters and digits; copy it whole, or use https://secretsmanager.REGION.amazonaws.com::NAME"
	}
	r.Store, r.Name, r.Suffix = account, full[:cut], full[cut+1:]
	return ""
}

// AWSCurrent is the staging label of the version that a reference without one
// means.
const AWSCurrent = "AWSCURRENT"

// awsNameMax is the length of the longest secret name.
const awsNameMax = 512

// IsAWSVersionID reports whether the version of a reference is taken for the ID of
// a version: most are UUIDs, but whoever writes a version may choose 32 to 64
// characters, and Terraform does. Anything else is a staging label.
func IsAWSVersionID(s string) bool {
	return len(s) >= 32 && len(s) <= 64 && isAzureText(s)
}

// isAWSName is a little stricter than AWS, which would take names that mean
// another one wherever paths are cleaned.
func isAWSName(s string) bool {
	if s == "" || len(s) > awsNameMax || !isAWSText(s) || strings.Contains(s, "//") {
		return false
	}
	for segment, more := "", true; more; {
		segment, s, more = strings.Cut(s, "/")
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

func isAWSNamePart(s string) bool {
	return len(s) <= awsNameMax && isAWSText(s) && !strings.Contains(s, "//")
}

func isAWSStage(s string) bool { return len(s) >= 1 && len(s) <= 256 && isAWSText(s) }

func isAWSSuffix(s string) bool {
	return len(s) == awsSuffixLen && isAzureText(s) && !strings.Contains(s, "-")
}

// isAWSText holds the rule for secret names: letters, digits and /_+=.@-, and the
// "!" of secrets that an AWS service manages ("rds!db-...").
func isAWSText(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && !isDigit(c) && strings.IndexByte("/_+=.@-!", c) < 0 {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
