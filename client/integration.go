package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Role is what somebody may do with an integration. No role gives a secret.
type Role string

// The roles.
const (
	RoleResourceOwner Role = "RESOURCE_OWNER"
	RoleAssigner      Role = "ASSIGNER"
	RoleAuditor       Role = "AUDITOR"
)

// Integration is a provider integration: a cloud identity, the stores it may read,
// and who may use it. The names are those of an integration's file; see
// docs/configuration.md.
type Integration struct {
	// ID and Kind never change.
	ID          string
	DisplayName string
	Kind        string
	// Settings is the section of the kind, as plain maps, lists, strings, bools and
	// numbers (float64 in an answer).
	Settings map[string]any
	// Zero means the broker's defaults.
	CacheTTL, CacheMaxStale time.Duration
	Limits                  IntegrationLimits
	Placement               Placement
	Grants                  []Grant
	// Roles are patterns of principals by role.
	Roles map[Role][]string
	// Credentials are sent and never answered: the content of each, by the name of
	// the setting that would otherwise name its file, without "_file". What is not
	// given stays as it is.
	Credentials map[string][]byte

	// What follows is answered and not sent, but for ETag: a change that has one is
	// made only if the integration is still the one that was read.
	ETag             string
	Revision         string
	CredentialNames  []string
	Created, Updated Change
	// ReadOnly: it is a file of the broker's.
	ReadOnly bool
	// Facts are what a person needs to know of the kind in question.
	Facts []Fact
	// LastUsed is zero if it never was.
	LastUsed time.Time
	// Problem says what prevents the use of the integration in this form, "" if nothing does.
	Problem string
}

// IntegrationLimits are how hard each store may be used; zero ones take the
// broker's defaults.
type IntegrationLimits struct {
	MaxConcurrentReads int
	ReadsPerSecond     int
	Timeout            time.Duration
}

// Placement is where an integration's stores are.
type Placement struct{ Cloud, Region string }

// Grant lets principals read secrets; see docs/configuration.md. Empty narrowings
// leave their side open.
type Grant struct {
	Principals, Stores, Secrets, Keys []string
}

// Change is when and by whom; zero where that is not known.
type Change struct {
	At time.Time
	By string
}

// Fact is one line about an integration, or a document of several lines that
// stands at its cloud, to paste there.
type Fact struct{ Name, Value string }

// WriteOptions are what changes of integrations have in common.
type WriteOptions struct {
	// ETag, for calls that take no Integration.
	ETag string
	// ValidateOnly checks everything and changes nothing.
	ValidateOnly bool
	// Force does what would otherwise be refused as an accident: deleting what is
	// in use, giving up one's own ownership.
	Force bool
}

// ValidationStep is one thing that was tried.
type ValidationStep struct {
	Name    string
	OK      bool
	Skipped bool
	// Reason is one of the constants, "" if OK; Message says what to do.
	Reason, Message string
}

// Usage is what one principal has read through an integration.
type Usage struct {
	Principal, Connector   string
	Store, Secret, JSONKey string
	// Version is the one that was read last.
	Version             string
	FirstUsed, LastUsed time.Time
}

// UsageReport is who uses an integration.
type UsageReport struct {
	// Usage is the latest first.
	Usage []Usage
	// UnusedGrants are the indexes of the grants without a recent use.
	UnusedGrants []int
}

func (c *Client) integrations() secretbrokerv1.IntegrationServiceClient {
	return secretbrokerv1.NewIntegrationServiceClient(c.conn)
}

// CreateIntegration makes an integration. Errors are an *Error here and in the
// calls below; one with ReasonInvalidIntegration lists in Error.Configs what is
// wrong, by field, such as "integration.settings.vaults[0]". Changes are not tried
// again: if an answer was lost, the client cannot tell whether the change was made.
func (c *Client) CreateIntegration(ctx context.Context, in *Integration, o WriteOptions) (*Integration, error) {
	m, err := in.message()
	if err != nil {
		return nil, err
	}
	out, err := callChange(ctx, c, c.integrations().CreateIntegration, &secretbrokerv1.CreateIntegrationRequest{Integration: m, ValidateOnly: o.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return newIntegration(out.GetIntegration()), nil
}

// GetIntegration returns one integration.
func (c *Client) GetIntegration(ctx context.Context, id string) (*Integration, error) {
	out, err := call(ctx, c, c.integrations().GetIntegration, &secretbrokerv1.GetIntegrationRequest{IntegrationId: id})
	if err != nil {
		return nil, err
	}
	return newIntegration(out.GetIntegration()), nil
}

// ListIntegrations returns all integrations that filter leaves and that this
// caller has a role on, by id. The filter is that of the API, for example
// "kind = AZURE_KEY_VAULT AND unused"; empty for all.
func (c *Client) ListIntegrations(ctx context.Context, filter string) ([]*Integration, error) {
	var all []*Integration
	req := &secretbrokerv1.ListIntegrationsRequest{Filter: filter, PageSize: 500}
	for {
		out, err := call(ctx, c, c.integrations().ListIntegrations, req)
		if err != nil {
			return nil, err
		}
		for _, m := range out.GetIntegrations() {
			all = append(all, newIntegration(m))
		}
		if req.PageToken = out.GetNextPageToken(); req.GetPageToken() == "" {
			return all, nil
		}
	}
}

// UpdateIntegration changes the parts of an integration that mask names; see the
// API. "*" is everything. It returns the settings that differ, too.
func (c *Client) UpdateIntegration(ctx context.Context, in *Integration, mask []string, o WriteOptions) (now *Integration, changed []string, err error) {
	m, err := in.message()
	if err != nil {
		return nil, nil, err
	}
	out, err := callChange(ctx, c, c.integrations().UpdateIntegration, &secretbrokerv1.UpdateIntegrationRequest{
		Integration: m, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}, ValidateOnly: o.ValidateOnly, Force: o.Force,
	})
	if err != nil {
		return nil, nil, err
	}
	return newIntegration(out.GetIntegration()), out.GetChangedFields(), nil
}

// DeleteIntegration deletes an integration. It fails if the integration was used recently.
func (c *Client) DeleteIntegration(ctx context.Context, id string, o WriteOptions) error {
	_, err := callChange(ctx, c, c.integrations().DeleteIntegration, &secretbrokerv1.DeleteIntegrationRequest{
		IntegrationId: id, Etag: o.ETag, ValidateOnly: o.ValidateOnly, Force: o.Force,
	})
	return err
}

// ValidateIntegration has the broker contact the integration's stores. It is
// answered also where steps failed.
func (c *Client) ValidateIntegration(ctx context.Context, id string) ([]ValidationStep, error) {
	out, err := call(ctx, c, c.integrations().ValidateIntegration, &secretbrokerv1.ValidateIntegrationRequest{IntegrationId: id})
	if err != nil {
		return nil, err
	}
	var steps []ValidationStep
	for _, s := range out.GetSteps() {
		steps = append(steps, ValidationStep{Name: s.GetName(), OK: s.GetOk(), Skipped: s.GetSkipped(), Reason: s.GetReason(), Message: s.GetMessage()})
	}
	return steps, nil
}

// GrantUse adds a grant to an integration, unless it has it already.
func (c *Client) GrantUse(ctx context.Context, id string, g Grant, o WriteOptions) (*Integration, error) {
	out, err := callChange(ctx, c, c.integrations().GrantUse, &secretbrokerv1.GrantUseRequest{IntegrationId: id, Grant: g.message(), Etag: o.ETag, ValidateOnly: o.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return newIntegration(out.GetIntegration()), nil
}

// RevokeUse takes a grant away, the one that says the same.
func (c *Client) RevokeUse(ctx context.Context, id string, g Grant, o WriteOptions) (*Integration, error) {
	out, err := callChange(ctx, c, c.integrations().RevokeUse, &secretbrokerv1.RevokeUseRequest{IntegrationId: id, Grant: g.message(), Etag: o.ETag, ValidateOnly: o.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return newIntegration(out.GetIntegration()), nil
}

// ListUsage returns who uses an integration, at most limit entries.
func (c *Client) ListUsage(ctx context.Context, id string, limit int) (*UsageReport, error) {
	report := &UsageReport{}
	req := &secretbrokerv1.ListUsageRequest{IntegrationId: id, PageSize: int32(min(limit, 500))} //nolint:gosec // 500 at most
	for {
		out, err := call(ctx, c, c.integrations().ListUsage, req)
		if err != nil {
			return nil, err
		}
		for _, u := range out.GetUsage() {
			report.Usage = append(report.Usage, Usage{
				Principal: u.GetPrincipal(), Connector: u.GetConnector(), Store: u.GetStore(), Secret: u.GetSecret(), JSONKey: u.GetJsonKey(),
				Version: u.GetVersion(), FirstUsed: timeOf(u.GetFirstUseTime()), LastUsed: timeOf(u.GetLastUseTime()),
			})
		}
		report.UnusedGrants = nil
		for _, i := range out.GetUnusedGrants() {
			report.UnusedGrants = append(report.UnusedGrants, int(i))
		}
		if req.PageToken = out.GetNextPageToken(); req.GetPageToken() == "" || len(report.Usage) >= limit {
			report.Usage = report.Usage[:min(limit, len(report.Usage))]
			return report, nil
		}
	}
}

func (g Grant) message() *secretbrokerv1.Grant {
	return &secretbrokerv1.Grant{Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys}
}

var wireRoles = []struct {
	role Role
	wire secretbrokerv1.Role
}{
	{RoleResourceOwner, secretbrokerv1.Role_ROLE_RESOURCE_OWNER},
	{RoleAssigner, secretbrokerv1.Role_ROLE_ASSIGNER},
	{RoleAuditor, secretbrokerv1.Role_ROLE_AUDITOR},
}

func (in *Integration) message() (*secretbrokerv1.Integration, error) {
	m := &secretbrokerv1.Integration{Id: in.ID, DisplayName: in.DisplayName, Kind: in.Kind, Credentials: in.Credentials, Etag: in.ETag}
	if len(in.Settings) > 0 {
		settings, err := structpb.NewStruct(in.Settings)
		if err != nil {
			return nil, &Error{Reason: ReasonInvalidRequest, Message: "the settings: " + err.Error()}
		}
		m.Settings = settings
	}
	if in.CacheTTL != 0 || in.CacheMaxStale != 0 {
		m.Cache = &secretbrokerv1.IntegrationCache{Ttl: durationOf(in.CacheTTL), MaxStale: durationOf(in.CacheMaxStale)}
	}
	if l := in.Limits; l != (IntegrationLimits{}) {
		m.Limits = &secretbrokerv1.IntegrationLimits{
			MaxConcurrentReads: int32(l.MaxConcurrentReads), //nolint:gosec // the broker allows 1,024
			ReadsPerSecond:     int32(l.ReadsPerSecond),     //nolint:gosec // the broker allows 100,000
			Timeout:            durationOf(l.Timeout),
		}
	}
	if in.Placement != (Placement{}) {
		m.Placement = &secretbrokerv1.Placement{Cloud: in.Placement.Cloud, Region: in.Placement.Region}
	}
	for _, g := range in.Grants {
		m.Grants = append(m.Grants, g.message())
	}
	for _, r := range wireRoles {
		if patterns := in.Roles[r.role]; len(patterns) > 0 {
			m.Roles = append(m.Roles, &secretbrokerv1.RoleBinding{Role: r.wire, Principals: patterns})
		}
	}
	return m, nil
}

func newIntegration(m *secretbrokerv1.Integration) *Integration {
	in := &Integration{
		ID: m.GetId(), DisplayName: m.GetDisplayName(), Kind: m.GetKind(),
		CacheTTL: m.GetCache().GetTtl().AsDuration(), CacheMaxStale: m.GetCache().GetMaxStale().AsDuration(),
		Limits: IntegrationLimits{
			MaxConcurrentReads: int(m.GetLimits().GetMaxConcurrentReads()), ReadsPerSecond: int(m.GetLimits().GetReadsPerSecond()),
			Timeout: m.GetLimits().GetTimeout().AsDuration(),
		},
		Placement: Placement{m.GetPlacement().GetCloud(), m.GetPlacement().GetRegion()},
		ETag:      m.GetEtag(), Revision: m.GetRevision(), CredentialNames: m.GetCredentialNames(),
		Created: Change{timeOf(m.GetCreateTime()), m.GetCreator()}, Updated: Change{timeOf(m.GetUpdateTime()), m.GetUpdater()},
		ReadOnly: m.GetReadOnly(), LastUsed: timeOf(m.GetLastUseTime()), Problem: m.GetProblem(),
	}
	if m.GetSettings() != nil {
		in.Settings = m.GetSettings().AsMap()
	}
	for _, g := range m.GetGrants() {
		in.Grants = append(in.Grants, Grant{Principals: g.GetPrincipals(), Stores: g.GetStores(), Secrets: g.GetSecrets(), Keys: g.GetKeys()})
	}
	for _, b := range m.GetRoles() {
		for _, r := range wireRoles {
			if r.wire == b.GetRole() {
				if in.Roles == nil {
					in.Roles = make(map[Role][]string)
				}
				in.Roles[r.role] = append(in.Roles[r.role], b.GetPrincipals()...)
			}
		}
	}
	for _, f := range m.GetFacts() {
		in.Facts = append(in.Facts, Fact{f.GetName(), f.GetValue()})
	}
	return in
}

func durationOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// callChange is call for a change: it is tried again only if the broker says that it
// has too much to do, since it says that before it begins a change. After any other
// failure the client cannot tell whether the change has been made.
func callChange[In, Out any](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), in *In) (*Out, error) {
	return callWhile(ctx, c, rpc, in, func(e *Error) bool { return e.Reason == ReasonOverloaded && e.retryable() })
}
