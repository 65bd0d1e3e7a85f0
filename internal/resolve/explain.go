package resolve

import (
	"context"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/explain"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Explain answers an auditor's question about the integrations in force. Whether
// who may ask at all has been decided before. The error is a *secret.Error.
func (r *Resolver) Explain(ctx context.Context, who Caller, requestID string, q explain.Question) (explain.Answer, error) {
	var answer explain.Answer
	// Nothing is explained by what is too old to decide by.
	_, err := r.cfg.Integrations.Get("")
	if err = unavailable(err); err == nil {
		answer, err = explain.Explain(r.cfg.Integrations.List(), q)
	}
	r.placed(&answer, authz.Principal(q.Principal))
	e := newEvent(methodExplain, who, &Request{ID: requestID})
	if ValidID(q.IntegrationID) {
		e.Integration = q.IntegrationID
	}
	if err != nil {
		e.Outcome, e.Reason = audit.Rejected, secret.AsError(err).Reason
	} else {
		e.Outcome, e.Reference, e.Subject = audit.Answered, answer.Reference, authz.Principal(q.Principal)
	}
	if err := r.record(who, []audit.Event{e}); err != nil {
		return explain.Answer{}, err
	}
	return answer, err
}

// placed corrects the judgements of who for integrations in a place that it may
// not use.
func (r *Resolver) placed(answer *explain.Answer, who authz.Principal) {
	for i := range answer.Judgements {
		j := &answer.Judgements[i]
		in, err := r.cfg.Integrations.Get(j.IntegrationID)
		if err != nil || !j.Allowed {
			continue
		}
		if why := r.cfg.Admit(who, in); why != "" {
			j.Allowed, j.Grant, j.Explanation = false, -1, "a grant allows it, but "+why
		}
	}
}
