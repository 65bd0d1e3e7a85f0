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

// failure holds the parts of an error response that are safe to log. It contains no
// free text of the server.
type failure struct {
	status     int
	code       string
	requestID  string
	retryAfter time.Duration
	aboutKMS   bool
	// crossAccount says that the secret belongs to another account and is encrypted with
	// the default KMS key, which other accounts cannot use.
	crossAccount bool
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

// failureOf returns the failure in an error of the SDK, nil if there was no response.
func failureOf(err error) *failure {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil || answer.HTTPStatusCode() == 0 {
		return nil // the SDK invents a response for a request that got none
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
		f.code = plainCode(api.ErrorCode())
		message := strings.ToLower(api.ErrorMessage())
		f.aboutKMS = strings.Contains(message, "kms") || strings.HasPrefix(f.code, "KMS")
		f.crossAccount = f.aboutKMS && strings.Contains(message, "different aws account")
	}
	return f
}

// plainCode returns an error code without the parts that SQS writes before it: of
// "AWS.SimpleQueueService.NonExistentQueue" the last one. For "KMS.Disabled" and
// "KmsDisabled" it returns "KMSDisabled", as Secrets Manager does.
func plainCode(code string) string {
	last := code[strings.LastIndexByte(code, '.')+1:]
	if rest, ok := strings.CutPrefix(last, "Kms"); ok {
		return storeerror.Plain("KMS" + rest)
	}
	if strings.HasPrefix(code, "KMS.") {
		return storeerror.Plain("KMS" + last)
	}
	return storeerror.Plain(last)
}

// class groups error codes by what a person can do about them.
type class uint8

const (
	classOther class = iota
	classThrottled
	classNotFound
	classState // state of the secret
	classKey   // KMS key
	classInvalid
	classDenied
	classKeys // keys of the session
	classSignature
	classToken // OpenID Connect token
	classRegion
	classFailing
)

// classes maps the error codes of Secrets Manager, of STS, of SQS and those common to all of
// AWS. AWS sends some of them with and without "Exception"; the map has them without.
var classes = map[string]class{
	"Throttling": classThrottled, "ThrottledException": classThrottled, "RequestThrottled": classThrottled,
	"TooManyRequests": classThrottled, "RequestLimitExceeded": classThrottled, "BandwidthLimitExceeded": classThrottled,
	"LimitExceeded": classThrottled, "SlowDown": classThrottled, "ProvisionedThroughputExceeded": classThrottled,

	"KMSThrottled": classThrottled, "KMSThrottling": classThrottled, "OverLimit": classThrottled,

	"ResourceNotFound": classNotFound, "QueueDoesNotExist": classNotFound, "NonExistentQueue": classNotFound,
	"InvalidRequest": classState,

	"DecryptionFailure": classKey, "KMSDisabled": classKey, "KMSInvalidState": classKey, "KMSNotFound": classKey,
	"KMSOptInRequired": classKey, "KMSInvalidKeyUsage": classKey,
	"KMSAccessDenied": classDenied,

	"InvalidParameter": classInvalid, "Validation": classInvalid, "ValidationError": classInvalid, "InvalidAddress": classInvalid,

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
	c, ok := classes[code]
	switch {
	case c == classState && f.crossAccount:
		return classDenied
	case ok:
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
