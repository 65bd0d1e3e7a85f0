package awssm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// failure is what an error answer may tell the log: no text that the other side
// is free to choose.
type failure struct {
	status     int
	code       string
	requestID  string
	retryAfter time.Duration
	aboutKMS   bool
}

func (f *failure) Error() string {
	text := fmt.Sprintf("HTTP %d", f.status)
	if f.code != "" {
		text += ", code " + f.code
	}
	if f.requestID != "" {
		text += ", request id " + f.requestID
	}
	return text
}

// failureOf returns what an error of the SDK says of an answer, nil if there was
// none.
func failureOf(err error) *failure {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil || answer.HTTPStatusCode() == 0 {
		return nil // the SDK makes one up for requests that got no answer
	}
	f := &failure{status: answer.HTTPStatusCode()}
	h := answer.Response.Header
	f.retryAfter = storeerror.RetryAfter(h)
	for _, name := range []string{"x-amzn-requestid", "x-amz-request-id"} {
		if f.requestID == "" {
			f.requestID = storeerror.Plain(h.Get(name))
		}
	}
	var api smithy.APIError
	if f.status >= http.StatusMultipleChoices && errors.As(err, &api) {
		f.code = storeerror.Plain(api.ErrorCode())
		f.aboutKMS = strings.Contains(strings.ToLower(api.ErrorMessage()), "kms")
	}
	return f
}

// class is what a person can do about a failure.
type class uint8

const (
	classOther class = iota
	classThrottled
	classNotFound
	classState // of the secret
	classKey   // of KMS
	classInvalid
	classDenied
	classKeys // of the session
	classSignature
	classToken // OpenID Connect
	classRegion
	classFailing
)

// classes are the error codes of Secrets Manager, of STS and of all of AWS. AWS
// writes some with "Exception" and some without: the table has them without.
var classes = map[string]class{
	"Throttling": classThrottled, "ThrottledException": classThrottled, "RequestThrottled": classThrottled,
	"TooManyRequests": classThrottled, "RequestLimitExceeded": classThrottled, "BandwidthLimitExceeded": classThrottled,
	"LimitExceeded": classThrottled, "SlowDown": classThrottled, "ProvisionedThroughputExceeded": classThrottled,

	"ResourceNotFound": classNotFound,
	"InvalidRequest":   classState,

	"DecryptionFailure": classKey, "KMSDisabled": classKey, "KMSInvalidState": classKey, "KMSNotFound": classKey,
	"KMSAccessDenied": classDenied,

	"InvalidParameter": classInvalid, "Validation": classInvalid, "ValidationError": classInvalid,

	"AccessDenied": classDenied, "UnauthorizedOperation": classDenied, "NotAuthorized": classDenied,

	"UnrecognizedClient": classKeys, "InvalidClientTokenId": classKeys, "InvalidAccessKeyId": classKeys,
	"ExpiredToken": classKeys, "TokenRefreshRequired": classKeys, "AuthFailure": classKeys, "InvalidToken": classKeys,
	"MissingAuthenticationToken": classKeys, "OptInRequired": classKeys, "SubscriptionRequired": classKeys,

	"InvalidSignature": classSignature, "SignatureDoesNotMatch": classSignature, "IncompleteSignature": classSignature,
	"RequestExpired": classSignature, "RequestTimeTooSkewed": classSignature, "RequestInTheFuture": classSignature,

	"InvalidIdentityToken": classToken, "IDPRejectedClaim": classToken, "IDPCommunicationError": classToken,
	"RegionDisabled": classRegion,

	"InternalService": classFailing, "InternalServiceError": classFailing, "InternalServerError": classFailing, "InternalFailure": classFailing,
	"ServiceUnavailable": classFailing, "RequestTimeout": classFailing,
}

func (f *failure) class() class {
	code := f.code
	if code != "ThrottledException" {
		code = strings.TrimSuffix(code, "Exception")
	}
	if c, ok := classes[code]; ok {
		return c
	}
	switch {
	case f.status == http.StatusTooManyRequests:
		return classThrottled
	case isFailing(f.status):
		return classFailing
	default:
		return classOther
	}
}
