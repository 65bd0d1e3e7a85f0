package secret

import (
	"fmt"
	"strings"
)

// AWSPartition is one of AWS's isolated clouds. Identities and ARNs of one
// partition are not valid in another.
type AWSPartition struct {
	// ID is the partition's name in ARNs.
	ID string
	// Suffix follows the service and the region in a host name. It begins with a dot.
	Suffix string
}

// awsRegions maps prefixes of region names to partitions. A word and a number
// follow the prefix, as "west-1" follows "us-gov-". A region with another prefix
// belongs to the partition aws. Source: partitions.json of the AWS SDKs.
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
	if !isDigits(number) {
		return AWSPartition{}, false
	}
	return partition, true
}

// AWSEndpoint returns the store that contains the secrets of an integration's own
// account in a region, in canonical form:
// "https://secretsmanager.REGION.amazonaws.com". It returns "" if region is not
// valid.
func AWSEndpoint(region string) string {
	p, ok := AWSPartitionOf(region)
	if !ok {
		return ""
	}
	return "https://" + awsService + "." + region + p.Suffix
}

// AWSAccountStore returns the store of an account's secrets in a region when a
// reference names them by ARN, in canonical form:
// "arn:PARTITION:secretsmanager:REGION:ACCOUNT". It returns "" if region is not
// valid.
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

// awsStore is parseAWSStore for an s that has passed checkText. fault describes
// what is wrong with s, without quoting it.
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

// awsEndpoint returns the canonical form of a regional endpoint. fault describes
// what is wrong with s, without quoting it.
func awsEndpoint(s string) (store, fault string) {
	if !isHTTPS(s) {
		return "", "the store does not begin with https://"
	}
	host := s[len(httpsScheme):]
	if !isPlain(host) {
		host = strings.TrimSuffix(host, "/")
		if strings.ContainsRune(host, '@') {
			return "", "the endpoint's URL contains a user name or password"
		}
		if i := strings.IndexAny(host, "/?#%\\"); i >= 0 {
			return "", fmt.Sprintf("the endpoint's URL continues after the host (byte %d); it must have no path, query, fragment or percent-encoding", len(httpsScheme)+i+1)
		}
		host = lower(host)
	}
	host = strings.TrimSuffix(host, ":443")
	if strings.ContainsRune(host, ':') {
		return "", "the endpoint's URL has a port; to use another endpoint for a region, set the integration's aws.endpoints"
	}
	service, rest, _ := strings.Cut(host, ".")
	region, _, _ := strings.Cut(rest, ".")
	partition, ok := AWSPartitionOf(region)
	switch {
	case service == awsService && ok && rest[len(region):] == partition.Suffix:
		return httpsURL(s, host), ""
	case service == awsService+"-fips":
		return "", "the host is a FIPS endpoint; use the region's standard endpoint and set the integration's aws.fips"
	case service == awsService && ok && strings.Contains(rest, ".api."):
		return "", "the host is a dual-stack endpoint; use the region's standard endpoint here, and set this one in the integration's aws.endpoints"
	case strings.Contains(host, ".vpce."):
		return "", "the host is a VPC endpoint; use the region's standard endpoint here, and set this one in the integration's aws.endpoints"
	default:
		return "", "the host is not a regional endpoint of AWS Secrets Manager (secretsmanager.REGION.amazonaws.com)"
	}
}

// awsARN splits an ARN of AWS Secrets Manager after its account, into
// "arn:PARTITION:secretsmanager:REGION:ACCOUNT" and the resource with its leading
// colon, which may be empty. fault describes what is wrong with s, without quoting
// it.
func awsARN(s string) (account, resource, fault string) {
	_, rest, _ := strings.Cut(s, ":")
	id, rest, _ := strings.Cut(rest, ":")
	service, rest, _ := strings.Cut(rest, ":")
	region, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return "", "", "the ARN ends before the account"
	}
	if service != awsService {
		return "", "", "the ARN's service is not secretsmanager"
	}
	partition, ok := AWSPartitionOf(region)
	if !ok {
		return "", "", "the fourth part of the ARN is not an AWS region"
	}
	if partition.ID != id {
		return "", "", "the ARN's region does not belong to its partition"
	}
	number, _, _ := strings.Cut(rest, ":")
	if !IsAWSAccount(number) {
		return "", "", "the ARN's account is not 12 digits"
	}
	end := len(s) - len(rest) + len(number)
	return s[:end], s[end:], ""
}

// IsAWSAccount reports whether s is an AWS account ID: 12 digits.
func IsAWSAccount(s string) bool { return len(s) == 12 && isDigits(s) }

// AWSSuffixLen is the number of letters and digits that AWS appends to a secret's
// name in its ARN, after a hyphen.
const AWSSuffixLen = 6

// parseAWS parses a secret's complete ARN if the reference has no store, and an
// endpoint and a secret's name otherwise.
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
		return `the secret's name must be 1 to 512 letters, digits and characters from /_+=.@-! without "//" and without "." or ".." as a path segment`
	}
	if r.Version != "" && !IsAWSVersionID(r.Version) && !isAWSStage(r.Version) {
		return `the version after "#" must be a version's ID (32 to 64 letters, digits and hyphens) or a staging label such as AWSPREVIOUS`
	}
	if r.Version == AWSCurrent {
		r.Version = ""
	}
	return ""
}

// splitAWSARN splits r.Name, a secret's complete ARN, into Store, Name and Suffix.
// Policies apply to the name without the suffix that AWS appends, so splitAWSARN
// cuts off the last seven characters.
//
// The text alone does not show whether the ARN is complete: AWS also accepts an ARN
// without the suffix, and "...:secret:my-secret" would yield the name "my", which
// is another secret. The reader of the secret must therefore compare the complete
// ARN with the one in the store's response.
func splitAWSARN(r *Ref) (fault string) {
	account, resource, fault := awsARN(r.Name)
	if fault != "" {
		return fault
	}
	full, ok := strings.CutPrefix(resource, ":secret:")
	if isECSForm(r.Name) {
		return ecsFault
	}
	if !ok || strings.Contains(full, ":") {
		return ":secret: and a secret's name must follow the account in the ARN"
	}
	cut := len(full) - AWSSuffixLen - 1
	if cut < 1 || full[cut] != '-' || !isAWSSuffix(full[cut+1:]) {
		return "the ARN is incomplete: a hyphen and six letters or digits must follow the secret's name; copy the complete ARN, or use https://secretsmanager.REGION.amazonaws.com::NAME"
	}
	r.Store, r.Name, r.Suffix = account, full[:cut], full[cut+1:]
	return ""
}

// ecsFault contrasts the form of a secret in a task definition of Amazon ECS with the one of
// references.
const ecsFault = `this is the form of Amazon ECS, ARN:KEY:STAGE:VERSION; write ARN::KEY, or ARN#VERSION::KEY for a version or a staging label`

// isECSForm reports whether more fields follow the name of the secret in an ARN.
func isECSForm(arn string) bool {
	return strings.Count(arn, ":") > 6 && strings.Contains(arn, ":secret:")
}

// AWSCurrent is the staging label of the current version, which a reference
// without a version selects.
const AWSCurrent = "AWSCURRENT"

// awsNameMax is the maximum length of a secret's name.
const awsNameMax = 512

// IsAWSVersionID reports whether the version of a reference is a version ID. Most
// are UUIDs, but the author of a version may choose an ID of 32 to 64 characters,
// as Terraform does. Any other version is a staging label.
func IsAWSVersionID(s string) bool {
	return len(s) >= 32 && len(s) <= 64 && isAzureText(s)
}

// isAWSName reports whether s is a valid secret name. It is stricter than AWS,
// which also accepts names with "//", "." and "..": software that cleans paths
// would turn them into other names.
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
	return len(s) == AWSSuffixLen && isAzureText(s) && !strings.Contains(s, "-")
}

// isAWSText reports whether s consists of characters that AWS allows in secret
// names: letters, digits and /_+=.@-, and the "!" in the names of secrets that an
// AWS service manages ("rds!db-...").
func isAWSText(s string) bool { return isText(s, "/_+=.@-!") }

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
