package client

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const addr = "broker.test:8443"

func TestNewError(t *testing.T) {
	info := func(domain, reason string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Domain: domain, Reason: reason}
	}
	violation := func(field, reason, text string) *errdetails.BadRequest_FieldViolation {
		return &errdetails.BadRequest_FieldViolation{Field: field, Reason: reason, Description: text}
	}
	tests := []struct {
		name    string
		code    codes.Code
		message string
		details []protoadapt.MessageV1
		want    Error
		text    string
	}{
		{
			name: "everything", code: codes.NotFound, message: "2 configs cannot be resolved",
			details: []protoadapt.MessageV1{
				info(errorDomain, "SECRET_NOT_FOUND"),
				&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
					violation(`configs["database.password"]`, "SECRET_NOT_FOUND", "no such secret"),
					violation(`configs["a\"b"]`, "SECRET_DISABLED", "it is disabled"),
				}},
				&errdetails.RequestInfo{RequestId: "req-1"},
				&errdetails.RetryInfo{RetryDelay: durationpb.New(2 * time.Second)},
				&errdetails.Help{}, // unknown to the client
			},
			want: Error{
				Code: codes.NotFound, Reason: ReasonSecretNotFound, Message: "2 configs cannot be resolved", RequestID: "req-1", RetryAfter: 2 * time.Second,
				Configs: []ConfigError{
					{Config: "database.password", Reason: ReasonSecretNotFound, Message: "no such secret"},
					{Config: `a"b`, Reason: ReasonSecretDisabled, Message: "it is disabled"},
				},
			},
			text: `secretbroker: SECRET_NOT_FOUND: 2 configs cannot be resolved; "database.password": SECRET_NOT_FOUND: no such secret; "a\"b": SECRET_DISABLED: it is disabled (request id req-1)`,
		},
		{
			name: "a reason of another domain", code: codes.PermissionDenied, message: "no",
			details: []protoadapt.MessageV1{info("proxy.test", "RATE"), info(errorDomain, "ACCESS_DENIED"), info("proxy.test", "RATE")},
			want:    Error{Code: codes.PermissionDenied, Reason: ReasonAccessDenied, Message: "no"},
			text:    "secretbroker: ACCESS_DENIED: no",
		},
		{
			name: "a reason of a newer broker", code: codes.FailedPrecondition, message: "no",
			details: []protoadapt.MessageV1{info(errorDomain, "SECRET_BEWITCHED")},
			want:    Error{Code: codes.FailedPrecondition, Reason: "SECRET_BEWITCHED", Message: "no"},
			text:    "secretbroker: SECRET_BEWITCHED: no",
		},
		{
			name: "none", code: codes.Unimplemented, message: "unknown service",
			want: Error{Code: codes.Unimplemented, Message: "unknown service"},
			text: "secretbroker: Unimplemented: unknown service",
		},
		{
			name: "the broker answers UNAVAILABLE", code: codes.Unavailable, message: "the store does not answer",
			details: []protoadapt.MessageV1{info(errorDomain, "STORE_UNAVAILABLE")},
			want:    Error{Code: codes.Unavailable, Reason: ReasonStoreUnavailable, Message: "the store does not answer"},
			text:    "secretbroker: STORE_UNAVAILABLE: the store does not answer",
		},
		{
			name: "timeout", code: codes.DeadlineExceeded, message: "context deadline exceeded",
			want: Error{Code: codes.DeadlineExceeded, Message: "timed out waiting for the broker at broker.test:8443: context deadline exceeded"},
			text: "secretbroker: DeadlineExceeded: timed out waiting for the broker at broker.test:8443: context deadline exceeded",
		},
		{
			name: "dialing", code: codes.Unavailable, message: `connection error: desc = "transport: Error while dialing: dial tcp: lookup \"x\": no such host"`,
			want: Error{Code: codes.Unavailable, Reason: ReasonBrokerUnreachable, Message: `cannot reach the broker at broker.test:8443: dial tcp: lookup "x": no such host`},
			text: `secretbroker: SECRETBROKER_UNREACHABLE: cannot reach the broker at broker.test:8443: dial tcp: lookup "x": no such host`,
		},
		{
			name: "handshake", code: codes.Unavailable, message: `last connection error: connection error: desc = "transport: authentication handshake failed: SECRETBROKER_NOT_TRUSTED: the certificate in \"f\" is not"`,
			want: Error{Code: codes.Unavailable, Reason: ReasonBrokerNotTrusted, Message: `the certificate in "f" is not`},
			text: `secretbroker: SECRETBROKER_NOT_TRUSTED: the certificate in "f" is not`,
		},
		{
			name: "refused, without quotes", code: codes.Unavailable, message: `error reading server preface: CERTIFICATE_REFUSED: no`,
			want: Error{Code: codes.Unavailable, Reason: ReasonCertificateRefused, Message: "no"},
			text: "secretbroker: CERTIFICATE_REFUSED: no",
		},
		{
			name: "quotes that do not end", code: codes.Unavailable, message: `connection error: desc = "what`,
			want: Error{Code: codes.Unavailable, Reason: ReasonBrokerUnreachable, Message: `cannot reach the broker at broker.test:8443: connection error: desc = "what`},
			text: `secretbroker: SECRETBROKER_UNREACHABLE: cannot reach the broker at broker.test:8443: connection error: desc = "what`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st, err := status.New(tt.code, tt.message).WithDetails(tt.details...)
			if err != nil {
				t.Fatal(err)
			}
			got := newError(addr, st.Err())
			if diff := cmp.Diff(&tt.want, got, cmpopts.IgnoreUnexported(Error{})); diff != "" {
				t.Error(diff)
			}
			if got.Error() != tt.text {
				t.Errorf("text:\n got %s\nwant %s", got, tt.text)
			}
		})
	}
}

func TestConfigName(t *testing.T) {
	for field, want := range map[string]string{
		`configs["a.b"]`:    "a.b",
		`configs["\u00e9"]`: "é",
		`configs[""]`:       "",
		`configs[a]`:        `configs[a]`,
		`configs["a"`:       `configs["a"`,
		`configs[`:          `configs[`,
		`integration_id`:    `integration_id`,
		``:                  ``,
	} {
		if got := configName(field); got != want {
			t.Errorf("configName(%q) = %q, want %q", field, got, want)
		}
	}
}

// TestReasonsAreComplete: the package has a constant for every reason of the broker.
func TestReasonsAreComplete(t *testing.T) {
	broker := reasonConstants(t, "../internal/secret/reason.go")
	own := reasonConstants(t, "errors.go")
	if len(broker) == 0 {
		t.Fatal("no constants found; have the reasons moved?")
	}
	for name := range broker {
		if !own[name] {
			t.Errorf("errors.go has no %s", name)
		}
	}
}

func reasonConstants(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			for _, n := range s.(*ast.ValueSpec).Names {
				if strings.HasPrefix(n.Name, "Reason") {
					names[n.Name] = true
				}
			}
		}
	}
	return names
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := sleep(t.Context(), time.Hour); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != time.Hour {
			t.Errorf("slept %v, want an hour", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin = time.Now()
		if err := sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("slept %v, want a minute", d)
		}
	})
}

// TestRetryDelayDeadline: a wait starts only if time remains before the deadline after it.
func TestRetryDelayDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, tt := range []struct {
			retryAfter time.Duration
			want       bool
		}{
			{0, true},
			{9 * time.Second, true},
			{9950 * time.Millisecond, false}, // too long with the jitter
			{10 * time.Second, false},
			{1<<63 - 1, false},
		} {
			if d, ok := retryDelay(ctx, 1, tt.retryAfter); ok != tt.want {
				t.Errorf("after %v: %v, %v; want %v", tt.retryAfter, d, ok, tt.want)
			}
		}
	})
}

func FuzzNewError(f *testing.F) {
	seed := func(s *spb.Status) {
		b, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			f.Fatal(err)
		}
		return a
	}
	seed(&spb.Status{Code: int32(codes.Unavailable), Message: `connection error: desc = "transport: \xff"`})
	seed(&spb.Status{Code: -1, Message: "x", Details: []*anypb.Any{
		nil,
		{TypeUrl: "type.googleapis.com/google.rpc.BadRequest", Value: []byte{0xff}},
		{TypeUrl: "nothing/known"},
		pack(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: `configs["a"]`}, {Field: `configs[`}}}),
		pack(&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: -1 << 63, Nanos: -1 << 31}}),
		pack(&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: 1<<63 - 1, Nanos: 1<<31 - 1}}),
		pack(&errdetails.ErrorInfo{Domain: errorDomain, Reason: "X"}),
	}})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s spb.Status
		if proto.Unmarshal(b, &s) != nil || s.GetCode() == int32(codes.OK) {
			return
		}
		e := newError(addr, status.FromProto(&s).Err())
		if e.Code != codes.Code(s.GetCode()) {
			t.Errorf("code %v became %v", s.GetCode(), e.Code)
		}
		if e.RetryAfter < 0 {
			t.Errorf("RetryAfter %v", e.RetryAfter)
		}
		if e.Code == codes.Unavailable && e.Reason == "" {
			t.Error("UNAVAILABLE without a reason")
		}
		if !strings.HasPrefix(e.Error(), "secretbroker: ") {
			t.Errorf("text %q", e.Error())
		}
	})
}

// TestTextsSaidOnce: the broker may omit a text that it has sent before.
func TestTextsSaidOnce(t *testing.T) {
	got := configErrorsOf(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: `configs["a"]`, Reason: "X", Description: "about x"},
		{Field: `configs["b"]`, Reason: "X"},
		{Field: `configs["c"]`, Reason: "Y"},
		{Field: "configs", Description: "7 more configs failed"},
	}})
	want := []ConfigError{
		{Config: "a", Reason: "X", Message: "about x"}, {Config: "b", Reason: "X", Message: "about x"}, {Config: "c", Reason: "Y"},
		{Config: "configs", Message: "7 more configs failed"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An error is its reason and no other, also if it is wrapped.
func TestErrorIsItsReason(t *testing.T) {
	t.Parallel()
	denied := fmt.Errorf("resolving: %w", &Error{Code: codes.PermissionDenied, Reason: ReasonAccessDenied})
	for _, tt := range []struct {
		err    error
		target error
		want   bool
	}{
		{denied, ReasonAccessDenied, true},
		{denied, Reason("ACCESS_DENIED"), true},
		{denied, ReasonStoreNotAllowed, false},
		{denied, context.Canceled, false},
		{&Error{Code: codes.Unavailable}, Reason(""), false},
		{&Error{Reason: "NEWER"}, Reason("NEWER"), true},
		{context.Canceled, ReasonAccessDenied, false},
	} {
		if got := errors.Is(tt.err, tt.target); got != tt.want {
			t.Errorf("errors.Is(%v, %v) = %v", tt.err, tt.target, got)
		}
	}
}
