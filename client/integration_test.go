package client_test

import (
	"context"
	"errors"
	"fmt"
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
	out.Etag, out.Revision, out.ReadOnly, out.CredentialNames = "e2", "r", true, []string{"c"}
	out.CreateTime, out.Creator, out.LastUseTime = &timestamppb.Timestamp{Seconds: 1}, "dns:a", &timestamppb.Timestamp{Seconds: 2}
	out.Uid, out.Problems = "u", []*secretbrokerv1.Problem{{Reason: "PLACEMENT_DENIED", Message: "p"}}
	out.Facts = []*secretbrokerv1.Fact{{Id: "I", Name: "n", Value: "v"}}
	return out
}

func (s *integrationService) CreateIntegration(_ context.Context, in *secretbrokerv1.CreateIntegrationRequest) (*secretbrokerv1.CreateIntegrationResponse, error) {
	return &secretbrokerv1.CreateIntegrationResponse{RequestId: "r1", Integration: answered(in.GetIntegration())}, s.keep(in)
}

func (s *integrationService) UpdateIntegration(_ context.Context, in *secretbrokerv1.UpdateIntegrationRequest) (*secretbrokerv1.UpdateIntegrationResponse, error) {
	return &secretbrokerv1.UpdateIntegrationResponse{RequestId: "r1", Integration: answered(in.GetIntegration()), ChangedFields: []string{"cache.ttl"}}, s.keep(in)
}

func (s *integrationService) DeleteIntegration(_ context.Context, in *secretbrokerv1.DeleteIntegrationRequest) (*secretbrokerv1.DeleteIntegrationResponse, error) {
	return &secretbrokerv1.DeleteIntegrationResponse{RequestId: "r1"}, s.keep(in)
}

func (s *integrationService) GetIntegration(_ context.Context, in *secretbrokerv1.GetIntegrationRequest) (*secretbrokerv1.GetIntegrationResponse, error) {
	out := s.existing
	if out == nil {
		out = &secretbrokerv1.Integration{Id: in.GetIntegrationId()}
	}
	return &secretbrokerv1.GetIntegrationResponse{RequestId: "r1", Integration: out}, s.keep(in)
}

func (s *integrationService) GrantUse(_ context.Context, in *secretbrokerv1.GrantUseRequest) (*secretbrokerv1.GrantUseResponse, error) {
	return &secretbrokerv1.GrantUseResponse{RequestId: "r1", Integration: &secretbrokerv1.Integration{Id: in.GetIntegrationId(), Grants: []*secretbrokerv1.Grant{in.GetGrant()}}}, s.keep(in)
}

func (s *integrationService) RevokeUse(_ context.Context, in *secretbrokerv1.RevokeUseRequest) (*secretbrokerv1.RevokeUseResponse, error) {
	return &secretbrokerv1.RevokeUseResponse{RequestId: "r1", Integration: &secretbrokerv1.Integration{Id: in.GetIntegrationId()}}, s.keep(in)
}

func (s *integrationService) ValidateIntegration(_ context.Context, in *secretbrokerv1.ValidateIntegrationRequest) (*secretbrokerv1.ValidateIntegrationResponse, error) {
	return &secretbrokerv1.ValidateIntegrationResponse{RequestId: "r1", Steps: []*secretbrokerv1.ValidationStep{{Step: "TOKEN", State: secretbrokerv1.ValidationStep_STATE_OK, Message: "m"}, {Step: "READ_STORE", Store: "https://v", Reason: "R", State: secretbrokerv1.ValidationStep_STATE_FAILED}, {Step: "NEW", State: secretbrokerv1.ValidationStep_STATE_SKIPPED}, {Step: "READ_STORE", State: secretbrokerv1.ValidationStep_STATE_UNCHECKED}, {State: 77}}}, s.keep(in)
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
		Usage: []*secretbrokerv1.Usage{{
			Principal: "p" + in.GetPageToken(), JsonKey: "k", LastUseTime: &timestamppb.Timestamp{Seconds: 3}, IntegrationId: "i", CurrentVersion: "v3",
			State: secretbrokerv1.VersionState_VERSION_STATE_OUTDATED, Attribution: secretbrokerv1.UsageAttribution_USAGE_ATTRIBUTION_PRINCIPAL,
			Versions: []*secretbrokerv1.VersionUse{{Version: "v2", FirstUseTime: &timestamppb.Timestamp{Seconds: 1}, LastUseTime: &timestamppb.Timestamp{Seconds: 2}, RequestId: "r", AuditSequence: 4, Replica: "b"}},
		}},
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
	want.ETag, want.Revision, want.ReadOnly, want.CredentialNames = "e2", "r", true, []string{"c"}
	want.UID, want.Problems = "u", []client.Problem{{Reason: client.ReasonPlacementDenied, Message: "p"}}
	want.CreateTime, want.Creator, want.LastUseTime, want.Facts = time.Unix(1, 0).UTC(), "dns:a", time.Unix(2, 0).UTC(), []client.Fact{{ID: "I", Name: "n", Value: "v"}}
	in.Credentials, in.ETag = map[string][]byte{"azure.credential.client_secret": []byte("x")}, "e1"

	created, err := c.CreateIntegration(t.Context(), client.CreateIntegrationRequest{Integration: in, ValidateOnly: true})
	if diff := cmp.Diff(&client.CreateIntegrationResponse{Integration: &want, RequestID: "r1"}, created); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got := s.manage.got.(*secretbrokerv1.CreateIntegrationRequest); !got.GetValidateOnly() || string(got.GetIntegration().GetCredentials()["azure.credential.client_secret"]) != "x" || got.GetIntegration().GetEtag() != "e1" {
		t.Errorf("the broker got %v", got)
	}
	updated, err := c.UpdateIntegration(t.Context(), client.UpdateIntegrationRequest{Integration: in, Mask: []string{"cache"}, Force: true})
	if diff := cmp.Diff(&client.UpdateIntegrationResponse{Integration: &want, ChangedFields: []string{"cache.ttl"}, RequestID: "r1"}, updated); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got := s.manage.got.(*secretbrokerv1.UpdateIntegrationRequest); !got.GetForce() || !cmp.Equal(got.GetUpdateMask().GetPaths(), []string{"cache"}) {
		t.Errorf("the broker got %v", got)
	}
	in.Settings = map[string]any{"c": make(chan int)}
	for _, in := range []*client.Integration{in, nil} {
		if _, err := c.CreateIntegration(t.Context(), client.CreateIntegrationRequest{Integration: in}); !errors.Is(err, client.ReasonInvalidRequest) {
			t.Errorf("got %v", err)
		}
		if _, err := c.UpdateIntegration(t.Context(), client.UpdateIntegrationRequest{Integration: in}); !errors.Is(err, client.ReasonInvalidRequest) {
			t.Errorf("got %v", err)
		}
	}
}

func TestIntegrationCalls(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	grant := client.Grant{Principals: []string{"p"}}
	if out, err := c.GetIntegration(t.Context(), client.GetIntegrationRequest{IntegrationID: "i"}); err != nil || out.Integration.ID != "i" || !out.Integration.LastUseTime.IsZero() || out.RequestID != "r1" {
		t.Errorf("%+v, %v", out, err)
	}
	out, err := c.DeleteIntegration(t.Context(), client.DeleteIntegrationRequest{IntegrationID: "i", ETag: "e", Force: true, ValidateOnly: true})
	if want := (&secretbrokerv1.DeleteIntegrationRequest{IntegrationId: "i", Etag: "e", Force: true, ValidateOnly: true}); err != nil || !proto.Equal(s.manage.got, want) || out.RequestID != "r1" {
		t.Errorf("%v, %+v, %v", s.manage.got, out, err)
	}
	granted, err := c.GrantUse(t.Context(), client.GrantUseRequest{IntegrationID: "i", Grant: grant, ETag: "e", ValidateOnly: true})
	if want := (&secretbrokerv1.GrantUseRequest{IntegrationId: "i", Grant: &secretbrokerv1.Grant{Principals: []string{"p"}}, Etag: "e", ValidateOnly: true}); err != nil || !proto.Equal(s.manage.got, want) || len(granted.Integration.Grants) != 1 || granted.RequestID != "r1" {
		t.Errorf("%v, %+v, %v", s.manage.got, granted, err)
	}
	revoked, err := c.RevokeUse(t.Context(), client.RevokeUseRequest{IntegrationID: "i", Grant: grant, ETag: "e", ValidateOnly: true})
	if want := (&secretbrokerv1.RevokeUseRequest{IntegrationId: "i", Grant: &secretbrokerv1.Grant{Principals: []string{"p"}}, Etag: "e", ValidateOnly: true}); err != nil || !proto.Equal(s.manage.got, want) || revoked.Integration.ID != "i" || revoked.RequestID != "r1" {
		t.Errorf("%v, %+v, %v", s.manage.got, revoked, err)
	}
	validated, err := c.ValidateIntegration(t.Context(), client.ValidateIntegrationRequest{IntegrationID: "i"})
	if diff := cmp.Diff(&client.ValidateIntegrationResponse{Steps: []client.ValidationStep{{Step: "TOKEN", State: client.StepOK, Message: "m"}, {Step: "READ_STORE", Store: "https://v", Reason: "R", State: client.StepFailed}, {Step: "NEW", State: client.StepSkipped}, {Step: "READ_STORE", State: client.StepUnchecked}, {State: client.StepUnknown}}, RequestID: "r1"}, validated); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// Lists request a page when the iteration reaches it.
func TestListsArePaged(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	for limit, want := range map[int]string{10: "[i in inn]", 2: "[i in]", 1: "[i]"} {
		s.manage.seen = 0
		var ids []string
		for in, err := range c.ListIntegrations(t.Context(), client.ListIntegrationsRequest{Filter: "f", PageSize: limit}) {
			if err != nil {
				t.Fatal(err)
			}
			if ids = append(ids, in.ID); len(ids) == limit {
				break
			}
		}
		if fmt.Sprint(ids) != want || s.manage.seen != len(ids) {
			t.Errorf("got %v with %d calls, want %s", ids, s.manage.seen, want)
		}
		if got := s.manage.got.(*secretbrokerv1.ListIntegrationsRequest); got.GetPageSize() != int32(limit) || got.GetFilter() != "f" {
			t.Errorf("the broker got %v", got)
		}
		s.manage.seen = 0
		pages := 0
		for page, err := range c.ListUsage(t.Context(), client.ListUsageRequest{IntegrationID: client.AllIntegrations, Filter: "outdated"}) {
			if u := page.Usage[0]; u.IntegrationID != "i" || u.CurrentVersion != "v3" || u.State != client.VersionOutdated || u.Attribution != client.UsageOfPrincipal ||
				!cmp.Equal(u.Versions, []client.VersionUse{{Version: "v2", FirstUseTime: time.Unix(1, 0).UTC(), LastUseTime: time.Unix(2, 0).UTC(), RequestID: "r", AuditSequence: 4, Replica: "b"}}) {
				t.Errorf("%+v", u)
			}
			if err != nil || len(page.Usage) != 1 || !cmp.Equal(page.UnusedGrantIDs, []string{"g1"}) || page.Usage[0].JSONKey != "k" || page.Usage[0].LastUseTime.IsZero() {
				t.Errorf("%+v, %v", page, err)
			}
			if pages++; pages == limit {
				break
			}
		}
		if pages != min(limit, 3) || s.manage.seen != pages || s.manage.got.(*secretbrokerv1.ListUsageRequest).GetPageSize() != 500 ||
			s.manage.got.(*secretbrokerv1.ListUsageRequest).GetFilter() != "outdated" || s.manage.got.(*secretbrokerv1.ListUsageRequest).GetIntegrationId() != "-" {
			t.Errorf("%d pages with %d calls, the last %v", pages, s.manage.seen, s.manage.got)
		}
	}
}

// An error ends an iteration.
func TestListErrors(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	s.manage.err = must(status.New(codes.PermissionDenied, "no").WithDetails(reason("ACCESS_DENIED"))).Err()
	n := 0
	for in, err := range c.ListIntegrations(t.Context(), client.ListIntegrationsRequest{}) {
		if n++; in != nil || !errors.Is(err, client.ReasonAccessDenied) {
			t.Errorf("%+v, %v", in, err)
		}
	}
	for page, err := range c.ListUsage(t.Context(), client.ListUsageRequest{}) {
		if n++; page != nil || !errors.Is(err, client.ReasonAccessDenied) {
			t.Errorf("%+v, %v", page, err)
		}
	}
	if n != 2 {
		t.Errorf("%d results, want 2", n)
	}
}

// TestChangesAreMadeOnce: the client retries reads, and changes only if the broker was too
// busy to start them.
func TestChangesAreMadeOnce(t *testing.T) {
	t.Parallel()
	s := newSetup(t, echo)
	c, _ := s.client(t)
	s.manage.err = must(status.New(codes.Unavailable, "wait").WithDetails(reason("AUDIT_UNAVAILABLE"))).Err()
	if _, err := c.DeleteIntegration(t.Context(), client.DeleteIntegrationRequest{IntegrationID: "i"}); err == nil || s.manage.seen != 1 {
		t.Errorf("%d attempts, %v", s.manage.seen, err)
	}
	s.manage.seen = 0
	if _, err := c.GetIntegration(t.Context(), client.GetIntegrationRequest{IntegrationID: "i"}); err == nil || s.manage.seen < 2 {
		t.Errorf("%d attempts, %v", s.manage.seen, err)
	}
	s.manage.seen = 0
	s.manage.err = must(status.New(codes.ResourceExhausted, "wait").WithDetails(reason("OVERLOADED"))).Err()
	if _, err := c.DeleteIntegration(t.Context(), client.DeleteIntegrationRequest{IntegrationID: "i"}); err == nil || s.manage.seen < 2 {
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
	_, err := c.CreateIntegration(t.Context(), client.CreateIntegrationRequest{Integration: &client.Integration{ID: "i"}})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonInvalidIntegration || len(e.Configs) != 1 || e.Configs[0].Config != "integration.settings.vaults[0]" {
		t.Errorf("got %v", err)
	}
}
