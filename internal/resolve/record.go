package resolve

import (
	"errors"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The names of the calls in the audit log and for Config.Observe.
const (
	MethodResolve = "Resolve"
	MethodCheck   = "Check"
	MethodWatch   = "Watch"
	MethodRefresh = "Refresh"
)

// record writes the events. On error, no answer may leave the broker. If the caller has
// a commit barrier, record may return before the log has written the events; the
// barrier then holds the answer back until it has. The position is that of the first event.
func (r *Resolver) record(method string, who Caller, events []audit.Event) (audit.Position, error) {
	who.leaveTurn()
	receipt, position, err := r.cfg.Audit.Begin(events)
	if err == nil && receipt != (audit.Receipt{}) {
		if who.Barrier != nil {
			who.Barrier.HoldUntil(receipt)
		} else {
			err = receipt.Wait()
		}
	}
	if err != nil {
		r.cfg.Observe(method, secret.ReasonAuditUnavailable)
		return position, secret.Errorf(secret.ReasonAuditUnavailable,
			"the broker cannot write its audit log and therefore answers no calls; check the broker's disk and log").WithCause(err)
	}
	return position, nil
}

// recordDecisions records the outcome of every item; outcome is the outcome of the items
// that have a value. It returns the position of the first item's record.
func (r *Resolver) recordDecisions(method string, who Caller, req *Request, items []item, outcome audit.Outcome) (audit.Position, error) {
	if len(items) == 0 {
		return audit.Position{}, nil
	}
	pooled := eventPool.Get().(*[]audit.Event)
	events := slices.Grow((*pooled)[:0], len(items))[:len(items)]
	defer func() {
		clear(events)
		if *pooled = events; cap(events) <= maxKept {
			eventPool.Put(pooled)
		}
	}()
	all := newEvent(method, who, req)
	for i := range items {
		events[i] = all
		decisionEvent(&events[i], &items[i], outcome)
	}
	position, err := r.record(method, who, events)
	if err != nil {
		return position, err
	}
	for i := range items {
		if err := items[i].err; err != nil {
			r.cfg.Observe(method, err.Reason)
		} else {
			r.cfg.Observe(method, "")
		}
	}
	return position, nil
}

// reject records a malformed request and returns its error.
func (r *Resolver) reject(method string, who Caller, req *Request, err error) error {
	safe := *req
	if !ValidID(safe.IntegrationID) {
		safe.IntegrationID = "" // the text is not an integration id
	}
	if len(safe.Connector) > MaxNameLen || !printable(safe.Connector) {
		safe.Connector = ""
	}
	var events []audit.Event
	rejected := func(config string, reason secret.Reason) {
		e := newEvent(method, who, &safe)
		e.Config, e.Outcome, e.Reason = config, audit.Rejected, reason
		events = append(events, e)
		r.cfg.Observe(method, reason)
	}
	var failure *Failure
	if errors.As(err, &failure) {
		for _, f := range failure.Configs {
			rejected(f.Config, f.Err.Reason)
		}
	} else {
		rejected("", secret.AsError(err).Reason)
	}
	if _, err := r.record(method, who, events); err != nil {
		return err
	}
	return err
}

func newEvent(method string, who Caller, req *Request) audit.Event {
	return audit.Event{
		Type:              audit.TypeAccess,
		Time:              time.Now().UTC(),
		RequestID:         req.ID,
		Method:            method,
		Principal:         who.Principal,
		PeerAddress:       who.PeerAddress,
		CertificateSHA256: who.CertificateSHA256,
		CertificateSerial: who.CertificateSerial,
		IntegrationID:     req.IntegrationID,
		Connector:         req.Connector,

		IntegrationRevision: req.revision,
	}
}

// decisionEvent completes the record of one item's outcome.
func decisionEvent(e *audit.Event, it *item, outcome audit.Outcome) {
	e.Config = it.name
	if it.ref.Name == "" { // not a reference
		e.Outcome, e.Reason = audit.Rejected, it.err.Reason
		return
	}
	e.Reference, e.Store, e.Secret, e.JSONKey = it.text, it.ref.Store, it.ref.Name, it.ref.Key
	if it.decision.Effect != authz.Allowed {
		e.Outcome, e.Reason = audit.Denied, it.err.Reason
		return
	}
	e.GrantID = it.grantID
	if it.got.Secret != nil {
		e.Version = it.got.Secret.Version
		e.Source = it.got.Source.String()
	}
	e.Outcome = outcome
	if it.err != nil {
		e.Outcome, e.Reason = audit.Failed, it.err.Reason
	}
}

// handOut records every decision, and returns the values if that succeeded.
func (r *Resolver) handOut(who Caller, req *Request, in *integration.Integration, items []item) (*Result, error) {
	res := &Result{Configs: make([]Resolved, 0, len(items))}
	for i := range items {
		it := &items[i]
		if it.err != nil {
			res.Errors = append(res.Errors, ConfigError{Config: it.name, Err: it.err})
			continue
		}
		res.Configs = append(res.Configs, Resolved{
			Config:    it.name,
			Value:     it.value,
			Decoded:   it.ref.Decoding != "",
			Version:   it.got.Secret.Version,
			FetchedAt: it.got.Secret.FetchedAt,
			ExpiresAt: it.got.Expires,
			Stale:     it.got.Source == cache.Stale,

			SecretExpiresAt: it.got.Secret.ExpiresAt,
		})
	}
	outcome := audit.Served
	if len(res.Errors) > 0 && !req.AllowPartial {
		outcome = audit.Withheld
	}
	position, err := r.recordDecisions(MethodResolve, who, req, items, outcome)
	if err != nil {
		return nil, err
	}
	if outcome == audit.Withheld {
		return nil, &Failure{Configs: res.Errors}
	}
	if r.cfg.Used != nil {
		for i := range items {
			if it := &items[i]; it.err == nil {
				r.cfg.Used(registry.Read{
					Principal: who.Principal, Connector: req.Connector, Integration: in.ID, UID: in.UID, GrantID: it.grantID,
					Ref: it.ref, Version: it.got.Secret.Version, RequestID: req.ID, Position: position.Next(i),
				})
			}
		}
	}
	return res, nil
}
