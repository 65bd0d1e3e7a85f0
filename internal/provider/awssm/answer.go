package awssm

import (
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// answer is a store's response, with the time of the request.
type answer struct {
	value    *secretsmanager.GetSecretValueOutput
	rotation *secretsmanager.DescribeSecretOutput // nil if it was not requested
	began    time.Time
}

// check converts the response to ref to a Secret. It refuses a response to something
// else. The policy has decided on the store and the name in ref, so the ARN and the
// name in the response must match exactly these. AWS itself also accepts a part of an
// ARN in place of the whole.
func (a *answer) check(at *endpoint, ref secret.Ref, now time.Time) (*secret.Secret, error) {
	if a.value == nil {
		return nil, at.service().unexpected("the response is empty")
	}
	if err := identifies(at, ref, a.value.ARN, a.value.Name); err != nil {
		return nil, err
	}
	version, ok := a.version(ref)
	if !ok {
		return nil, at.service().unexpected("the response is for another version")
	}
	if (a.value.SecretString == nil) == (a.value.SecretBinary == nil) {
		return nil, at.service().unexpected("the response does not have exactly one value")
	}
	var expires time.Time
	if a.rotation != nil {
		if err := identifies(at, ref, a.rotation.ARN, a.rotation.Name); err != nil {
			return nil, err
		}
		expires = nextRotation(a.rotation, now)
	}
	suffix := (*a.value.ARN)[len(*a.value.ARN)-secret.AWSSuffixLen:]
	if a.value.SecretString != nil {
		return secret.New(version, a.began, expires, []byte(*a.value.SecretString)).WithSuffix(suffix), nil
	}
	// A binary value is always encoded, because a value that happens to be text today
	// may not be text after the next rotation.
	return secret.NewBinary(version, a.began, expires, a.value.SecretBinary).WithSuffix(suffix), nil
}

// identifies returns an error unless ARN and name are those of the secret that ref
// names. The ARN consists of the prefix of at, the name, a hyphen and six characters,
// which must match ref if ref contains them.
func identifies(at *endpoint, ref secret.Ref, arn, name *string) error {
	if arn == nil || name == nil {
		return at.service().unexpected("the response does not name its secret")
	}
	full, ok := strings.CutPrefix(*arn, at.arn)
	suffix, isName := strings.CutPrefix(full, ref.Name+"-")
	switch {
	case ok && isName && *name == ref.Name && isSuffix(suffix) && (ref.Suffix == "" || suffix == ref.Suffix):
		return nil
	case ok && ref.Suffix != "" && *name == ref.FullName() && strings.HasPrefix(full, *name+"-"):
		return secret.Errorf(secret.ReasonSecretNotFound,
			"no secret in %s has this ARN, but a similar one: the ARN lacks the hyphen and six characters that AWS appends to the name; copy the whole ARN", at.region)
	default:
		return at.service().unexpected("the response is for another secret")
	}
}

func isSuffix(s string) bool {
	return len(s) == secret.AWSSuffixLen && s == storeerror.Plain(s) && !strings.ContainsAny(s, "-_")
}

// version returns the version's ID, and reports whether ref asks for that version.
func (a *answer) version(ref secret.Ref) (id string, ok bool) {
	if a.value.VersionId == nil || *a.value.VersionId == "" || storeerror.Plain(*a.value.VersionId) == "" {
		return "", false
	}
	id = *a.value.VersionId
	switch {
	case ref.Version == "":
		return id, slices.Contains(a.value.VersionStages, secret.AWSCurrent)
	case secret.IsAWSVersionID(ref.Version):
		return id, id == ref.Version
	default:
		return id, slices.Contains(a.value.VersionStages, ref.Version)
	}
}

// nextRotation returns the time by which the value will be replaced, zero if that is
// not known. After a failed rotation AWS keeps the past date, and the old value stays
// valid, so nextRotation ignores a date in the past.
func nextRotation(d *secretsmanager.DescribeSecretOutput, now time.Time) time.Time {
	if d.RotationEnabled == nil || !*d.RotationEnabled || d.NextRotationDate == nil || !now.Before(*d.NextRotationDate) {
		return time.Time{}
	}
	return *d.NextRotationDate
}
