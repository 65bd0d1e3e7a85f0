package manage

import (
	"cmp"
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
	// PageSize is the maximum number of readers and decisions in the answer. The function
	// Explain returns all for 0; Service.Explain has the page sizes of List.
	PageSize int
	// PageToken is Next of the previous page's Answer, "" for the first page.
	PageToken string
}

// Answer is the answer to a Question.
type Answer struct {
	// Reference is the canonical form of Question.Reference.
	Reference string
	// Readers are the principals that may read the reference, sorted by integration,
	// grant and pattern.
	Readers []Access
	// Decisions has one Decision for every integration, sorted by id, if the question
	// has a principal.
	Decisions []Decision
	// Next is the token of the next page, "" if there is none.
	Next string

	ref secret.Ref // of Reference
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

// maxPageBytes is the size from which a page takes no further entry. A Decision has an
// entry for each grant of its integration, of which a document of the maximum size can
// define some 40,000, 2 MB in all. So a page stays below 4 MiB, the limit of gRPC clients.
const maxPageBytes = 1 << 20

// Explain answers q with the policies of the given integrations, in any order. These are
// the same policies that decide requests. The error is a *secret.Error:
// ReasonInvalidReference for the reference, ReasonInvalidRequest for anything else in q. It
// lists ids of integrations, so the caller must check first that the auditor may know them.
//
// A page continues after the last entry of the previous one even if the policies have
// changed meanwhile: entries that are on both sides of the change are listed once.
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
	p := explainPage{answer: Answer{Reference: ref.String(), ref: ref}, limit: q.PageSize}
	if err := p.begin(q); err != nil {
		return Answer{}, err
	}
	for _, in := range integrations {
		if in.ID >= p.after.integrationID && !p.add(in, who, ref) {
			p.answer.Next = makeToken(p.last.String(), q.text())
			break
		}
	}
	return p.answer, nil
}

// text identifies the question that a page token belongs to.
func (q *Question) text() string {
	return "explain\n" + q.Reference + "\n" + q.IntegrationID + "\n" + q.Principal
}

// explainPage collects the entries of one page: for each integration its Decision, if one is
// asked for, and its readers.
type explainPage struct {
	answer Answer
	limit  int // number of entries, 0 for no limit
	bytes  int
	// after is the last entry of the previous page, and last that of this one.
	after, last explainEntry
}

// explainEntry identifies an entry of an answer. The grant of a Decision is "", so that the
// Decision precedes the readers.
type explainEntry struct{ integrationID, grantID, principal string }

// String returns the form that parseExplainEntry accepts. Ids and patterns have no line feed.
func (e explainEntry) String() string {
	return e.integrationID + "\n" + e.grantID + "\n" + e.principal
}

func (e explainEntry) compare(other explainEntry) int {
	return cmp.Or(cmp.Compare(e.integrationID, other.integrationID), cmp.Compare(e.grantID, other.grantID), cmp.Compare(e.principal, other.principal))
}

func (p *explainPage) begin(q Question) error {
	position, err := openToken(q.PageToken, q.text())
	if err != nil || position == "" {
		return err
	}
	parts := strings.Split(position, "\n")
	if len(parts) != 3 {
		return errPageToken
	}
	p.after = explainEntry{parts[0], parts[1], parts[2]}
	return nil
}

// add adds the entries of an integration that are after p.after. It returns false if the page
// is full before that.
func (p *explainPage) add(in *integration.Integration, who authz.Principal, ref secret.Ref) bool {
	if decided := (explainEntry{integrationID: in.ID}); who != "" && decided.compare(p.after) > 0 {
		d := explainOne(in, who, ref)
		size := len(d.IntegrationID) + len(d.Explanation)
		for _, g := range d.Grants {
			size += len(g.GrantID) + 12
		}
		if !p.fits(decided, size) {
			return false
		}
		p.answer.Decisions = append(p.answer.Decisions, d)
	}
	grants := in.Policy.Grants()
	readers := in.Policy.Readers(ref)
	slices.SortFunc(readers, func(a, b authz.Access) int {
		return cmp.Or(cmp.Compare(grants[a.Grant].ID, grants[b.Grant].ID), cmp.Compare(a.Principal, b.Principal))
	})
	for _, r := range slices.Compact(readers) {
		e := explainEntry{in.ID, grants[r.Grant].ID, r.Principal}
		if e.compare(p.after) <= 0 {
			continue
		}
		if !p.fits(e, len(e.integrationID)+len(e.grantID)+len(e.principal)+12) {
			return false
		}
		p.answer.Readers = append(p.answer.Readers, Access{IntegrationID: e.integrationID, GrantID: e.grantID, Principal: e.principal})
	}
	return true
}

// fits reports whether the page has room for another entry, and counts it.
func (p *explainPage) fits(e explainEntry, size int) bool {
	if n := len(p.answer.Decisions) + len(p.answer.Readers); p.limit > 0 && (n >= p.limit || p.bytes >= maxPageBytes) {
		return false
	}
	p.bytes += size
	p.last = e
	return true
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
