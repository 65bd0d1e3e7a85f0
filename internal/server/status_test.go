package server

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// details are the details of an error.
type details struct {
	info    *errdetails.ErrorInfo
	request *errdetails.RequestInfo
	retry   *errdetails.RetryInfo
	bad     *errdetails.BadRequest
}

func detailsOf(t *testing.T, st *status.Status) details {
	t.Helper()
	var d details
	for _, any := range st.Details() {
		switch v := any.(type) {
		case *errdetails.ErrorInfo:
			d.info = v
		case *errdetails.RequestInfo:
			d.request = v
		case *errdetails.RetryInfo:
			d.retry = v
		case *errdetails.BadRequest:
			d.bad = v
		default:
			t.Errorf("unexpected detail %T", v)
		}
	}
	if d.info == nil || d.info.Domain != "secretbroker" || d.request.GetRequestId() != "r1" {
		t.Fatalf("details %+v", d)
	}
	return d
}

func TestStatusOfEveryReason(t *testing.T) {
	want := map[secret.Reason]codes.Code{
		secret.ReasonInternal:                  codes.Internal,
		secret.ReasonUnauthenticated:           codes.Unauthenticated,
		secret.ReasonCertificateDenied:         codes.Unauthenticated,
		secret.ReasonDenialNotFound:            codes.NotFound,
		secret.ReasonInvalidRequest:            codes.InvalidArgument,
		secret.ReasonConfigMismatch:            codes.InvalidArgument,
		secret.ReasonInvalidReference:          codes.InvalidArgument,
		secret.ReasonAccessDenied:              codes.PermissionDenied,
		secret.ReasonPlacementDenied:           codes.PermissionDenied,
		secret.ReasonInvalidIntegration:        codes.InvalidArgument,
		secret.ReasonIntegrationNotFound:       codes.NotFound,
		secret.ReasonIntegrationExists:         codes.AlreadyExists,
		secret.ReasonIntegrationChanged:        codes.Aborted,
		secret.ReasonIntegrationInUse:          codes.FailedPrecondition,
		secret.ReasonIntegrationReadOnly:       codes.FailedPrecondition,
		secret.ReasonOwnerLockout:              codes.FailedPrecondition,
		secret.ReasonQuotaExceeded:             codes.FailedPrecondition,
		secret.ReasonRegistryUnavailable:       codes.Unavailable,
		secret.ReasonStoreNotAllowed:           codes.PermissionDenied,
		secret.ReasonStoreNotFound:             codes.FailedPrecondition,
		secret.ReasonStoreAuthenticationFailed: codes.FailedPrecondition,
		secret.ReasonStoreAccessDenied:         codes.FailedPrecondition,
		secret.ReasonSecretDisabled:            codes.FailedPrecondition,
		secret.ReasonSecretExpired:             codes.FailedPrecondition,
		secret.ReasonSecretNotYetValid:         codes.FailedPrecondition,
		secret.ReasonSecretTooLarge:            codes.FailedPrecondition,
		secret.ReasonSecretNotJSON:             codes.FailedPrecondition,
		secret.ReasonSecretNotDecodable:        codes.FailedPrecondition,
		secret.ReasonSecretNotWatchable:        codes.FailedPrecondition,
		secret.ReasonSecretNotFound:            codes.NotFound,
		secret.ReasonJSONKeyNotFound:           codes.NotFound,
		secret.ReasonOverloaded:                codes.ResourceExhausted,
		secret.ReasonStoreThrottled:            codes.ResourceExhausted,
		secret.ReasonStoreUnavailable:          codes.Unavailable,
		secret.ReasonAuditUnavailable:          codes.Unavailable,
	}
	if len(want) != len(statusTable) {
		t.Errorf("the table has %d rows, the test knows %d", len(statusTable), len(want))
	}
	for _, row := range statusTable {
		t.Run(string(row.reason), func(t *testing.T) {
			st := statusOf(fmt.Errorf("wrapped: %w", secret.Errorf(row.reason, "what to do").WithCause(errors.New("hidden cause"))), "r1")
			if st.Code() != want[row.reason] || st.Message() != "what to do" {
				t.Errorf("status %v %q", st.Code(), st.Message())
			}
			d := detailsOf(t, st)
			if d.info.Reason != string(row.reason) {
				t.Errorf("reason %q", d.info.Reason)
			}
			retryable := st.Code() == codes.Unavailable || st.Code() == codes.ResourceExhausted
			if got := d.retry != nil; got != retryable {
				t.Errorf("RetryInfo present: %v, want %v", got, retryable)
			}
		})
	}
}

func TestStatusOfUnknownErrors(t *testing.T) {
	for _, err := range []error{
		errors.New("canary: something unforeseen"),
		secret.Errorf("NOT_IN_THE_TABLE", "odd"),
	} {
		st := statusOf(err, "r1")
		if st.Code() != codes.Internal || strings.Contains(st.Message(), "canary") || detailsOf(t, st).info.Reason != "INTERNAL" {
			t.Errorf("%v became %v", err, st)
		}
	}
}

func TestStatusListsEveryFailingConfig(t *testing.T) {
	throttled := secret.Errorf(secret.ReasonStoreThrottled, "wait a little")
	throttled.RetryAfter = 7 * time.Second
	tests := []struct {
		name   string
		errs   []resolve.ConfigError
		code   codes.Code
		reason secret.Reason
		retry  time.Duration
	}{
		{"one throttled", []resolve.ConfigError{{Config: "a", Err: throttled}}, codes.ResourceExhausted, secret.ReasonStoreThrottled, 7 * time.Second},
		{
			"a reason that a person must fix comes first",
			[]resolve.ConfigError{
				{Config: "a", Err: throttled},
				{Config: "b", Err: secret.Errorf(secret.ReasonSecretNotFound, "fix the name")},
				{Config: `c"d`, Err: secret.Errorf(secret.ReasonInvalidReference, "fix the reference")},
			},
			codes.InvalidArgument, secret.ReasonInvalidReference, 0,
		},
		{
			"the longest wait counts",
			[]resolve.ConfigError{
				{Config: "a", Err: secret.Errorf(secret.ReasonStoreUnavailable, "down")},
				{Config: "b", Err: throttled},
			},
			codes.ResourceExhausted, secret.ReasonStoreThrottled, 7 * time.Second,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := statusOf(&resolve.Failure{Configs: tt.errs}, "r1")
			d := detailsOf(t, st)
			if st.Code() != tt.code || d.info.Reason != string(tt.reason) {
				t.Errorf("got %v %s", st.Code(), d.info.Reason)
			}
			if got := d.retry.GetRetryDelay().AsDuration(); got != tt.retry {
				t.Errorf("retry after %v, want %v", got, tt.retry)
			}
			if len(d.bad.GetFieldViolations()) != len(tt.errs) {
				t.Fatalf("%d violations", len(d.bad.GetFieldViolations()))
			}
			for i, v := range d.bad.GetFieldViolations() {
				e := tt.errs[i]
				if v.Field != fmt.Sprintf("configs[%q]", e.Config) || v.Reason != string(e.Err.Reason) || v.Description != e.Err.Message {
					t.Errorf("violation %v", v)
				}
				if !strings.Contains(st.Message(), e.Err.Message) {
					t.Errorf("message %q lacks %q", st.Message(), e.Err.Message)
				}
			}
		})
	}
}

// TestStatusStaysSmall: however many configs fail, with any names and texts, the error fits
// into the 8 KiB of trailers that some clients accept. It has the worst reason with its
// text, and lists the configs or says how many are missing.
func TestStatusStaysSmall(t *testing.T) {
	long := strings.Repeat("é%", 85)
	for name, config := range map[string]func(i int) resolve.ConfigError{
		"different texts": func(i int) resolve.ConfigError {
			return resolve.ConfigError{Config: fmt.Sprintf("some.connector.config.%02d", i), Err: secret.Errorf(secret.ReasonSecretNotFound, "text %d %s", i, strings.Repeat("x", 300))}
		},
		"one text": func(i int) resolve.ConfigError {
			return resolve.ConfigError{Config: fmt.Sprintf("some.connector.config.%02d", i), Err: secret.Errorf(secret.ReasonAccessDenied, "text %s", strings.Repeat("x", 300))}
		},
		"long names": func(i int) resolve.ConfigError {
			return resolve.ConfigError{Config: fmt.Sprintf("%s%03d", long, i), Err: secret.Errorf(secret.ReasonAccessDenied, "text %s", strings.Repeat("x", 300))}
		},
	} {
		for _, n := range []int{1, 5, 40, 1000} {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				f := &resolve.Failure{}
				for i := range n {
					f.Configs = append(f.Configs, config(i))
				}
				f.Configs = append(f.Configs, resolve.ConfigError{Config: "z", Err: secret.Errorf(secret.ReasonInvalidReference, "the worst text")})
				st := statusOf(f, "r1")
				const otherTrailers = 300
				if size := encodedLen(st.Message()) + base64.StdEncoding.EncodedLen(proto.Size(st.Proto())) + otherTrailers; size > 8<<10 {
					t.Errorf("the trailers take %d bytes", size)
				}
				if !strings.Contains(st.Message(), "z: INVALID_REFERENCE: the worst text") {
					t.Errorf("the message lacks the worst text: %s", st.Message())
				}
				violations := detailsOf(t, st).bad.GetFieldViolations()
				last := violations[len(violations)-1]
				if len(violations) < n+1 && last.GetDescription() != fmt.Sprintf("%d more configs failed; set allow_partial to see all of them", n+1-(len(violations)-1)) {
					t.Errorf("%d of %d listed, and last: %v", len(violations), n+1, last)
				}
				if n <= 5 && violations[0].GetDescription() == "" {
					t.Error("a text is missing although there is room")
				}
			})
		}
	}
}

// TestErrorsPage: docs/errors.md has the same reasons, statuses and retries in the same
// order.
func TestErrorsPage(t *testing.T) {
	f, err := os.Open("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows [][]string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "## ") { // the reasons of clients
			break
		}
		if strings.HasPrefix(line, "| `") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.Trim(cells[i], " `")
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) != len(statusTable) {
		t.Fatalf("the page has %d reasons, the table %d", len(rows), len(statusTable))
	}
	for i, row := range statusTable {
		code := strings.ToUpper(camelToSnake(row.code.String()))
		again := map[bool]string{true: "yes", false: "no"}[row.retry > 0]
		if got := rows[i][:3]; got[0] != string(row.reason) || got[1] != code || got[2] != again {
			t.Errorf("row %d of the page is %v, of the table %v %v %v", i+1, got, row.reason, code, again)
		}
	}
}

func camelToSnake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return b.String()
}
