package client

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// The calls that manage integrations. Their errors are *Errors; one with
// ReasonInvalidIntegration lists in Error.Configs the problems by field, such as
// "integration.settings.vaults[0]".
//
// Changes are not retried unless the broker reports that it is overloaded: if an answer was
// lost, the client cannot know whether the broker made the change.
//
// In requests, ValidateOnly makes the broker check a change without making it, and the change
// of an integration with another etag than ETag fails, unless ETag is empty. In responses,
// RequestID identifies the call in the broker's audit log and other logs.

// pageSize is the number of entries that the client requests at a time: the maximum.
const pageSize = 500

// CreateIntegrationRequest creates an integration, whose ID and Kind are required.
type CreateIntegrationRequest struct {
	Integration  *Integration
	ValidateOnly bool
}

// CreateIntegrationResponse has the integration as the broker stored it.
type CreateIntegrationResponse struct {
	Integration *Integration
	RequestID   string
}

// GetIntegrationRequest asks for one integration.
type GetIntegrationRequest struct {
	IntegrationID string
}

// GetIntegrationResponse has the integration.
type GetIntegrationResponse struct {
	Integration *Integration
	RequestID   string
}

// ListIntegrationsRequest asks for the integrations that this caller has a role on.
type ListIntegrationsRequest struct {
	// Filter is that of the API, for example "kind = AZURE_KEY_VAULT AND unused"; empty for
	// all integrations.
	Filter string
	// PageSize is the number of integrations to request at a time; zero means 500, which is
	// also the maximum.
	PageSize int
}

// UpdateIntegrationRequest changes an integration.
type UpdateIntegrationRequest struct {
	// Integration has the new values, the ID and optionally the ETag.
	Integration *Integration
	// Mask names the fields to change, such as "display_name", "cache.ttl" or
	// "settings.vaults"; see the API. Name only what changes. Nil means the fields of
	// Integration that are not zero, and "*" all that this version of the package knows.
	Mask         []string
	ValidateOnly bool
	// Force allows a change that removes the caller's own role RESOURCE_OWNER.
	Force bool
}

// UpdateIntegrationResponse has the integration after the change.
type UpdateIntegrationResponse struct {
	Integration *Integration
	// ChangedFields are the fields that changed, as in a mask.
	ChangedFields []string
	RequestID     string
}

// DeleteIntegrationRequest deletes an integration.
type DeleteIntegrationRequest struct {
	IntegrationID string
	ETag          string
	ValidateOnly  bool
	// Force deletes the integration even if it was used recently.
	Force bool
}

// DeleteIntegrationResponse is the answer to a deletion.
type DeleteIntegrationResponse struct {
	RequestID string
}

// ValidateIntegrationRequest makes the broker contact the stores of an integration.
type ValidateIntegrationRequest struct {
	IntegrationID string
}

// ValidateIntegrationResponse has the result of each step, in order.
type ValidateIntegrationResponse struct {
	Steps []ValidationStep
	// OK reports that no step failed or was skipped.
	OK        bool
	RequestID string
}

// GrantUseRequest adds a grant.
type GrantUseRequest struct {
	IntegrationID string
	Grant         Grant
	ETag          string
	ValidateOnly  bool
}

// GrantUseResponse has the integration after the change.
type GrantUseResponse struct {
	Integration *Integration
	RequestID   string
}

// RevokeUseRequest removes the grant that equals Grant.
type RevokeUseRequest struct {
	IntegrationID string
	Grant         Grant
	ETag          string
	ValidateOnly  bool
}

// RevokeUseResponse has the integration after the change.
type RevokeUseResponse struct {
	Integration *Integration
	RequestID   string
}

// AllIntegrations in a ListUsageRequest means all integrations that the caller has a role on.
const AllIntegrations = "-"

// ListUsageRequest asks for the uses of an integration, or of all.
type ListUsageRequest struct {
	// IntegrationID is the id of an integration, or AllIntegrations.
	IntegrationID string
	// Filter selects entries, such as `secret = orders-db AND outdated`; see the API.
	Filter string
	// PageSize is the number of entries to request at a time; zero means 500, which is also
	// the maximum.
	PageSize int
}

// ListUsageResponse is one page of the uses of an integration.
type ListUsageResponse struct {
	// Usage is sorted by time, the latest first; that of all integrations by their ids. A page
	// may be empty although others follow.
	Usage []Usage
	// UnusedGrantIDs are the ids of all grants of one integration without a recent use, on every
	// page.
	UnusedGrantIDs []string
	// Recording says since when, and of which replicas, uses are recorded.
	Recording UsageRecording
	RequestID string
}

func (c *Client) integrations() secretbrokerv1.IntegrationServiceClient {
	return secretbrokerv1.NewIntegrationServiceClient(c.conn)
}

// CreateIntegration creates an integration.
func (c *Client) CreateIntegration(ctx context.Context, req CreateIntegrationRequest) (*CreateIntegrationResponse, error) {
	m, err := req.Integration.message()
	if err != nil {
		return nil, err
	}
	out, err := callChange(ctx, c, c.integrations().CreateIntegration, &secretbrokerv1.CreateIntegrationRequest{Integration: m, ValidateOnly: req.ValidateOnly})
	if err != nil {
		return nil, err
	}
	return &CreateIntegrationResponse{Integration: newIntegration(out.GetIntegration()), RequestID: out.GetRequestId()}, nil
}

// GetIntegration returns one integration.
func (c *Client) GetIntegration(ctx context.Context, req GetIntegrationRequest) (*GetIntegrationResponse, error) {
	out, err := call(ctx, c, c.integrations().GetIntegration, &secretbrokerv1.GetIntegrationRequest{IntegrationId: req.IntegrationID})
	if err != nil {
		return nil, err
	}
	return &GetIntegrationResponse{Integration: newIntegration(out.GetIntegration()), RequestID: out.GetRequestId()}, nil
}

// ListIntegrations returns the integrations that match the filter and that this caller has a
// role on, sorted by id. It requests a page when the iteration reaches it, each within
// Config.Timeout. An error ends the iteration.
func (c *Client) ListIntegrations(ctx context.Context, req ListIntegrationsRequest) iter.Seq2[*Integration, error] {
	pages := pages(ctx, c, c.integrations().ListIntegrations, func(token string) *secretbrokerv1.ListIntegrationsRequest {
		return &secretbrokerv1.ListIntegrationsRequest{Filter: req.Filter, PageSize: pageSizeOf(req.PageSize), PageToken: token}
	})
	return func(yield func(*Integration, error) bool) {
		for page, err := range pages {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range page.GetIntegrations() {
				if !yield(newIntegration(m), nil) {
					return
				}
			}
		}
	}
}

// UpdateIntegration changes the fields of an integration that are in req.Mask.
//
// It refuses a mask with a field in req.Integration.Unknown, with ReasonInvalidRequest: the
// change would remove what a newer version has set. To replace an integration with one that
// was not read from the broker, read it first and copy its ETag and Unknown.
func (c *Client) UpdateIntegration(ctx context.Context, req UpdateIntegrationRequest) (*UpdateIntegrationResponse, error) {
	m, err := req.Integration.message()
	if err != nil {
		return nil, err
	}
	mask, err := maskOf(req.Integration, req.Mask)
	if err != nil {
		return nil, err
	}
	out, err := callChange(ctx, c, c.integrations().UpdateIntegration, &secretbrokerv1.UpdateIntegrationRequest{
		Integration: m, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}, ValidateOnly: req.ValidateOnly, Force: req.Force,
	})
	if err != nil {
		return nil, err
	}
	return &UpdateIntegrationResponse{Integration: newIntegration(out.GetIntegration()), ChangedFields: out.GetChangedFields(), RequestID: out.GetRequestId()}, nil
}

// DeleteIntegration deletes an integration. It fails if the integration was used recently.
func (c *Client) DeleteIntegration(ctx context.Context, req DeleteIntegrationRequest) (*DeleteIntegrationResponse, error) {
	out, err := callChange(ctx, c, c.integrations().DeleteIntegration, &secretbrokerv1.DeleteIntegrationRequest{
		IntegrationId: req.IntegrationID, Etag: req.ETag, ValidateOnly: req.ValidateOnly, Force: req.Force,
	})
	if err != nil {
		return nil, err
	}
	return &DeleteIntegrationResponse{RequestID: out.GetRequestId()}, nil
}

// ValidateIntegration makes the broker contact the integration's stores. It succeeds even if
// steps failed.
func (c *Client) ValidateIntegration(ctx context.Context, req ValidateIntegrationRequest) (*ValidateIntegrationResponse, error) {
	out, err := call(ctx, c, c.integrations().ValidateIntegration, &secretbrokerv1.ValidateIntegrationRequest{IntegrationId: req.IntegrationID})
	if err != nil {
		return nil, err
	}
	return &ValidateIntegrationResponse{Steps: stepsOf(out.GetSteps()), OK: out.GetOk(), RequestID: out.GetRequestId()}, nil
}

// GrantUse adds a grant to an integration, unless the integration already has it.
func (c *Client) GrantUse(ctx context.Context, req GrantUseRequest) (*GrantUseResponse, error) {
	out, err := callChange(ctx, c, c.integrations().GrantUse, &secretbrokerv1.GrantUseRequest{
		IntegrationId: req.IntegrationID, Grant: req.Grant.message(), Etag: req.ETag, ValidateOnly: req.ValidateOnly,
	})
	if err != nil {
		return nil, err
	}
	return &GrantUseResponse{Integration: newIntegration(out.GetIntegration()), RequestID: out.GetRequestId()}, nil
}

// RevokeUse removes a grant from an integration.
func (c *Client) RevokeUse(ctx context.Context, req RevokeUseRequest) (*RevokeUseResponse, error) {
	out, err := callChange(ctx, c, c.integrations().RevokeUse, &secretbrokerv1.RevokeUseRequest{
		IntegrationId: req.IntegrationID, Grant: req.Grant.message(), Etag: req.ETag, ValidateOnly: req.ValidateOnly,
	})
	if err != nil {
		return nil, err
	}
	return &RevokeUseResponse{Integration: newIntegration(out.GetIntegration()), RequestID: out.GetRequestId()}, nil
}

// ListUsage returns the uses of an integration, or of all, page by page. It requests a page when the
// iteration reaches it, each within Config.Timeout. An error ends the iteration.
func (c *Client) ListUsage(ctx context.Context, req ListUsageRequest) iter.Seq2[*ListUsageResponse, error] {
	pages := pages(ctx, c, c.integrations().ListUsage, func(token string) *secretbrokerv1.ListUsageRequest {
		return &secretbrokerv1.ListUsageRequest{IntegrationId: req.IntegrationID, Filter: req.Filter, PageSize: pageSizeOf(req.PageSize), PageToken: token}
	})
	return converted(pages, newListUsageResponse)
}

func pageSizeOf(n int) int32 {
	if n <= 0 {
		return pageSize
	}
	return int32(min(n, pageSize))
}

// pages calls rpc for one page after the other while the iteration continues. request returns
// the request for the page of a token, which is empty for the first.
func pages[In, Out any, P interface {
	*Out
	GetNextPageToken() string
}](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), request func(token string) *In) iter.Seq2[*Out, error] {
	return func(yield func(*Out, error) bool) {
		token := ""
		for {
			out, err := call(ctx, c, rpc, request(token))
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(out, nil) {
				return
			}
			if token = P(out).GetNextPageToken(); token == "" {
				return
			}
		}
	}
}

// converted returns the pages as values of this package.
func converted[From, To any](pages iter.Seq2[*From, error], convert func(*From) *To) iter.Seq2[*To, error] {
	return func(yield func(*To, error) bool) {
		for page, err := range pages {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(convert(page), nil) {
				return
			}
		}
	}
}

// callChange is call for a change. It retries only if the broker is overloaded, because the
// broker then has not started the change. After any other failure the client cannot know
// whether the broker made the change.
func callChange[In, Out any](ctx context.Context, c *Client, rpc func(context.Context, *In, ...grpc.CallOption) (*Out, error), in *In) (*Out, error) {
	return callWhile(ctx, c, rpc, in, func(e *Error) bool { return e.Reason == ReasonOverloaded && e.retryable() })
}
