package manage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Question is the question of an auditor. It is untrusted input.
type Question struct {
	// Reference is a reference as in a connector's configuration. Required. Its version
	// and decoding are ignored.
	Reference string
	// IntegrationID limits the question to one integration; empty means all.
	IntegrationID string
	// Principal is the caller to explain; empty asks only for the readers.
	Principal string
}

// Answer is the answer to a Question.
type Answer struct {
	// Reference is the canonical form of Question.Reference.
	Reference string
	// Readers are the principals that may read the reference, by integration and grant.
	Readers []Access
	// Decisions has one Decision for every integration, sorted by id, if the question
	// has a principal.
	Decisions []Decision
}

// Access is one grant that allows a pattern of principals to read the secret.
type Access struct {
	IntegrationID string
	GrantID       string
	// Principal is the pattern as it is written in the grant.
	Principal string
}

// Decision is the decision of one integration for one principal.
type Decision struct {
	IntegrationID string
	Allowed       bool
	// GrantID is the id of the grant that allows the read, "" if none does.
	GrantID string
	// Explanation describes in words what allows or prevents the read.
	Explanation string
	// Grants has one GrantMatch for every grant, in the order of the integration.
	Grants []GrantMatch
}

// GrantMatch reports which parts of one grant match.
type GrantMatch struct {
	GrantID string
	authz.Match
}

// Explain answers q with the policies of the given integrations, in any order. These are
// the same policies that decide requests. The error is a *secret.Error:
// ReasonInvalidReference for the reference, ReasonInvalidRequest for anything else in q. It
// lists ids of integrations, so the caller must check first that the auditor may know them.
func Explain(integrations []*integration.Integration, q Question) (Answer, error) {
	ref, err := secret.ParseRef(q.Reference)
	if err != nil {
		return Answer{}, err
	}
	var who authz.Principal
	if q.Principal != "" {
		if who, err = authz.ParsePrincipal(q.Principal); err != nil {
			return Answer{}, secret.Errorf(secret.ReasonInvalidRequest, "the principal: %v", err)
		}
	}
	integrations = byID(integrations)
	if q.IntegrationID != "" {
		i := slices.IndexFunc(integrations, func(in *integration.Integration) bool { return in.ID == q.IntegrationID })
		if i < 0 {
			return Answer{}, unknownIntegration(integrations)
		}
		integrations = integrations[i : i+1]
	}
	a := Answer{Reference: ref.String()}
	for _, in := range integrations {
		grants := in.Policy.Grants()
		for _, r := range in.Policy.Readers(ref) {
			a.Readers = append(a.Readers, Access{IntegrationID: in.ID, GrantID: grants[r.Grant].ID, Principal: r.Principal})
		}
		if q.Principal != "" {
			a.Decisions = append(a.Decisions, explainOne(in, who, ref))
		}
	}
	return a, nil
}

func explainOne(in *integration.Integration, who authz.Principal, ref secret.Ref) Decision {
	e, grants := in.Policy.Explain(who, ref), in.Policy.Grants()
	d := Decision{IntegrationID: in.ID, Explanation: inWords(grants, e, ref)}
	if e.Decision.Effect == authz.Allowed {
		d.Allowed, d.GrantID = true, in.Policy.GrantID(e.Decision)
	}
	for i, m := range e.Grants {
		d.Grants = append(d.Grants, GrantMatch{grants[i].ID, m})
	}
	return d
}

func byID(integrations []*integration.Integration) []*integration.Integration {
	return slices.SortedFunc(slices.Values(integrations), func(a, b *integration.Integration) int { return strings.Compare(a.ID, b.ID) })
}

// maxListed limits the lists in texts: ids, grants, patterns.
const maxListed = 5

func unknownIntegration(integrations []*integration.Integration) error {
	if len(integrations) == 0 {
		return secret.Errorf(secret.ReasonInvalidRequest, "there is no integration with this id; the broker has no integrations")
	}
	ids := make([]string, len(integrations))
	for i, in := range integrations {
		ids[i] = in.ID
	}
	return secret.Errorf(secret.ReasonInvalidRequest, "there is no integration with this id; the ids are %s", listed(ids))
}

// listed joins texts of an operator's configuration. It quotes texts that could be misread
// or contain control characters.
func listed(texts []string) string {
	var b strings.Builder
	for i, s := range texts {
		if i == maxListed {
			fmt.Fprintf(&b, " and %d more", len(texts)-maxListed)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoted(s))
	}
	return b.String()
}
