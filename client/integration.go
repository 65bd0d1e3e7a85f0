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

// Role determines what a principal may do with an integration. No role allows it to read
// secrets.
type Role string

// The roles.
const (
	RoleResourceOwner Role = "RESOURCE_OWNER"
	RoleAssigner      Role = "ASSIGNER"
	RoleAuditor       Role = "AUDITOR"
)

// Integration is a provider integration: a cloud identity, the stores that it may read, and
// the principals that may use it. The names are those of an integration's file; see
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
	Reads                   IntegrationReads
	Placement               Placement
	Grants                  []Grant
	// Roles are patterns of principals by role.
	Roles map[Role][]string
	// Credentials are sent but never returned: the content of each, by the name of the
	// setting that would otherwise contain the path of its file, without "_file". Others
	// stay unchanged.
	Credentials map[string][]byte

	// The fields below are returned and not sent, except ETag: a change with an ETag fails
	// if the integration has changed since it was read.
	ETag            string
	Revision        string
	CredentialNames []string
	// When and by whom the integration was created and last changed; zero if unknown.
	CreateTime, UpdateTime time.Time
	Creator, Updater       string
	// ReadOnly reports that the integration is a file of the broker.
	ReadOnly bool
	// Facts are what a person needs to know about integrations of this kind.
	Facts []Fact
	// LastUseTime is zero if the integration was never used.
	LastUseTime time.Time
	// Problem is the reason why the integration cannot be used as it is, "" if it can be.
	Problem string
	// Unknown lists the fields, as in the mask of UpdateIntegration, that contain something
	// which this version of the package does not know and cannot send, such as a new
	// condition of a grant. UpdateIntegration refuses to replace them.
	Unknown []string
}

// IntegrationReads limits the reads of each store. A field that is zero has the broker's
// default.
type IntegrationReads struct {
	MaxConcurrent int
	PerSecond     int
	Timeout       time.Duration
}

// Placement is where an integration's stores are.
type Placement struct{ Cloud, Region string }

// Grant allows principals to read secrets; see docs/configuration.md. An empty list does not
// restrict its field.
type Grant struct {
	// ID is the name of the grant. If it is empty, the broker returns an id that depends on
	// the lists only; a grant whose lists are changed must not keep such an id.
	ID                                string
	Principals, Stores, Secrets, Keys []string
}

// Fact is a line about an integration, or a document of several lines to paste into the
// cloud's console.
type Fact struct{ Name, Value string }

// WriteOptions are the common options of changes to integrations.
type WriteOptions struct {
	// ETag is for calls without an Integration.
	ETag string
	// ValidateOnly checks the change without making it.
	ValidateOnly bool
	// Force makes changes that the broker otherwise refuses as a probable mistake: deleting
	// an integration in use, removing one's own ownership.
	Force bool
}

// ValidationStep is the result of one step of a validation.
type ValidationStep struct {
	Name    string
	OK      bool
	Skipped bool
	// Reason is one of the constants, "" if OK; Message says how to fix the problem.
	Reason  Reason
	Message string
}

// Usage is what one principal has read through an integration.
type Usage struct {
	Principal, Connector   string
	Store, Secret, JSONKey string
	// Version is the version that was read last.
	Version                   string
	FirstUseTime, LastUseTime time.Time
	// GrantID is the id of the grant that allowed the reads, "" if the broker no longer
	// knows it.
	GrantID string
}

// UsageReport lists the uses of an integration.
type UsageReport struct {
	// Usage is sorted by time, the latest first.
	Usage []Usage
	// UnusedGrantIDs are the ids of the grants without a recent use.
	UnusedGrantIDs []string
}

func (c *Client) integrations() secretbrokerv1.IntegrationServiceClient {
	return secretbrokerv1.NewIntegrationServiceClient(c.conn)
}

// CreateIntegration creates an integration. Errors are an *Error here and in the calls below;
// one with ReasonInvalidIntegration lists in Error.Configs the problems by field, such as
// "integration.settings.vaults[0]". Changes are not retried: if an answer was lost, the
// client cannot know whether the broker made the change.
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

// ListIntegrations returns the integrations that match filter and that this caller has a role
// on, sorted by id. The filter is that of the API, for example
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

// UpdateIntegration changes the fields of an integration that are in mask, such as
// "display_name", "cache.ttl" or "settings.vaults"; see the API. Name only what changes. Nil
// means the fields of in that are not zero, and "*" all that this version of the package
// knows. It also returns the settings that changed.
//
// It refuses a mask with a field in in.Unknown, with ReasonInvalidRequest: the change would
// remove what a newer version has set. To replace an integration with one that was not read
// from the broker, read it first and copy its ETag and Unknown.
func (c *Client) UpdateIntegration(ctx context.Context, in *Integration, mask []string, o WriteOptions) (now *Integration, changed []string, err error) {
	m, err := in.message()
	if err != nil {
		return nil, nil, err
	}
	if mask, err = maskOf(in, mask); err != nil {
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

// ValidateIntegration makes the broker contact the integration's stores. It succeeds even if
// steps failed.
func (c *Client) ValidateIntegration(ctx context.Context, id string) ([]ValidationStep, error) {
	out, err := call(ctx, c, c.integrations().ValidateIntegration, &secretbrokerv1.ValidateIntegrationRequest{IntegrationId: id})
	if err != nil {
		return nil, err
	}
	var steps []ValidationStep
	for _, s := range out.GetSteps() {
		steps = append(steps, ValidationStep{Name: s.GetName(), OK: s.GetOk(), Skipped: s.GetSkipped(), Reason: Reason(s.GetReason()), Message: s.GetMessage()})
	}
	return steps, nil
}

// GrantUse adds a grant to an integration, unless the integration already has it.
func (c *Client) GrantUse(ctx context.Context, id string, g Grant, o WriteOptions) (*Integration, error) {
	out, err := callChange(ctx, c, c.integrations().GrantUse, &secretbrokerv1.GrantUseRequest{IntegrationId: id, Grant: g.message(), Etag: o.ETag, ValidateOnly: o.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return newIntegration(out.GetIntegration()), nil
}

// RevokeUse removes the grant that equals g.
func (c *Client) RevokeUse(ctx context.Context, id string, g Grant, o WriteOptions) (*Integration, error) {
	out, err := callChange(ctx, c, c.integrations().RevokeUse, &secretbrokerv1.RevokeUseRequest{IntegrationId: id, Grant: g.message(), Etag: o.ETag, ValidateOnly: o.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return newIntegration(out.GetIntegration()), nil
}

// ListUsage returns the uses of an integration, at most limit entries.
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
				Version: u.GetVersion(), FirstUseTime: timeOf(u.GetFirstUseTime()), LastUseTime: timeOf(u.GetLastUseTime()), GrantID: u.GetGrantId(),
			})
		}
		report.UnusedGrantIDs = out.GetUnusedGrantIds()
		if req.PageToken = out.GetNextPageToken(); req.GetPageToken() == "" || len(report.Usage) >= limit {
			report.Usage = report.Usage[:min(limit, len(report.Usage))]
			return report, nil
		}
	}
}

func (g Grant) message() *secretbrokerv1.Grant {
	return &secretbrokerv1.Grant{Id: g.ID, Principals: g.Principals, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys}
}

type wireRole struct {
	role Role
	wire secretbrokerv1.Role
}

var wireRoles = []wireRole{
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
	if r := in.Reads; r != (IntegrationReads{}) {
		m.Reads = &secretbrokerv1.IntegrationReads{
			MaxConcurrent: int32(r.MaxConcurrent), //nolint:gosec // the broker allows 1,024
			PerSecond:     int32(r.PerSecond),     //nolint:gosec // the broker allows 100,000
			Timeout:       durationOf(r.Timeout),
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
		Reads: IntegrationReads{
			MaxConcurrent: int(m.GetReads().GetMaxConcurrent()), PerSecond: int(m.GetReads().GetPerSecond()),
			Timeout: m.GetReads().GetTimeout().AsDuration(),
		},
		Placement: Placement{m.GetPlacement().GetCloud(), m.GetPlacement().GetRegion()},
		ETag:      m.GetEtag(), Revision: m.GetRevision(), CredentialNames: m.GetCredentialNames(),
		CreateTime: timeOf(m.GetCreateTime()), Creator: m.GetCreator(), UpdateTime: timeOf(m.GetUpdateTime()), Updater: m.GetUpdater(),
		ReadOnly: m.GetReadOnly(), LastUseTime: timeOf(m.GetLastUseTime()), Problem: m.GetProblem(), Unknown: unknownIn(m),
	}
	if m.GetSettings() != nil {
		in.Settings = m.GetSettings().AsMap()
	}
	for _, g := range m.GetGrants() {
		in.Grants = append(in.Grants, Grant{ID: g.GetId(), Principals: g.GetPrincipals(), Stores: g.GetStores(), Secrets: g.GetSecrets(), Keys: g.GetKeys()})
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

// callChange is call for a change. It retries only if the broker is overloaded, because the
// broker then has not started the change. After any other failure the client cannot know
// whether the broker made the change.
func callChange[In, Out any](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), in *In) (*Out, error) {
	return callWhile(ctx, c, rpc, in, func(e *Error) bool { return e.Reason == ReasonOverloaded && e.retryable() })
}
