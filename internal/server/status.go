package server

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// errorDomain is the ErrorInfo.domain of every error of the broker.
const errorDomain = "secretbroker"

// statusRow is the gRPC status of a reason.
type statusRow struct {
	reason secret.Reason
	code   codes.Code
	// retry is the RetryInfo delay if the error has none; zero means that a retry does
	// not help, and the status has no RetryInfo.
	retry time.Duration
}

// statusTable is the one table of errors. When a call fails for several configs
// the reason that comes first here gives the call's status: a failure that a person
// has to fix comes before one that a retry may fix, so that a call is retryable only
// if all of its failures are.
var statusTable = []statusRow{
	{secret.ReasonInternal, codes.Internal, 0},
	{secret.ReasonUnauthenticated, codes.Unauthenticated, 0},
	{secret.ReasonCertificateDenied, codes.Unauthenticated, 0},
	{secret.ReasonInvalidRequest, codes.InvalidArgument, 0},
	{secret.ReasonConfigMismatch, codes.InvalidArgument, 0},
	{secret.ReasonInvalidReference, codes.InvalidArgument, 0},
	{secret.ReasonInvalidIntegration, codes.InvalidArgument, 0},
	{secret.ReasonAccessDenied, codes.PermissionDenied, 0},
	{secret.ReasonPlacementDenied, codes.PermissionDenied, 0},
	{secret.ReasonStoreNotAllowed, codes.PermissionDenied, 0},
	{secret.ReasonIntegrationNotFound, codes.NotFound, 0},
	{secret.ReasonDenialNotFound, codes.NotFound, 0},
	{secret.ReasonIntegrationExists, codes.AlreadyExists, 0},
	{secret.ReasonIntegrationChanged, codes.Aborted, 0},
	{secret.ReasonIntegrationInUse, codes.FailedPrecondition, 0},
	{secret.ReasonIntegrationReadOnly, codes.FailedPrecondition, 0},
	{secret.ReasonOwnerLockout, codes.FailedPrecondition, 0},
	{secret.ReasonQuotaExceeded, codes.FailedPrecondition, 0},
	{secret.ReasonStoreNotFound, codes.FailedPrecondition, 0},
	{secret.ReasonStoreAuthenticationFailed, codes.FailedPrecondition, 0},
	{secret.ReasonStoreAccessDenied, codes.FailedPrecondition, 0},
	{secret.ReasonSecretDisabled, codes.FailedPrecondition, 0},
	{secret.ReasonSecretExpired, codes.FailedPrecondition, 0},
	{secret.ReasonSecretNotYetValid, codes.FailedPrecondition, 0},
	{secret.ReasonSecretTooLarge, codes.FailedPrecondition, 0},
	{secret.ReasonSecretNotJSON, codes.FailedPrecondition, 0},
	{secret.ReasonSecretNotDecodable, codes.FailedPrecondition, 0},
	{secret.ReasonSecretNotWatchable, codes.FailedPrecondition, 0},
	{secret.ReasonSecretNotFound, codes.NotFound, 0},
	{secret.ReasonJSONKeyNotFound, codes.NotFound, 0},
	{secret.ReasonOverloaded, codes.ResourceExhausted, time.Second},
	{secret.ReasonStoreThrottled, codes.ResourceExhausted, time.Second},
	{secret.ReasonStoreUnavailable, codes.Unavailable, time.Second},
	{secret.ReasonRegistryUnavailable, codes.Unavailable, time.Second},
	{secret.ReasonAuditUnavailable, codes.Unavailable, 5 * time.Second},
}

// rowOf returns a reason's row and its rank in the table. A reason without a row is a bug
// in the broker.
func rowOf(r secret.Reason) (row statusRow, rank int) {
	for i, row := range statusTable {
		if row.reason == r {
			return row, i
		}
	}
	return statusTable[0], 0
}

// retryAfter returns the time after which the caller should retry, zero if a retry does
// not help.
func retryAfter(e *secret.Error) time.Duration {
	row, _ := rowOf(e.Reason)
	if row.retry == 0 {
		return 0
	}
	return max(row.retry, e.RetryAfter)
}

// statusOf returns the gRPC status of a failed call.
func statusOf(err error, requestID string) *status.Status {
	var failure *resolve.Failure
	if errors.As(err, &failure) && len(failure.Configs) > 0 {
		return failureStatus(failure, requestID)
	}
	e := secret.AsError(err)
	return newStatus(e.Reason, e.Message, requestID, retryAfter(e), faultsOf(err))
}

func newStatus(reason secret.Reason, message, requestID string, delay time.Duration, bad *errdetails.BadRequest) *status.Status {
	row, rank := rowOf(reason)
	st := &spb.Status{Code: int32(row.code), Message: message, Details: append(make([]*anypb.Any, 0, 4), errorInfos[rank], requestInfo(requestID))} //nolint:gosec // a gRPC code
	more := func(m proto.Message) {
		if packed, err := anypb.New(m); err == nil { // otherwise the status lacks this detail
			st.Details = append(st.Details, packed)
		}
	}
	if bad != nil {
		more(bad)
	}
	if delay > 0 {
		more(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}
	return status.FromProto(st) // copies st
}

// errorInfos holds the ErrorInfo of each row, encoded in advance: under overload, refusing
// a call must cost little.
var errorInfos = func() []*anypb.Any {
	infos := make([]*anypb.Any, len(statusTable))
	for i, row := range statusTable {
		infos[i], _ = anypb.New(&errdetails.ErrorInfo{Reason: string(row.reason), Domain: errorDomain}) // cannot fail for two strings
	}
	return infos
}()

// requestInfo returns the detail RequestInfo{RequestId: id}, whose field has number 1.
func requestInfo(id string) *anypb.Any {
	return &anypb.Any{
		TypeUrl: "type.googleapis.com/google.rpc.RequestInfo",
		Value:   protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), id),
	}
}

// faultsOf lists the invalid fields of an integration, as many as fit; nil for other errors.
func faultsOf(err error) *errdetails.BadRequest {
	invalid, ok := manage.IsInvalid(err)
	if !ok {
		return nil
	}
	reason := string(secret.AsError(err).Reason)
	bad := &errdetails.BadRequest{}
	budget := violationBudget
	for i, f := range invalid.Faults {
		if budget -= len(f.Field) + len(f.Text) + len(reason) + violationOverhead; budget < 0 {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: "integration", Description: fmt.Sprintf("%d more problems are not listed", len(invalid.Faults)-i),
			})
			break
		}
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Text, Reason: reason})
	}
	return bad
}
