package manage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// WriteOptions are the options of all changes.
type WriteOptions struct {
	// ETag, if set, must be the current etag of the integration.
	ETag string
	// ValidateOnly checks everything and changes nothing.
	ValidateOnly bool
	// Force allows changes that are otherwise refused as likely mistakes.
	Force bool
	// replaces: the change leaves nothing of the integration as it was.
	replaces bool
}

// Create creates an integration. It generates an external ID for an AWS role without one.
// It wipes the credentials. The error is, or wraps, a *secret.Error, like all errors of a
// Service.
func (s *Service) Create(ctx context.Context, who Caller, doc Document, credentials map[string]secret.Value, o WriteOptions) (Integration, error) {
	defer wipe(credentials)
	op := s.begin(who, methodCreate, doc.ID)
	if !s.authority(nil).May(who.Principal, authz.ToCreate) {
		return Integration{}, op.answer(ctx, secret.Errorf(secret.ReasonAccessDenied, "creating integrations requires %s", needs[authz.ToCreate]))
	}
	if !doc.Bind(s.cfg.Kinds) {
		return Integration{}, op.answer(ctx, newInvalid(doc.Kind, Fault{Setting: "kind", Text: "there is no such kind"}))
	}
	if err := s.comply(who.Principal, s.authority(nil), nil, &doc, o); err != nil {
		return Integration{}, op.answer(ctx, err)
	}
	if err := generate(&doc); err != nil {
		return Integration{}, op.answer(ctx, newInvalid(doc.Kind, Fault{Text: err.Error()}))
	}
	change, err := changeOf(who.Principal, &doc, credentials, o)
	if err != nil {
		return Integration{}, op.answer(ctx, err)
	}
	if !o.ValidateOnly { // the id may have become free through another replica
		if err := s.cfg.Store.Refresh(ctx); err != nil {
			return Integration{}, op.answer(ctx, errorOf("", err))
		}
	}
	rec, err := op.commit(ctx, s.cfg.Store.Create, nil, &doc, change, o)
	if err != nil {
		return Integration{}, err
	}
	return withPolicies(s.present(&rec), rec.Integration), nil
}

// Update changes the parts of an integration that mask names. It wipes the
// credentials. changed lists the settings that differ.
func (s *Service) Update(ctx context.Context, who Caller, wanted Document, mask []string, credentials map[string]secret.Value, o WriteOptions) (in Integration, changed []string, err error) {
	defer wipe(credentials)
	o.replaces = slices.Equal(mask, []string{"*"})
	return s.edit(ctx, who, methodUpdate, authz.ToChange, wanted.ID, credentials, o, func(before *Document) (*Document, error) {
		if wanted.Kind == "" {
			wanted.Kind = before.Kind
		}
		wanted.Bind(s.cfg.Kinds)
		if wanted.Kind != before.Kind {
			return nil, newInvalid(before.Kind, Fault{Setting: "kind", Text: "the kind of an integration cannot be changed; create another integration"})
		}
		return applyMask(before, &wanted, mask)
	})
}

// edit changes an integration to the form that edited returns. If the caller gives no etag
// and another call changes the integration meanwhile, edit starts again from the new state.
func (s *Service) edit(ctx context.Context, who Caller, method string, act authz.Action, id string, credentials map[string]secret.Value, o WriteOptions, edited func(before *Document) (*Document, error)) (in Integration, changed []string, err error) {
	op := s.begin(who, method, id)
	if o.ETag == "" && !o.ValidateOnly {
		if err := s.mayFind(who.Principal, id); err != nil { // a caller without a role must not wait
			return Integration{}, nil, op.answer(ctx, err)
		}
		done, err := s.turns.take(ctx, id)
		if err != nil {
			return Integration{}, nil, op.answer(ctx, secret.Errorf(secret.ReasonOverloaded, "too many changes of this integration are in progress; retry later").WithCause(err))
		}
		defer done()
	}
	for attempt := 1; ; attempt++ {
		op.again = o.ETag == "" && attempt < maxAttempts && ctx.Err() == nil
		in, changed, err = op.editOnce(ctx, act, id, credentials, o, edited)
		if !op.again || !isChanged(err) || !pause(ctx) {
			return in, changed, err
		}
	}
}

// isChanged reports whether another call has changed the integration.
func isChanged(err error) bool {
	return err != nil && secret.AsError(err).Reason == secret.ReasonIntegrationChanged
}

func (op *operation) editOnce(ctx context.Context, act authz.Action, id string, credentials map[string]secret.Value, o WriteOptions, edited func(before *Document) (*Document, error)) (Integration, []string, error) {
	s := op.s
	fail := func(err error) (Integration, []string, error) { return Integration{}, nil, op.answer(ctx, err) }
	rec, err := s.loadToChange(ctx, op.who.Principal, id, act, o)
	if err != nil {
		return fail(err)
	}
	stored := s.cfg.Kinds.DecodeDocument(id, rec.Document)
	if len(stored.Faults) > 0 && !o.replaces {
		return fail(errUnreadable)
	}
	before := stored.Document
	after, err := edited(&before)
	if err != nil {
		return fail(err)
	}
	if err := integration.KeepGenerated(&before, after); err != nil {
		return fail(newInvalid(after.Kind, Fault{Text: err.Error()}))
	}
	if err := s.comply(op.who.Principal, s.authority(rec), &before, after, o); err != nil {
		return fail(err)
	}
	if err := generate(after); err != nil {
		return fail(newInvalid(after.Kind, Fault{Text: err.Error()}))
	}
	changed := integration.SettingNames(integration.Diff(&before, after))
	if len(changed) == 0 && len(credentials) == 0 {
		op.note = "nothing to change"
		return withPolicies(s.present(rec), rec.Integration), nil, op.answer(ctx, nil)
	}
	o.ETag = rec.ETag
	c, err := changeOf(op.who.Principal, after, credentials, o)
	if err != nil {
		return fail(err)
	}
	next, err := op.commit(ctx, s.cfg.Store.Update, &before, after, c, o)
	if err != nil {
		return Integration{}, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(credentials)) {
		changed = append(changed, "credentials."+name)
	}
	return withPolicies(s.present(&next), next.Integration), changed, nil
}

// errUnreadable refuses a change that would lose what the broker cannot read, such as a
// condition of a grant that a newer release has stored: without it, the grant allows more.
var errUnreadable = secret.Errorf(secret.ReasonInvalidIntegration, "the stored document has settings that this release of the broker cannot read, and a change would lose them; "+
	"change it through a broker of the release that stored it, or delete the integration and create it again")

func changeOf(by authz.Principal, doc *Document, credentials map[string]secret.Value, o WriteOptions) (registry.Change, error) {
	document, err := doc.Encode()
	if err != nil {
		return registry.Change{}, err
	}
	return registry.Change{ID: doc.ID, Document: document, Credentials: credentials, ETag: o.ETag, By: by, ValidateOnly: o.ValidateOnly}, nil
}

// commit lets the store check the change and then make it between its audit records. With
// ValidateOnly it only checks. after is the changed form.
func (op *operation) commit(ctx context.Context, do func(context.Context, registry.Change) (registry.Record, error), before, after *Document, c registry.Change, o WriteOptions) (registry.Record, error) {
	check := c
	check.ValidateOnly = true
	rec, err := do(ctx, check)
	if err != nil {
		err = credentialFields(errorOf(after.Kind, err), c.Credentials)
		if op.again && isChanged(err) {
			return rec, err // edit tries again
		}
		return rec, op.answer(ctx, err)
	}
	if o.ValidateOnly {
		op.note = "validated only"
		return rec, op.answer(ctx, nil)
	}
	err = op.change(ctx, &audit.Change{
		Before:      documentOf(before),
		After:       documentOf(after),
		Fields:      integration.SettingNames(integration.Diff(before, after)),
		Credentials: slices.Sorted(maps.Keys(c.Credentials)),
		Forced:      o.Force,
	}, func(ctx context.Context) error {
		rec, err = do(ctx, c)
		return errorOf(after.Kind, err)
	})
	return rec, err
}

// credentialFields sets the fields of faults in credentials, for which the registry gives
// only the settings.
func credentialFields(err error, credentials map[string]secret.Value) error {
	if invalid, ok := IsInvalid(err); ok {
		for i, f := range invalid.Faults {
			if _, given := credentials[f.Setting]; given {
				invalid.Faults[i].Field = fmt.Sprintf("integration.credentials[%q]", f.Setting)
			}
		}
	}
	return err
}

// comply checks the rules that the registry does not know: which settings the caller may
// change, the organisation's placement rules, and that the caller does not lose the role
// RESOURCE_OWNER by mistake. before is nil for a new integration.
func (s *Service) comply(who authz.Principal, a authz.Authority, before, after *Document, o WriteOptions) error {
	for i, g := range after.Grants {
		if len(g.Principals) == 0 {
			return newInvalid(after.Kind, Fault{Setting: fmt.Sprintf("grants[%d].principals", i), Text: "missing; list the principals that may use the integration"})
		}
	}
	if !a.May(who, authz.ToUseMachine) {
		if setting := s.immutable(before, after); setting != "" {
			return secret.Errorf(secret.ReasonAccessDenied,
				"the setting %s can use resources of the broker's own machine; changing it requires %s", setting, needs[authz.ToUseMachine])
		}
	}
	roles, fault := rolesOf(after)
	if fault != nil {
		return newInvalid(after.Kind, *fault)
	}
	if before != nil && a.Locks(who, roles) && !o.Force {
		return secret.Errorf(secret.ReasonOwnerLockout,
			"the change would remove the caller's own role RESOURCE_OWNER; keep the caller as an owner, let another owner make the change, or force it")
	}
	at := after.Placement
	if at.Cloud == "" {
		spec, _ := s.cfg.Kinds.Spec(after.Kind)
		at.Cloud = spec.Cloud
	}
	var faults []Fault
	for _, f := range s.cfg.Placement.Check(after.Kind, at) {
		if before == nil || before.Placement != after.Placement || before.Kind != after.Kind {
			faults = append(faults, Fault{Setting: f.Setting, Text: f.Text})
		}
	}
	if len(faults) > 0 {
		return &placementError{newInvalid(after.Kind, faults...)}
	}
	return nil
}

// placementError is an InvalidError with the reason PLACEMENT_DENIED.
type placementError struct{ *InvalidError }

// Unwrap returns the *secret.Error and the InvalidError.
func (e *placementError) Unwrap() []error {
	return []error{secret.Errorf(secret.ReasonPlacementDenied, "%s", e.InvalidError.Error()), e.InvalidError}
}

// immutable returns a changed setting that the owner of a single integration may not
// change, "" if there is none. If the integration has such a setting, for example the use
// of the machine's identity, then the owner may change no setting of its kind: the
// operator who lends this identity decides which vaults are read with it.
func (s *Service) immutable(before, after *Document) string {
	section := s.cfg.Kinds.Section(after.Kind) + "."
	touched := false
	for _, c := range integration.Diff(before, after) {
		if !s.cfg.Kinds.IsMutable(after.Kind, spelled(c)) {
			return c.Setting
		}
		touched = touched || strings.HasPrefix(c.Setting, section)
	}
	if !touched {
		return ""
	}
	for _, c := range append(integration.Diff(nil, after), integration.Diff(nil, before)...) {
		if setting := spelled(c); !s.cfg.Kinds.IsMutable(after.Kind, setting) && !s.cfg.Kinds.IsImmutable(after.Kind, setting) {
			return c.Setting
		}
	}
	return ""
}

// spelled formats a change in the form that integration.Kinds.IsMutable accepts: the
// setting, followed by "=" and its new value, or its old one if it is removed, if that is
// one word.
func spelled(c integration.FieldChange) string {
	for _, v := range []any{c.After, c.Before} {
		if text, ok := v.(string); ok && text != "" && !strings.ContainsAny(text, "=. ") {
			return c.Setting + "=" + text
		}
		if v != nil {
			return c.Setting
		}
	}
	return c.Setting
}

// Delete deletes an integration. Without Force it fails if the integration was used within
// the usage window.
func (s *Service) Delete(ctx context.Context, who Caller, id string, o WriteOptions) error {
	op := s.begin(who, methodDelete, id)
	rec, err := s.loadToChange(ctx, who.Principal, id, authz.ToDelete, o)
	if err != nil {
		return op.answer(ctx, err)
	}
	if !o.Force {
		if err := s.unused(ctx, rec); err != nil {
			return op.answer(ctx, err)
		}
	}
	if o.ValidateOnly {
		op.note = "validated only"
		return op.answer(ctx, nil)
	}
	before := s.cfg.Kinds.DecodeDocument(id, rec.Document).Document
	return op.change(ctx, &audit.Change{Before: documentOf(&before), Fields: integration.SettingNames(integration.Diff(&before, nil)), Credentials: rec.Credentials, Forced: o.Force}, func(ctx context.Context) error {
		return errorOf(before.Kind, s.cfg.Store.Delete(ctx, id, rec.ETag))
	})
}

// errUnknownUse refuses a deletion: an integration with unknown usage does not count as
// unused.
var errUnknownUse = secret.Errorf(secret.ReasonRegistryUnavailable, "cannot read whether the integration is in use; retry later, or force the deletion")

// unused returns an error if the integration was used within the window, or if that is
// unknown.
func (s *Service) unused(ctx context.Context, rec *registry.Record) error {
	if s.cfg.Usage == nil {
		return nil
	}
	// Check the memory first: reading the store may be slow, and writing to it slower.
	since := s.cfg.Now().Add(-s.cfg.UsageWindow)
	usage := s.cfg.UsageInMemory(rec.ID, rec.UID, since)
	if len(usage) == 0 {
		var err error
		if usage, err = s.cfg.Usage.Usage(ctx, rec.ID, since, 0); err != nil {
			return errUnknownUse.WithCause(err)
		}
	}
	if len(usage) == 0 {
		return nil
	}
	return s.inUse(usage)
}

// inUse returns the error for an integration in use. usage is sorted, the latest first.
func (s *Service) inUse(usage []registry.Usage) error {
	const named = 3
	var by []string
	for _, u := range usage {
		user := string(u.Principal)
		if u.Connector != "" {
			user += fmt.Sprintf(" (%q)", u.Connector)
		}
		if !slices.Contains(by, user) {
			by = append(by, user)
		}
	}
	more := ""
	if len(by) > named {
		by, more = by[:named], fmt.Sprintf(" and %d more", len(by)-named)
	}
	return secret.Errorf(secret.ReasonIntegrationInUse, "the integration was used within the last %s, last at %s, by %s%s; stop its users first, or force the deletion",
		integration.FormatDuration(s.cfg.UsageWindow), usage[0].LastAt.UTC().Format(time.RFC3339), strings.Join(by, ", "), more)
}

func wipe(credentials map[string]secret.Value) {
	for _, v := range credentials {
		v.Wipe()
	}
}

// IsInvalid returns the InvalidError in the chain of err, if there is one.
func IsInvalid(err error) (*InvalidError, bool) {
	var invalid *InvalidError
	ok := errors.As(err, &invalid)
	return invalid, ok
}
