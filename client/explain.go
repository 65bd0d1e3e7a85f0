package client

import (
	"context"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// ExplainRequest asks who may read a secret, and, of one caller, why it may or
// may not.
type ExplainRequest struct {
	// Reference is the reference in question, with or without a JSON key; its
	// version does not matter. Required.
	Reference string
	// IntegrationID asks about this integration only; empty asks about all.
	IntegrationID string
	// Principal is the caller in question, for example
	// "spiffe://example.org/connect/worker-1" or "dns:worker-1.example.org"; empty
	// asks only who may.
	Principal string
}

// Explanation is what the broker answered. It holds no secret's value and
// belongs to the caller.
type Explanation struct {
	// Reference is the canonical reference that was looked at.
	Reference string
	// Readers are all who may read it, by integration and grant.
	Readers []Access
	// Decisions has one for every integration that was asked about, if a
	// principal was.
	Decisions []Decision
	// RequestID names this call in the broker's audit and logs.
	RequestID string
}

// Access is one grant that gives the secret to a pattern of principals.
type Access struct {
	IntegrationID string
	// Grant is the index of the grant in the integration, from 0.
	Grant int
	// Principal is the pattern in the grant, for example
	// "spiffe://example.org/connect/*".
	Principal string
}

// Decision is what one integration says to one principal.
type Decision struct {
	IntegrationID string
	// Allowed: the principal may read the secret.
	Allowed bool
	// Grant is the index of the grant that allows it, -1 if none does.
	Grant int
	// Explanation says in words what allows it, or what prevents it. It is
	// for people; its wording may change.
	Explanation string
	// Grants says how each grant was judged.
	Grants []GrantMatch
}

// GrantMatch says which parts of one grant match.
type GrantMatch struct {
	// Grant is the index of the grant in the integration, from 0.
	Grant            int
	PrincipalMatches bool
	// StoreMatches, SecretMatches and KeyMatches are true also where the grant
	// does not narrow them.
	StoreMatches, SecretMatches, KeyMatches bool
}

// Explain asks the broker who may read a secret and why. Only those whom the
// broker's configuration names as auditors may ask; nothing is read from a store.
//
// It tries again as Resolve does. The error is an *Error, with
// ReasonAccessDenied for a caller that is no auditor.
func (c *Client) Explain(ctx context.Context, req ExplainRequest) (*Explanation, error) {
	rpc := secretbrokerv1.NewPolicyServiceClient(c.conn).Explain
	out, err := call(ctx, c, rpc, &secretbrokerv1.ExplainRequest{
		Reference:     req.Reference,
		IntegrationId: req.IntegrationID,
		Principal:     req.Principal,
	})
	if err != nil {
		return nil, err
	}
	return newExplanation(out), nil
}

func newExplanation(m *secretbrokerv1.ExplainResponse) *Explanation {
	e := &Explanation{Reference: m.GetReference(), RequestID: m.GetRequestId()}
	for _, r := range m.GetReaders() {
		e.Readers = append(e.Readers, Access{
			IntegrationID: r.GetIntegrationId(),
			Grant:         int(r.GetGrant()),
			Principal:     r.GetPrincipal(),
		})
	}
	for _, j := range m.GetDecisions() {
		decision := Decision{
			IntegrationID: j.GetIntegrationId(),
			Allowed:       j.GetAllowed(),
			Grant:         int(j.GetGrant()),
			Explanation:   j.GetExplanation(),
		}
		for _, g := range j.GetGrants() {
			decision.Grants = append(decision.Grants, GrantMatch{
				Grant:            int(g.GetGrant()),
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
