package client_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

type explainFunc func(context.Context, *secretbrokerv1.ExplainRequest) (*secretbrokerv1.ExplainResponse, error)

// policyService is a broker's PolicyService; it is unimplemented until it has an answer.
type policyService struct {
	secretbrokerv1.UnimplementedPolicyServiceServer
	answer atomic.Pointer[explainFunc]
}

func (s *policyService) Explain(ctx context.Context, in *secretbrokerv1.ExplainRequest) (*secretbrokerv1.ExplainResponse, error) {
	if answer := s.answer.Load(); answer != nil {
		return (*answer)(ctx, in)
	}
	return s.UnimplementedPolicyServiceServer.Explain(ctx, in)
}

func (s *setup) setExplain(f explainFunc) { s.policy.answer.Store(&f) }

// explainAll returns all pages as one.
func explainAll(ctx context.Context, c *client.Client, req client.ExplainRequest) (*client.ExplainResponse, error) {
	all := &client.ExplainResponse{}
	for page, err := range c.Explain(ctx, req) {
		if err != nil {
			return nil, err
		}
		all.Reference, all.RequestID = page.Reference, page.RequestID
		all.Readers = append(all.Readers, page.Readers...)
		all.Decisions = append(all.Decisions, page.Decisions...)
	}
	return all, nil
}

func TestExplain(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	var got *secretbrokerv1.ExplainRequest
	s.setExplain(func(_ context.Context, in *secretbrokerv1.ExplainRequest) (*secretbrokerv1.ExplainResponse, error) {
		got = in
		if in.GetPageToken() == "" {
			return &secretbrokerv1.ExplainResponse{
				Reference: "canonical", RequestId: "req-0", NextPageToken: "more",
				Readers: []*secretbrokerv1.Access{{IntegrationId: "a", GrantId: "g1", Principal: "dns:a"}},
			}, nil
		}
		return &secretbrokerv1.ExplainResponse{
			Reference: "canonical",
			Readers:   []*secretbrokerv1.Access{{IntegrationId: "a", GrantId: "g2", Principal: "dns:*.td"}, {IntegrationId: "b"}},
			Decisions: []*secretbrokerv1.Decision{
				{IntegrationId: "a", Allowed: true, GrantId: "g2", Explanation: "because", Grants: []*secretbrokerv1.GrantMatch{
					{GrantId: "g0", PrincipalMatches: true}, {GrantId: "g1", StoreMatches: true, SecretMatches: true}, {GrantId: "g2", KeyMatches: true},
				}},
				{IntegrationId: "b"},
			},
			RequestId: "req-1",
		}, nil
	})
	c, _ := s.client(t)
	e, err := explainAll(t.Context(), c, client.ExplainRequest{Reference: "a reference", IntegrationID: "a", Principal: "dns:a.td"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (&secretbrokerv1.ExplainRequest{Reference: "a reference", IntegrationId: "a", Principal: "dns:a.td", PageSize: 500, PageToken: "more"}); !proto.Equal(got, want) {
		t.Errorf("the broker got %v, want %v", got, want)
	}
	if diff := cmp.Diff(&client.ExplainResponse{
		Reference: "canonical",
		Readers:   []client.Access{{IntegrationID: "a", GrantID: "g1", Principal: "dns:a"}, {IntegrationID: "a", GrantID: "g2", Principal: "dns:*.td"}, {IntegrationID: "b"}},
		Decisions: []client.Decision{
			{IntegrationID: "a", Allowed: true, GrantID: "g2", Explanation: "because", Grants: []client.GrantMatch{
				{GrantID: "g0", PrincipalMatches: true}, {GrantID: "g1", StoreMatches: true, SecretMatches: true}, {GrantID: "g2", KeyMatches: true},
			}},
			{IntegrationID: "b"},
		},
		RequestID: "req-1",
	}, e); diff != "" {
		t.Error(diff)
	}
}

func TestExplainTriesAgain(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	overloaded := must(status.New(codes.ResourceExhausted, "wait").WithDetails(reason("OVERLOADED"), retryIn(time.Second))).Err()
	calls := 0
	s.setExplain(func(context.Context, *secretbrokerv1.ExplainRequest) (*secretbrokerv1.ExplainResponse, error) {
		if calls++; calls < 3 {
			return nil, overloaded
		}
		return &secretbrokerv1.ExplainResponse{Reference: "r"}, nil
	})
	c, waits := s.client(t)
	e, err := explainAll(t.Context(), c, client.ExplainRequest{Reference: "r"})
	if err != nil || e.Reference != "r" {
		t.Fatalf("%+v, %v", e, err)
	}
	if len(*waits) != 2 || (*waits)[0] < time.Second {
		t.Errorf("waited %v, want twice a second and more", *waits)
	}
}

func TestExplainErrors(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, waits := s.client(t)
	explain := func(answer explainFunc) *client.Error {
		t.Helper()
		if answer != nil {
			s.setExplain(answer)
		}
		out, err := explainAll(t.Context(), c, client.ExplainRequest{Reference: "r"})
		var e *client.Error
		if !errors.As(err, &e) {
			t.Fatalf("err = %v, answer %+v", err, out)
		}
		return e
	}
	if e := explain(nil); e.Code != codes.Unimplemented { // a broker without the service
		t.Errorf("err = %v", e)
	}
	denied := must(status.New(codes.PermissionDenied, "not an auditor").WithDetails(reason("ACCESS_DENIED"))).Err()
	if e := explain(func(context.Context, *secretbrokerv1.ExplainRequest) (*secretbrokerv1.ExplainResponse, error) {
		return nil, denied
	}); e.Reason != client.ReasonAccessDenied || e.Message != "not an auditor" {
		t.Errorf("err = %v", e)
	}
	if len(*waits) != 0 {
		t.Errorf("waited %v after a permanent error", *waits)
	}
}
