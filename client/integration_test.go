package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// integrationService is a broker's IntegrationService that records its requests and returns
// what it got.
type integrationService struct {
	secretbrokerv1.UnimplementedIntegrationServiceServer
	mu   sync.Mutex
	got  proto.Message
	err  error
	seen int
	// existing is what GetIntegration returns; nil for one with the requested id.
	existing *secretbrokerv1.Integration
}

func (s *integrationService) keep(m proto.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = m
	s.seen++
	return s.err
}

func answered(in *secretbrokerv1.Integration) *secretbrokerv1.Integration {
	out := proto.CloneOf(in)
	out.Credentials = nil
	out.Etag, out.Revision, out.ReadOnly, out.Problem, out.CredentialNames = "e2", "r", true, "p", []string{"c"}
	out.CreateTime, out.Creator, out.LastUseTime = &timestamppb.Timestamp{Seconds: 1}, "dns:a", &timestamppb.Timestamp{Seconds: 2}
	out.Facts = []*secretbrokerv1.Fact{{Name: "n", Value: "v"}}
	return out
}

func (s *integrationService) CreateIntegration(_ context.Context, in *secretbrokerv1.CreateIntegrationRequest) (*secretbrokerv1.CreateIntegrationResponse, error) {
	return &secretbrokerv1.CreateIntegrationResponse{Integration: answered(in.GetIntegration())}, s.keep(in)
}

func (s *integrationService) UpdateIntegration(_ context.Context, in *secretbrokerv1.UpdateIntegrationRequest) (*secretbrokerv1.UpdateIntegrationResponse, error) {
	return &secretbrokerv1.UpdateIntegrationResponse{Integration: answered(in.GetIntegration()), ChangedFields: []string{"cache.ttl"}}, s.keep(in)
}

func (s *integrationService) DeleteIntegration(_ context.Context, in *secretbrokerv1.DeleteIntegrationRequest) (*secretbrokerv1.DeleteIntegrationResponse, error) {
	return &secretbrokerv1.DeleteIntegrationResponse{}, s.keep(in)
}

func (s *integrationService) GetIntegration(_ context.Context, in *secretbrokerv1.GetIntegrationRequest) (*secretbrokerv1.GetIntegrationResponse, error) {
	out := s.existing
	if out == nil {
		out = &secretbrokerv1.Integration{Id: in.GetIntegrationId()}
	}
	return &secretbrokerv1.GetIntegrationResponse{Integration: out}, s.keep(in)
}

func (s *integrationService) GrantUse(_ context.Context, in *secretbrokerv1.GrantUseRequest) (*secretbrokerv1.GrantUseResponse, error) {
	return &secretbrokerv1.GrantUseResponse{Integration: &secretbrokerv1.Integration{Id: in.GetIntegrationId(), Grants: []*secretbrokerv1.Grant{in.GetGrant()}}}, s.keep(in)
}

func (s *integrationService) RevokeUse(_ context.Context, in *secretbrokerv1.RevokeUseRequest) (*secretbrokerv1.RevokeUseResponse, error) {
	return &secretbrokerv1.RevokeUseResponse{Integration: &secretbrokerv1.Integration{Id: in.GetIntegrationId()}}, s.keep(in)
}

func (s *integrationService) ValidateIntegration(_ context.Context, in *secretbrokerv1.ValidateIntegrationRequest) (*secretbrokerv1.ValidateIntegrationResponse, error) {
	return &secretbrokerv1.ValidateIntegrationResponse{Steps: []*secretbrokerv1.ValidationStep{{Name: "token", Ok: true, Message: "m"}, {Name: "read", Reason: "R", Skipped: true}}}, s.keep(in)
}

// ListIntegrations and ListUsage have three pages.
func (s *integrationService) ListIntegrations(_ context.Context, in *secretbrokerv1.ListIntegrationsRequest) (*secretbrokerv1.ListIntegrationsResponse, error) {
	out := &secretbrokerv1.ListIntegrationsResponse{Integrations: []*secretbrokerv1.Integration{{Id: "i" + in.GetPageToken()}}, NextPageToken: in.GetPageToken() + "n"}
	if len(out.GetNextPageToken()) == 3 {
		out.NextPageToken = ""
	}
	return out, s.keep(in)
}

func (s *integrationService) ListUsage(_ context.Context, in *secretbrokerv1.ListUsageRequest) (*secretbrokerv1.ListUsageResponse, error) {
	out := &secretbrokerv1.ListUsageResponse{
		Usage:          []*secretbrokerv1.Usage{{Principal: "p" + in.GetPageToken(), JsonKey: "k", LastUseTime: &timestamppb.Timestamp{Seconds: 3}}},
		UnusedGrantIds: []string{"g1"}, NextPageToken: in.GetPageToken() + "n",
	}
	if len(out.GetNextPageToken()) == 3 {
		out.NextPageToken = ""
	}
	return out, s.keep(in)
}

func TestIntegrationRoundTrip(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	in := &client.Integration{
		ID: "i", DisplayName: "d", Kind: "AZURE_KEY_VAULT", Settings: map[string]any{"vaults": []any{"v"}, "n": 3.0},
		CacheTTL: time.Minute, CacheMaxStale: time.Hour, Reads: client.IntegrationReads{MaxConcurrent: 1, PerSecond: 2, Timeout: 3 * time.Second},
		Placement: client.Placement{Cloud: "azure", Region: "westeurope"},
		Grants:    []client.Grant{{ID: "g", Principals: []string{"p"}, Stores: []string{"v"}, Secrets: []string{"s"}, Keys: []string{"k"}}},
		Roles:     map[client.Role][]string{client.RoleResourceOwner: {"o"}, client.RoleAssigner: {"a"}, client.RoleAuditor: {"u"}},
	}
	want := *in
	want.ETag, want.Revision, want.ReadOnly, want.Problem, want.CredentialNames = "e2", "r", true, "p", []string{"c"}
	want.CreateTime, want.Creator, want.LastUseTime, want.Facts = time.Unix(1, 0).UTC(), "dns:a", time.Unix(2, 0).UTC(), []client.Fact{{Name: "n", Value: "v"}}
	in.Credentials, in.ETag = map[string][]byte{"azure.credential.client_secret": []byte("x")}, "e1"

	created, err := c.CreateIntegration(t.Context(), in, client.WriteOptions{ValidateOnly: true})
	if diff := cmp.Diff(&want, created); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got := s.manage.got.(*secretbrokerv1.CreateIntegrationRequest); !got.GetValidateOnly() || string(got.GetIntegration().GetCredentials()["azure.credential.client_secret"]) != "x" || got.GetIntegration().GetEtag() != "e1" {
		t.Errorf("the broker got %v", got)
	}
	updated, changed, err := c.UpdateIntegration(t.Context(), in, []string{"cache"}, client.WriteOptions{Force: true})
	if diff := cmp.Diff(&want, updated); err != nil || diff != "" || !cmp.Equal(changed, []string{"cache.ttl"}) {
		t.Errorf("%v %v %s", err, changed, diff)
	}
	if got := s.manage.got.(*secretbrokerv1.UpdateIntegrationRequest); !got.GetForce() || !cmp.Equal(got.GetUpdateMask().GetPaths(), []string{"cache"}) {
		t.Errorf("the broker got %v", got)
	}
	in.Settings = map[string]any{"c": make(chan int)}
	if _, err := c.CreateIntegration(t.Context(), in, client.WriteOptions{}); err == nil || !strings.Contains(err.Error(), string(client.ReasonInvalidRequest)) {
		t.Errorf("got %v", err)
	}
}

func TestIntegrationCalls(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	o := client.WriteOptions{ETag: "e", Force: true, ValidateOnly: true}
	if in, err := c.GetIntegration(t.Context(), "i"); err != nil || in.ID != "i" || !in.LastUseTime.IsZero() {
		t.Errorf("%+v, %v", in, err)
	}
	if err := c.DeleteIntegration(t.Context(), "i", o); err != nil || !proto.Equal(s.manage.got, &secretbrokerv1.DeleteIntegrationRequest{IntegrationId: "i", Etag: "e", Force: true, ValidateOnly: true}) {
		t.Errorf("%v, %v", s.manage.got, err)
	}
	if in, err := c.GrantUse(t.Context(), "i", client.Grant{Principals: []string{"p"}}, o); err != nil || len(in.Grants) != 1 {
		t.Errorf("%+v, %v", in, err)
	}
	if in, err := c.RevokeUse(t.Context(), "i", client.Grant{Principals: []string{"p"}}, o); err != nil || in.ID != "i" {
		t.Errorf("%+v, %v", in, err)
	}
	steps, err := c.ValidateIntegration(t.Context(), "i")
	if diff := cmp.Diff([]client.ValidationStep{{Name: "token", OK: true, Message: "m"}, {Name: "read", Reason: "R", Skipped: true}}, steps); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	all, err := c.ListIntegrations(t.Context(), "f")
	var ids []string
	for _, in := range all {
		ids = append(ids, in.ID)
	}
	if err != nil || fmt.Sprint(ids) != "[i in inn]" {
		t.Errorf("%v, %v", ids, err)
	}
	for limit, want := range map[int]int{10: 3, 2: 2, 1: 1} {
		report, err := c.ListUsage(t.Context(), "i", limit)
		if err != nil || len(report.Usage) != want || !cmp.Equal(report.UnusedGrantIDs, []string{"g1"}) || report.Usage[0].JSONKey != "k" || report.Usage[0].LastUseTime.IsZero() {
			t.Errorf("%d: %+v, %v", limit, report, err)
		}
	}
}

// TestChangesAreMadeOnce: the client retries reads, and changes only if the broker was too
// busy to start them.
func TestChangesAreMadeOnce(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	s.manage.err = must(status.New(codes.Unavailable, "wait").WithDetails(reason("AUDIT_UNAVAILABLE"))).Err()
	if err := c.DeleteIntegration(t.Context(), "i", client.WriteOptions{}); err == nil || s.manage.seen != 1 {
		t.Errorf("%d attempts, %v", s.manage.seen, err)
	}
	s.manage.seen = 0
	if _, err := c.GetIntegration(t.Context(), "i"); err == nil || s.manage.seen < 2 {
		t.Errorf("%d attempts, %v", s.manage.seen, err)
	}
	s.manage.seen = 0
	s.manage.err = must(status.New(codes.ResourceExhausted, "wait").WithDetails(reason("OVERLOADED"))).Err()
	if err := c.DeleteIntegration(t.Context(), "i", client.WriteOptions{}); err == nil || s.manage.seen < 2 {
		t.Errorf("%d attempts while overloaded, %v", s.manage.seen, err)
	}
}

func TestIntegrationFaultsNameFields(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	s.manage.err = must(status.New(codes.InvalidArgument, "bad").WithDetails(reason("INVALID_INTEGRATION"), &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "integration.settings.vaults[0]", Description: "not a vault", Reason: "INVALID_INTEGRATION"},
	}})).Err()
	_, err := c.CreateIntegration(t.Context(), &client.Integration{ID: "i"}, client.WriteOptions{})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonInvalidIntegration || len(e.Configs) != 1 || e.Configs[0].Config != "integration.settings.vaults[0]" {
		t.Errorf("got %v", err)
	}
}
