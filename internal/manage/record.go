package manage

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The calls' names in the audit.
const (
	methodCreate   = "CreateIntegration"
	methodGet      = "GetIntegration"
	methodList     = "ListIntegrations"
	methodUpdate   = "UpdateIntegration"
	methodDelete   = "DeleteIntegration"
	methodValidate = "ValidateIntegration"
	methodGrant    = "GrantUse"
	methodRevoke   = "RevokeUse"
	methodUsage    = "ListUsage"
	methodExplain  = "Explain"
)

// recordTime is how long a call waits for its record at most.
const recordTime = 2 * time.Second

// operation is one call and its records.
type operation struct {
	s      *Service
	who    Caller
	method string
	id     string // "" if it is none
	// again: if somebody else has changed the integration meanwhile, another attempt
	// follows.
	again bool
	// note is what the last record says beyond its outcome.
	note string
	// reference and subject are what the last record is about, if it is about grants.
	reference string
	subject   authz.Principal
	// refused: the record is of a call that did nothing, and may be counted instead.
	refused bool
}

func (s *Service) begin(who Caller, method, id string) *operation {
	if !integration.ValidID(id) {
		id = "" // whatever stands there
	}
	return &operation{s: s, who: who, method: method, id: id}
}

func (op *operation) record(ctx context.Context, outcome audit.Outcome, reason secret.Reason, change *audit.Change) error {
	// A caller that has gone away cannot prevent its record.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	write := op.s.cfg.Audit.Write
	if op.refused {
		write = op.s.cfg.Audit.Refuse
	}
	err := write(ctx, []audit.Event{{
		Time:              op.s.cfg.Now().UTC(),
		RequestID:         op.who.RequestID,
		Method:            op.method,
		Principal:         op.who.Principal,
		PeerAddress:       op.who.PeerAddress,
		CertificateSerial: op.who.CertificateSerial,
		Integration:       op.id,
		Reference:         op.reference,
		Subject:           op.subject,
		Outcome:           outcome,
		Reason:            reason,
		Change:            change,
		Note:              op.note,
	}})
	if err != nil {
		return secret.Errorf(secret.ReasonAuditUnavailable,
			"the broker cannot write its audit log and therefore neither answers nor changes anything; look at the broker's disk and log").WithCause(err)
	}
	return nil
}

// Reject records a call whose message nobody can make sense of, and returns err.
func (s *Service) Reject(ctx context.Context, who Caller, method, id string, err error) error {
	return s.begin(who, method, id).answer(ctx, err)
}

// answer records that a question was answered, or what came of it otherwise, and
// returns the call's error.
func (op *operation) answer(ctx context.Context, err error) error {
	outcome, reason := audit.Answered, secret.Reason("")
	if err != nil {
		outcome, reason = outcomeOf(err)
		op.refused = true
	}
	if unrecorded := op.record(ctx, outcome, reason, nil); unrecorded != nil {
		return unrecorded
	}
	return err
}

func outcomeOf(err error) (audit.Outcome, secret.Reason) {
	reason := secret.AsError(err).Reason
	switch reason {
	case secret.ReasonAccessDenied, secret.ReasonPlacementDenied:
		return audit.Denied, reason
	case secret.ReasonInvalidRequest, secret.ReasonInvalidIntegration, secret.ReasonInvalidReference:
		return audit.Rejected, reason
	default:
		return audit.Failed, reason
	}
}

// changeTime bounds a change once it has been recorded.
const changeTime = 10 * time.Second

// change makes a change between two records: what is about to be done, which has
// to be accepted, and what came of it. From the first record on it does not end
// with the caller's patience: the second one should be true.
func (op *operation) change(ctx context.Context, c *audit.Change, do func(ctx context.Context) error) error {
	if len(c.Before)+len(c.After) > audit.MaxChange {
		return op.answer(ctx, secret.Errorf(secret.ReasonInvalidRequest, "the integration is too large for its change to be recorded; make several of it"))
	}
	if err := op.record(ctx, audit.Attempted, "", c); err != nil {
		return err
	}
	doing, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTime)
	defer cancel()
	err := do(doing)
	outcome, reason := audit.Changed, secret.Reason("")
	if err != nil {
		outcome, reason = outcomeOf(err)
	}
	if unrecorded := op.record(ctx, outcome, reason, nil); unrecorded != nil {
		op.s.cfg.Logger.ErrorContext(ctx, "what came of a change could not be recorded; the audit log has the attempt",
			"request_id", op.who.RequestID, "method", op.method, "integration", op.id, "outcome", string(outcome), "error", unrecorded)
		if err == nil {
			return secret.Errorf(secret.ReasonAuditUnavailable,
				"the change was recorded beforehand and has been made, but the broker cannot write its audit log any more; look at the broker's disk and log").WithCause(unrecorded)
		}
	}
	return err
}

// documentOf is a document as it stands in the audit; nil for none.
func documentOf(f *Document) json.RawMessage {
	if f == nil {
		return nil
	}
	data, err := json.Marshal(f.Tree())
	if err != nil {
		return nil // a tree holds nothing that cannot be written
	}
	return data
}

// rolesOf compiles the roles of a document.
func rolesOf(f *Document) (*authz.Roles, *Fault) {
	roles, err := authz.NewRoles(f.Roles.Bindings())
	var fault *authz.RoleError
	if errors.As(err, &fault) {
		return nil, &Fault{Setting: "roles", Text: fault.Error()}
	}
	return roles, nil
}
