package client

import (
	"context"
	"iter"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// ExplainRequest asks which callers may read a secret and, for one caller, why it may or may
// not.
type ExplainRequest struct {
	// Reference is the reference to explain, with or without a JSON key; its version is
	// ignored. Required.
	Reference string
	// IntegrationID restricts the request to one integration; empty for all.
	IntegrationID string
	// Principal is the caller to explain, for example
	// "spiffe://example.org/connect/worker-1" or "dns:worker-1.example.org"; empty to
	// request only the readers.
	Principal string
	// PageSize is the number of readers and decisions to request at a time; zero means 500,
	// which is also the maximum.
	PageSize int
}

// ExplainResponse is one page of the broker's answer. It contains no secret's value and
// belongs to the caller.
type ExplainResponse struct {
	// Reference is the canonical form of the reference.
	Reference string
	// Readers lists who may read the secret, by integration and grant.
	Readers []Access
	// Decisions has one decision for every requested integration, if the request has a
	// principal. It is on the page on which the readers of the integration begin.
	Decisions []Decision
	// RequestID identifies the call in the broker's audit log and other logs.
	RequestID string
}

// Access is a grant that allows a pattern of principals to read the secret.
type Access struct {
	IntegrationID string
	// GrantID is the id of the grant; see Grant.ID.
	GrantID string
	// Principal is the pattern in the grant, for example
	// "spiffe://example.org/connect/*".
	Principal string
}

// Decision is the decision of one integration about one principal.
type Decision struct {
	IntegrationID string
	// Allowed reports whether the principal may read the secret.
	Allowed bool
	// GrantID is the id of the grant that allows it, "" if there is none.
	GrantID string
	// Explanation is a text that explains the decision. It is for people; its wording may
	// change.
	Explanation string
	// Grants has the result for each grant.
	Grants []GrantMatch
}

// GrantMatch reports which parts of a grant match.
type GrantMatch struct {
	GrantID          string
	PrincipalMatches bool
	// StoreMatches, SecretMatches and KeyMatches are also true if the grant does not
	// restrict them.
	StoreMatches, SecretMatches, KeyMatches bool
}

// Explain asks the broker who may read a secret and why, and returns the answer page by page.
// Only auditors in the broker's configuration may ask. The broker reads nothing from a store.
//
// It requests a page when the iteration reaches it, each within Config.Timeout, and retries
// like Resolve. An error ends the iteration. It is an *Error, with ReasonAccessDenied if the
// caller is not an auditor.
func (c *Client) Explain(ctx context.Context, req ExplainRequest) iter.Seq2[*ExplainResponse, error] {
	pages := pages(ctx, c, secretbrokerv1.NewPolicyServiceClient(c.conn).Explain, func(token string) *secretbrokerv1.ExplainRequest {
		return &secretbrokerv1.ExplainRequest{
			Reference:     req.Reference,
			IntegrationId: req.IntegrationID,
			Principal:     req.Principal,
			PageSize:      pageSizeOf(req.PageSize),
			PageToken:     token,
		}
	})
	return converted(pages, newExplainResponse)
}

func newExplainResponse(m *secretbrokerv1.ExplainResponse) *ExplainResponse {
	e := &ExplainResponse{Reference: m.GetReference(), RequestID: m.GetRequestId()}
	for _, r := range m.GetReaders() {
		e.Readers = append(e.Readers, Access{
			IntegrationID: r.GetIntegrationId(),
			GrantID:       r.GetGrantId(),
			Principal:     r.GetPrincipal(),
		})
	}
	for _, j := range m.GetDecisions() {
		decision := Decision{
			IntegrationID: j.GetIntegrationId(),
			Allowed:       j.GetAllowed(),
			GrantID:       j.GetGrantId(),
			Explanation:   j.GetExplanation(),
		}
		for _, g := range j.GetGrants() {
			decision.Grants = append(decision.Grants, GrantMatch{
				GrantID:          g.GetGrantId(),
				PrincipalMatches: g.GetPrincipalMatches(),
				StoreMatches:     g.GetStoreMatches(),
				SecretMatches:    g.GetSecretMatches(),
				KeyMatches:       g.GetKeyMatches(),
			})
		}
		e.Decisions = append(e.Decisions, decision)
	}
	return e
}
