package resolve

import (
	"errors"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// record writes the events, or says that nothing may leave.
func (r *Resolver) record(events []audit.Event) error {
	if err := r.cfg.Audit.Write(events); err != nil {
		r.cfg.Observe(secret.ReasonAuditUnavailable)
		return secret.Errorf(secret.ReasonAuditUnavailable,
			"the broker cannot write its audit log and therefore answers nothing; look at the broker's disk and log").WithCause(err)
	}
	return nil
}

// reject records a malformed request and returns its error.
func (r *Resolver) reject(who Caller, req Request, faults []ConfigError, err error) error {
	var failure *Failure
	if errors.As(err, &failure) {
		faults = failure.Configs
	}
	if !validID(req.IntegrationID) {
		req.IntegrationID = "" // whatever stands there, it is not one
	}
	if len(req.Connector) > MaxNameLen {
		req.Connector = ""
	}
	var events []audit.Event
	for _, f := range faults {
		e := newEvent(who, &req)
		e.Config, e.Outcome, e.Reason = f.Config, audit.Rejected, f.Err.Reason
		events = append(events, e)
		r.cfg.Observe(f.Err.Reason)
	}
	if len(events) == 0 {
		e := newEvent(who, &req)
		e.Outcome, e.Reason = audit.Rejected, secret.AsError(err).Reason
		events = append(events, e)
		r.cfg.Observe(e.Reason)
	}
	if err := r.record(events); err != nil {
		return err
	}
	return err
}

func newEvent(who Caller, req *Request) audit.Event {
	return audit.Event{
		Time:              time.Now().UTC(),
		RequestID:         req.ID,
		Method:            method,
		Principal:         who.Principal,
		PeerAddress:       who.PeerAddress,
		CertificateSerial: who.CertificateSerial,
		Integration:       req.IntegrationID,
		Connector:         req.Connector,
	}
}

// decisionEvent is the record of what came of one item.
func decisionEvent(who Caller, req *Request, it *item, withhold bool) audit.Event {
	e := newEvent(who, req)
	e.Config = it.name
	if it.ref.Name == "" { // not a reference
		e.Outcome, e.Reason = audit.Rejected, it.err.Reason
		return e
	}
	e.Reference = it.ref.String()
	if it.decision.Effect != authz.Allowed {
		e.Outcome, e.Reason = audit.Denied, it.err.Reason
		return e
	}
	grant := it.decision.Grant
	e.Grant = &grant
	if it.got.Secret != nil {
		e.Version = it.got.Secret.Version
		e.Source = it.got.Source.String()
	}
	switch {
	case it.err != nil:
		e.Outcome, e.Reason = audit.Failed, it.err.Reason
	case withhold:
		e.Outcome = audit.Withheld
	default:
		e.Outcome = audit.Served
	}
	return e
}
