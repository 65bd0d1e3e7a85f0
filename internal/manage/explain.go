package manage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Question is what an auditor asks. Nothing in it is trusted.
type Question struct {
	// Reference is the reference in question, as in a connector's configuration.
	// Required. Its version and decoding do not matter.
	Reference string
	// IntegrationID leaves out all other integrations; empty asks about all.
	IntegrationID string
	// Principal is the caller in question; empty asks only who may.
	Principal string
}

// Answer is who may read a reference.
type Answer struct {
	// Reference is the canonical reference that was looked at.
	Reference string
	// Readers are all who may, by integration and grant.
	Readers []Access
	// Decisions has one for every integration, by id, if a principal was asked
	// about.
	Decisions []Decision
}

// Access is one grant that gives the secret to a pattern of principals.
type Access struct {
	IntegrationID string
	// Grant is the index of the grant in the integration.
	Grant int
	// Principal is the pattern as written in the grant.
	Principal string
}

// Decision is what one integration says to one principal.
type Decision struct {
	IntegrationID string
	Allowed       bool
	// Grant is the index of the grant that allows it, -1 if none does.
	Grant int
	// Explanation says in words what allows it, or what prevents it.
	Explanation string
	// Grants has one Match for every grant, by its index.
	Grants []authz.Match
}

// Explain answers q by the given integrations, whose order does not matter. It reads
// nothing else, and asks the very policies that decide requests. The
// error is a *secret.Error: ReasonInvalidReference for the reference,
// ReasonInvalidRequest for anything else in q. It names the integrations that
// there are, which only those may know who may ask at all.
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
		for _, r := range in.Policy.Readers(ref) {
			a.Readers = append(a.Readers, Access{IntegrationID: in.ID, Grant: r.Grant, Principal: r.Principal})
		}
		if q.Principal != "" {
			a.Decisions = append(a.Decisions, explainOne(in, who, ref))
		}
	}
	return a, nil
}

func explainOne(in *integration.Integration, who authz.Principal, ref secret.Ref) Decision {
	e := in.Policy.Explain(who, ref)
	j := Decision{IntegrationID: in.ID, Grant: -1, Explanation: inWords(in.Policy.Grants(), e, ref), Grants: e.Grants}
	if e.Decision.Effect == authz.Allowed {
		j.Allowed, j.Grant = true, e.Decision.Grant
	}
	return j
}

func byID(integrations []*integration.Integration) []*integration.Integration {
	return slices.SortedFunc(slices.Values(integrations), func(a, b *integration.Integration) int { return strings.Compare(a.ID, b.ID) })
}

// maxListed bounds the lists in texts: ids, grants, patterns.
const maxListed = 5

func unknownIntegration(integrations []*integration.Integration) error {
	if len(integrations) == 0 {
		return secret.Errorf(secret.ReasonInvalidRequest, "there is no integration of that id, nor any other")
	}
	ids := make([]string, len(integrations))
	for i, in := range integrations {
		ids[i] = in.ID
	}
	return secret.Errorf(secret.ReasonInvalidRequest, "there is no integration of that id; there are %s", listed(ids))
}

// listed writes texts of an operator's configuration in a row. One that could be
// misread, or do something to a terminal, is quoted.
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
