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

// The names of the calls in the audit log.
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
	methodDeny     = "CreateDenial"
	methodDenials  = "ListDenials"
	methodUndeny   = "DeleteDenial"
)

// recordTime limits how long a call waits for its record.
const recordTime = 2 * time.Second

// operation is one call with its audit records.
type operation struct {
	s      *Service
	who    Caller
	method string
	id     string // "" if the call has no valid id
	// again: if another call has changed the integration meanwhile, edit makes another
	// attempt.
	again bool
	// note is the note of the last record.
	note string
	// reference and subject are those of the last record, for a question about grants.
	reference reference
	subject   authz.Principal
	// revision is the integration's revision before a change, then after it.
	revision string
	// refused: the call did nothing, so its record may be counted instead.
	refused bool
}

// reference is a parsed reference with its canonical text; zero for none.
type reference struct {
	secret.Ref
	text string
}

func (s *Service) begin(who Caller, method, id string) *operation {
	if !integration.ValidID(id) {
		id = "" // do not record arbitrary text
	}
	return &operation{s: s, who: who, method: method, id: id}
}

func (op *operation) record(ctx context.Context, outcome audit.Outcome, reason secret.Reason, change *audit.Change) error {
	// A caller must not be able to prevent the record by cancelling the call.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	write := op.s.cfg.Audit.Write
	if op.refused {
		write = op.s.cfg.Audit.Refuse
	}
	err := write(ctx, []audit.Event{{
		Type:              audit.TypeManagement,
		Time:              op.s.cfg.Now().UTC(),
		RequestID:         op.who.RequestID,
		Method:            op.method,
		Principal:         op.who.Principal,
		PeerAddress:       op.who.PeerAddress,
		CertificateSHA256: op.who.CertificateSHA256,
		CertificateSerial: op.who.CertificateSerial,
		IntegrationID:     op.id,
		Reference:         op.reference.text,
		Store:             op.reference.Store,
		Secret:            op.reference.Name,
		JSONKey:           op.reference.Key,
		Subject:           op.subject,
		Outcome:           outcome,
		Reason:            reason,
		Change:            change,
		Note:              op.note,

		IntegrationRevision: op.revision,
	}})
	if err != nil {
		return secret.Errorf(secret.ReasonAuditUnavailable,
			"the broker cannot write its audit log and therefore neither answers nor changes anything; check the broker's disk and log").WithCause(err)
	}
	return nil
}

// Reject records a call whose message is invalid, and returns err.
func (s *Service) Reject(ctx context.Context, who Caller, method, id string, err error) error {
	return s.begin(who, method, id).answer(ctx, err)
}

// answer records the result of a call that changes nothing, and returns the error of the
// call: err, or the error of the record.
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

// changeTime limits the duration of a change after its first record.
const changeTime = 10 * time.Second

// change makes a change between two records: the attempt, which must be written before the
// change, and the result. After the first record it ignores the cancellation of ctx, so
// that the second record has the true result.
func (op *operation) change(ctx context.Context, c *audit.Change, do func(ctx context.Context) error) error {
	if len(c.Before)+len(c.After) > audit.MaxChange {
		return op.answer(ctx, secret.Errorf(secret.ReasonInvalidRequest, "the integration is too large for an audit record of its change; split it into several integrations"))
	}
	op.revision = op.currentRevision()
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
	op.revision = op.currentRevision()
	if unrecorded := op.record(ctx, outcome, reason, nil); unrecorded != nil {
		op.s.cfg.Logger.ErrorContext(ctx, "the result of a change could not be recorded; the audit log has only the attempt",
			"request_id", op.who.RequestID, "method", op.method, "integration_id", op.id, "outcome", string(outcome), "error", unrecorded)
		if err == nil {
			return secret.Errorf(secret.ReasonAuditUnavailable,
				"the change was made and its attempt recorded, but the broker can no longer write its audit log; check the broker's disk and log").WithCause(unrecorded)
		}
	}
	return err
}

// currentRevision returns the revision of the integration that is in effect, "" if none is.
func (op *operation) currentRevision() string {
	in, err := op.s.cfg.Store.Get(op.id)
	if err != nil {
		return ""
	}
	return in.Revision
}

// documentOf is a document as it stands in the audit; nil for none.
func documentOf(f *Document) json.RawMessage {
	if f == nil {
		return nil
	}
	data, err := json.Marshal(f.Tree())
	if err != nil {
		return nil // cannot happen: a tree consists of plain values
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
