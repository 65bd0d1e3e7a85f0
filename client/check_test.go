package client_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

type checkFunc func(context.Context, *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error)

func (b *broker) setCheck(f checkFunc) { b.check.Store(&f) }

func (b *broker) Check(ctx context.Context, in *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error) {
	b.calls.Add(1)
	if f := b.check.Load(); f != nil {
		return (*f)(ctx, in)
	}
	return b.UnimplementedResolverServiceServer.Check(ctx, in)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	fetched, expires := time.Unix(1700000000, 5).UTC(), time.Unix(1700000300, 0).UTC()
	var got *secretbrokerv1.CheckRequest
	s := newSetup(t, echo)
	s.setCheck(func(_ context.Context, in *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error) {
		got = in
		return &secretbrokerv1.CheckResponse{
			Configs: map[string]*secretbrokerv1.ConfigReport{
				"b": {
					Store: "https://v.vault.azure.net", Secret: "s", Version: "v7", JsonKey: "k", JsonKeyFound: true,
					FetchTime: timestamppb.New(fetched), SecretExpireTime: timestamppb.New(expires), TimeLeft: durationpb.New(time.Hour),
					LengthClass: secretbrokerv1.LengthClass_LENGTH_CLASS_SHORT,
				},
				"a": {Store: "https://v.vault.azure.net", Secret: "t", Error: &secretbrokerv1.ConfigError{
					Reason: "STORE_THROTTLED", Message: "wait", RetryDelay: durationpb.New(3 * time.Second),
				}},
				"c": {TimeLeft: durationpb.New(0), LengthClass: 99, Warnings: []*secretbrokerv1.ConfigWarning{{Warning: "NOT_UTF8", Message: "m"}}},
				"d": {TimeLeft: &durationpb.Duration{Seconds: math.MaxInt64}, Error: &secretbrokerv1.ConfigError{}},
			},
			RequestId: "req-9",
		}, nil
	})
	c, _ := s.client(t)
	maxAge := 90 * time.Second
	res, err := c.Check(t.Context(), client.CheckRequest{
		IntegrationID: "prod",
		Configs:       map[string]string{"a": "ref a", "b": "ref b"},
		MaxAge:        &maxAge,
		Connector:     "orders-sink",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &secretbrokerv1.CheckRequest{
		IntegrationId: "prod",
		Configs:       map[string]string{"a": "ref a", "b": "ref b"},
		MaxAge:        durationpb.New(maxAge),
		Connector:     "orders-sink",
	}
	if !proto.Equal(got, want) {
		t.Errorf("the broker got %v, want %v", got, want)
	}
	if diff := cmp.Diff(&client.CheckResponse{
		Reports: []client.Report{
			{Config: "a", Store: "https://v.vault.azure.net", Secret: "t", Err: &client.ConfigError{
				Config: "a", Reason: client.ReasonStoreThrottled, Message: "wait", RetryAfter: 3 * time.Second,
			}},
			{
				Config: "b", Store: "https://v.vault.azure.net", Secret: "s", Version: "v7", JSONKey: "k", JSONKeyFound: true,
				FetchTime: fetched, SecretExpireTime: expires, TimeLeft: time.Hour, HasTimeLeft: true, Length: client.LengthShort,
			},
			{Config: "c", HasTimeLeft: true, Warnings: []client.Warning{{Warning: "NOT_UTF8", Message: "m"}}},
			{Config: "d", HasTimeLeft: true, TimeLeft: math.MaxInt64, Err: &client.ConfigError{Config: "d"}},
		},
		RequestID: "req-9",
	}, res); diff != "" {
		t.Error(diff)
	}

	s.setCheck(func(_ context.Context, in *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error) {
		got = in
		return &secretbrokerv1.CheckResponse{Ok: true}, nil
	})
	res, err = c.Check(t.Context(), client.CheckRequest{})
	if err != nil || !res.OK || len(res.Reports) > 0 {
		t.Errorf("got %+v, %v", res, err)
	}
	if got.GetMaxAge() != nil {
		t.Error("an unset max age is sent")
	}
}

// TestLengthClasses: every class of the protocol has a name.
func TestLengthClasses(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	s.setCheck(func(context.Context, *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error) {
		out := &secretbrokerv1.CheckResponse{Configs: map[string]*secretbrokerv1.ConfigReport{}}
		for n, name := range secretbrokerv1.LengthClass_name {
			out.Configs[name] = &secretbrokerv1.ConfigReport{LengthClass: secretbrokerv1.LengthClass(n)}
		}
		return out, nil
	})
	c, _ := s.client(t)
	res, err := c.Check(t.Context(), client.CheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]client.LengthClass{}
	for _, r := range res.Reports {
		got[r.Config] = r.Length
	}
	if diff := cmp.Diff(map[string]client.LengthClass{
		"LENGTH_CLASS_UNSPECIFIED": client.LengthUnknown,
		"LENGTH_CLASS_EMPTY":       client.LengthEmpty,
		"LENGTH_CLASS_TINY":        client.LengthTiny,
		"LENGTH_CLASS_SHORT":       client.LengthShort,
		"LENGTH_CLASS_MEDIUM":      client.LengthMedium,
		"LENGTH_CLASS_LONG":        client.LengthLong,
	}, got); diff != "" {
		t.Error(diff)
	}
}

// TestCheckFails: Check retries and gives up like Resolve.
func TestCheckFails(t *testing.T) {
	t.Parallel()
	unavailable := failWith(codes.Unavailable, "", reason("AUDIT_UNAVAILABLE"))
	denied := failWith(codes.Unauthenticated, "no name", reason("UNAUTHENTICATED"))
	s := newSetup(t, echo)
	c, waits := s.client(t)
	s.setCheck(func(ctx context.Context, _ *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error) {
		if s.calls.Load() < 3 {
			_, err := unavailable(ctx, nil)
			return nil, err
		}
		_, err := denied(ctx, nil)
		return nil, err
	})
	_, err := c.Check(t.Context(), client.CheckRequest{})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonUnauthenticated {
		t.Errorf("got %v, want UNAUTHENTICATED", err)
	}
	if len(*waits) != 2 {
		t.Errorf("%d waits, want 2", len(*waits))
	}

	s.check.Store(nil) // a broker without Check
	if _, err = c.Check(t.Context(), client.CheckRequest{}); !errors.As(err, &e) || e.Code != codes.Unimplemented {
		t.Errorf("got %v, want UNIMPLEMENTED", err)
	}
}
