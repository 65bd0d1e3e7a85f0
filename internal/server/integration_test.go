package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// fakeManager allows ownerID everything and auditorID to read, and records its last
// arguments.
type fakeManager struct {
	// listing, if not nil, receives a value for each List, which then waits for list.
	listing, list chan struct{}
	mu            sync.Mutex
	doc           manage.Document
	mask          []string
	credentials   map[string]string
	options       manage.WriteOptions
	rejected      string
	caller        manage.Caller
	entry         denial.Entry
	usage         []manage.UsageEntry
	usageQuery    manage.UsageQuery
	err           error
}

func (f *fakeManager) may(who manage.Caller, principals ...authz.Principal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	for _, p := range principals {
		if who.Principal == p {
			return nil
		}
	}
	return secret.Errorf(secret.ReasonAccessDenied, "no role")
}

func (f *fakeManager) keep(doc manage.Document, mask []string, credentials map[string]secret.Value, o manage.WriteOptions) manage.Integration {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doc, f.mask, f.options = doc, mask, o
	f.credentials = map[string]string{}
	for name, v := range credentials {
		f.credentials[name] = v.Reveal()
		v.Wipe()
	}
	return manage.Integration{Document: doc, ETag: "e2", CredentialNames: []string{"azure.credential.client_secret"}, CreatedAt: time.Unix(1, 0), CreatedBy: ownerID,
		Facts: []manage.Fact{{ID: "CLOUD", Name: "Cloud", Value: "azure"}}, Problems: []manage.Problem{{Reason: secret.ReasonPlacementDenied, Message: "elsewhere"}}}
}

func (f *fakeManager) Create(_ context.Context, who manage.Caller, doc manage.Document, c map[string]secret.Value, o manage.WriteOptions) (manage.Integration, error) {
	return f.keep(doc, nil, c, o), f.may(who, ownerID)
}

func (f *fakeManager) WhoAmI(who manage.Caller) (manage.Self, error) {
	if who.Principal != ownerID {
		return manage.Self{}, nil
	}
	return manage.Self{Roles: []manage.RoleHeld{{Role: authz.ResourceOwner, All: true}, {Role: authz.Auditor, Integrations: 3}}, Usable: 2}, nil
}

func (f *fakeManager) Deny(_ context.Context, who manage.Caller, e denial.Entry, o manage.WriteOptions) (denial.Entry, error) {
	f.mu.Lock()
	f.caller, f.entry, f.options = who, e, o
	f.mu.Unlock()
	e.CreatedAt, e.CreatedBy = time.Unix(1, 0), who.Principal
	return e, f.may(who, ownerID)
}

func (f *fakeManager) Undeny(_ context.Context, who manage.Caller, s denial.Subject, o manage.WriteOptions) error {
	f.mu.Lock()
	f.entry, f.options = denial.Entry{Subject: s}, o
	f.mu.Unlock()
	return f.may(who, ownerID)
}

func (f *fakeManager) Denials(_ context.Context, who manage.Caller, _ int, _ string) ([]denial.Entry, string, error) {
	return []denial.Entry{{Subject: denial.Subject{Principal: granted}, Reason: "leaked", InFile: true}}, "next", f.may(who, ownerID, auditorID)
}

func (f *fakeManager) Get(_ context.Context, who manage.Caller, id string) (manage.Integration, error) {
	return manage.Integration{Document: manage.Document{ID: id}}, f.may(who, ownerID, auditorID)
}

func (f *fakeManager) List(context.Context, manage.Caller, manage.ListOptions) ([]manage.Integration, string, error) {
	if f.listing != nil {
		f.listing <- struct{}{}
		<-f.list
	}
	return []manage.Integration{{Document: manage.Document{ID: "cspi"}}}, "next", nil
}

func (f *fakeManager) Update(_ context.Context, who manage.Caller, doc manage.Document, mask []string, c map[string]secret.Value, o manage.WriteOptions) (manage.Integration, []string, error) {
	return f.keep(doc, mask, c, o), []string{"cache.ttl"}, f.may(who, ownerID)
}

func (f *fakeManager) Delete(_ context.Context, who manage.Caller, _ string, o manage.WriteOptions) error {
	f.keep(manage.Document{}, nil, nil, o)
	return f.may(who, ownerID)
}

func (f *fakeManager) Validate(_ context.Context, who manage.Caller, id string) ([]manage.Step, error) {
	if id == "open" {
		return []manage.Step{{Step: "TOKEN", Found: "obtained"}, {Step: "READ_STORE", Store: "https://v", Unchecked: true, Found: "unknown"}}, f.may(who, ownerID)
	}
	return []manage.Step{{Step: "TOKEN", Found: "obtained"}, {Step: "READ_STORE", Store: "https://v", Err: secret.Errorf(secret.ReasonStoreAccessDenied, "assign the role")}, {Step: "READ_STORE", Store: "https://w", Skipped: true}}, f.may(who, ownerID)
}

func (f *fakeManager) Grant(_ context.Context, who manage.Caller, id string, g manage.Grant, o manage.WriteOptions) (manage.Integration, error) {
	return f.keep(manage.Document{ID: id, Grants: []manage.Grant{g}}, nil, nil, o), f.may(who, ownerID)
}

func (f *fakeManager) Revoke(_ context.Context, who manage.Caller, id string, g manage.Grant, o manage.WriteOptions) (manage.Integration, error) {
	return f.Grant(context.Background(), who, id, g, o)
}

func (f *fakeManager) Usage(_ context.Context, who manage.Caller, q manage.UsageQuery) (manage.UsagePage, error) {
	f.usageQuery = q
	return manage.UsagePage{UnusedGrantIDs: []string{"g1"}, Next: "next", Usage: f.usage}, f.may(who, ownerID, auditorID)
}

func (f *fakeManager) Explain(_ context.Context, who manage.Caller, q manage.Question) (manage.Answer, error) {
	return manage.Answer{
		Reference: q.Reference, Next: fmt.Sprint(q.PageSize, " after ", q.PageToken),
		Readers: []manage.Access{{IntegrationID: "cspi", GrantID: "g2", Principal: "spiffe://example.org/*"}},
		Decisions: []manage.Decision{{
			IntegrationID: "cspi", Allowed: true, GrantID: "g2", Explanation: "because", Grants: []manage.GrantMatch{{GrantID: "g0", Match: authz.Match{Principal: "x", Store: true, Secret: true, Key: true}}, {GrantID: "g1"}},
		}},
	}, f.may(who, auditorID)
}

func (f *fakeManager) Reject(_ context.Context, _ manage.Caller, method, id string, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejected = method + " " + id
	return err
}

// TestIntegrationRoundTrip: the fields that a caller sets reach the use case and come back
// unchanged, and credentials do not come back.
func TestIntegrationRoundTrip(t *testing.T) {
	ts := startServer(t)
	cl := secretbrokerv1.NewIntegrationServiceClient(ts.dial(t, ts.ca.Client(string(ownerID))))
	settings, err := structpb.NewStruct(map[string]any{"vaults": []any{"https://v.vault.azure.net"}, "credential": map[string]any{"type": "client_secret"}, "n": 3})
	if err != nil {
		t.Fatal(err)
	}
	sent := &secretbrokerv1.Integration{
		Id: "cspi", DisplayName: "d", Kind: "AZURE_KEY_VAULT", Settings: settings,
		Cache:     &secretbrokerv1.IntegrationCache{Ttl: durationpb.New(90 * time.Second), MaxStale: durationpb.New(time.Hour)},
		Reads:     &secretbrokerv1.IntegrationReads{MaxConcurrent: 3, PerSecond: 4, Timeout: durationpb.New(2500 * time.Millisecond)},
		Placement: &secretbrokerv1.Placement{Cloud: "azure", Region: "westeurope"},
		Grants:    []*secretbrokerv1.Grant{{Id: "g1", Principals: []string{"dns:a"}, Stores: []string{"v"}, Secrets: []string{"s"}, Keys: []string{"k"}}},
		Roles: []*secretbrokerv1.RoleBinding{
			{Role: secretbrokerv1.Role_ROLE_RESOURCE_OWNER, Principals: []string{"dns:o"}},
			{Role: secretbrokerv1.Role_ROLE_ASSIGNER, Principals: []string{"dns:as"}},
			{Role: secretbrokerv1.Role_ROLE_AUDITOR, Principals: []string{"dns:au"}},
		},
		Credentials: map[string][]byte{"azure.credential.client_secret": []byte("canary")}, Etag: "e1",
	}
	res, err := cl.UpdateIntegration(t.Context(), &secretbrokerv1.UpdateIntegrationRequest{
		Integration: sent, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"cache", "settings"}}, ValidateOnly: true, Force: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := res.GetIntegration()
	if got.GetEtag() != "e2" || len(got.GetCredentials()) != 0 || strings.Contains(fmt.Sprint(res), "canary") || got.GetCreateTime() == nil || got.GetUpdateTime() != nil || len(got.GetFacts()) != 1 || got.GetFacts()[0].GetId() != "CLOUD" || len(got.GetProblems()) != 1 || got.GetProblems()[0].GetReason() != "PLACEMENT_DENIED" || res.GetRequestId() == "" {
		t.Errorf("%v", res)
	}
	diff := cmp.Diff(sent, got, protocmp.Transform(),
		protocmp.IgnoreFields(&secretbrokerv1.Integration{}, "credentials", "etag", "create_time", "creator", "credential_names", "facts", "problems"))
	if diff != "" {
		t.Error(diff)
	}
	if f := ts.manager; f.credentials["azure.credential.client_secret"] != "canary" || f.options != (manage.WriteOptions{ETag: "e1", ValidateOnly: true, Force: true}) || !cmp.Equal(f.mask, []string{"cache", "settings"}) {
		t.Errorf("%+v", f)
	}
}

func TestIntegrationFaults(t *testing.T) {
	ts := startServer(t)
	cl := secretbrokerv1.NewIntegrationServiceClient(ts.dial(t, ts.ca.Client(string(ownerID))))
	var faults []manage.Fault
	for i := range 200 {
		faults = append(faults, manage.Fault{Setting: fmt.Sprint("azure.vaults[", i, "]"), Field: fmt.Sprint("integration.settings.vaults[", i, "]"), Text: strings.Repeat("x", 50)})
	}
	ts.manager.err = &manage.InvalidError{Faults: faults}
	_, err := cl.CreateIntegration(t.Context(), &secretbrokerv1.CreateIntegrationRequest{Integration: &secretbrokerv1.Integration{Id: "cspi"}})
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Message()) > messageBudget {
		t.Fatalf("%v, %d bytes", st.Code(), len(st.Message()))
	}
	bad := faultsOf(ts.manager.err)
	if n := len(bad.GetFieldViolations()); n < 10 || n > 100 || bad.GetFieldViolations()[0].GetField() != "integration.settings.vaults[0]" || !strings.HasSuffix(bad.GetFieldViolations()[n-1].GetDescription(), "more problems are not listed") {
		t.Errorf("%d violations", n)
	}

	ts.manager.err = errors.New("canary: something unforeseen")
	if _, err := cl.GetIntegration(t.Context(), &secretbrokerv1.GetIntegrationRequest{}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	ts.manager.err = nil
	for name, in := range map[string]*secretbrokerv1.Integration{
		"no kind":    {Id: "x", Settings: &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewBoolValue(true)}}},
		"a fraction": {Id: "x", Kind: "AZURE_KEY_VAULT", Settings: &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(.5)}}},
		"no role":    {Id: "x", Roles: []*secretbrokerv1.RoleBinding{{Principals: []string{"dns:a"}}}},
		"a duration": {Id: "x", Cache: &secretbrokerv1.IntegrationCache{Ttl: &durationpb.Duration{Seconds: 1, Nanos: -1}}},
	} {
		ts.manager.rejected = ""
		_, err := cl.CreateIntegration(t.Context(), &secretbrokerv1.CreateIntegrationRequest{Integration: in})
		if status.Code(err) != codes.InvalidArgument || ts.manager.rejected != "CreateIntegration x" {
			t.Errorf("%s: %v, recorded %q", name, err, ts.manager.rejected)
		}
	}
	res, err := cl.ValidateIntegration(t.Context(), &secretbrokerv1.ValidateIntegrationRequest{IntegrationId: "cspi"})
	if err != nil || res.GetOk() || len(res.GetSteps()) != 3 || res.GetSteps()[0].GetState() != secretbrokerv1.ValidationStep_STATE_OK || res.GetSteps()[0].GetStep() != "TOKEN" ||
		res.GetSteps()[1].GetState() != secretbrokerv1.ValidationStep_STATE_FAILED || res.GetSteps()[1].GetReason() != "STORE_ACCESS_DENIED" || res.GetSteps()[1].GetStore() != "https://v" ||
		res.GetSteps()[2].GetState() != secretbrokerv1.ValidationStep_STATE_SKIPPED {
		t.Errorf("%v, %v", res, err)
	}
	res, err = cl.ValidateIntegration(t.Context(), &secretbrokerv1.ValidateIntegrationRequest{IntegrationId: "open"})
	if err != nil || !res.GetOk() || res.GetSteps()[1].GetState() != secretbrokerv1.ValidationStep_STATE_UNCHECKED || res.GetSteps()[1].GetMessage() != "unknown" {
		t.Errorf("%v, %v", res, err)
	}
}
