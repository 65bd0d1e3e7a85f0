// Package reconcile applies a set of integration documents to a broker. It is the part of
// "secretbroker integration apply" that depends neither on files in a directory nor on a terminal,
// so that other programs can use it.
//
// A run has three steps. The caller decides after each whether to continue:
//
//  1. NewPlan compares the documents with the integrations that the broker listed. It does
//     no I/O. The plan is complete: integrations that it does not list are not changed.
//  2. Change.Apply with ApplyOptions.ValidateOnly lets the broker check a change. Check all
//     changes first and stop if one is refused, so that an error in one document prevents
//     all changes.
//  3. Change.Apply makes the change. It sends the etag of the integration that the plan was
//     made from, so the broker refuses the change if another client has changed the
//     integration meanwhile. There is no transaction over several integrations: if a
//     change fails, those before it stay, and another run completes the rest.
//
// The broker never returns credentials, so a plan cannot tell whether one differs. It sends
// a credential if the broker has none of that name, or all with ReplaceCredentials.
package reconcile

import (
	"context"
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Action is the kind of a change.
type Action string

// The actions. The output of commands contains them, so they must not be renamed.
const (
	None   Action = "none"
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Plan has one Change for each integration: first those of the documents, in their order,
// then those to delete, sorted by id.
type Plan []Change

// Change is the change of one integration.
type Change struct {
	Action   Action
	ID       string
	Document *Document           // nil for Delete
	Now      *client.Integration // nil for Create
	// Fields are the settings that differ, and Credentials the names of the credentials to
	// send.
	Fields      []integration.FieldChange
	Credentials []string
}

// Options configure NewPlan.
type Options struct {
	// Kinds are the kinds of stores that there are.
	Kinds *integration.Kinds
	// Prune deletes integrations that no document describes, except read-only ones.
	Prune bool
	// ReplaceCredentials sends every credential that the documents name.
	ReplaceCredentials bool
}

// CredentialError is the error of a credential file that cannot be read.
type CredentialError struct{ Err error }

func (e *CredentialError) Error() string { return e.Err.Error() }

func (e *CredentialError) Unwrap() error { return e.Err }

// NewPlan compares documents, which must have unique ids, with the broker's integrations. It
// returns an error if an integration has settings that this version does not know.
func NewPlan(documents []*Document, existing []*client.Integration, o Options) (Plan, error) {
	byID := make(map[string]*client.Integration, len(existing))
	for _, in := range existing {
		byID[in.ID] = in
	}
	var plan Plan
	for _, d := range documents {
		c, err := newChange(d, byID[d.ID], o)
		if err != nil {
			return nil, err
		}
		plan = append(plan, c)
		delete(byID, d.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if o.Prune && !byID[id].ReadOnly {
			plan = append(plan, Change{Action: Delete, ID: id, Now: byID[id]})
		}
	}
	return plan, nil
}

func newChange(d *Document, now *client.Integration, o Options) (Change, error) {
	c := Change{Action: Create, ID: d.ID, Document: d, Now: now, Credentials: slices.Sorted(maps.Keys(d.Credentials))}
	if now == nil {
		c.Fields = integration.Diff(nil, &d.Document)
		return c, nil
	}
	doc, err := DocumentOf(o.Kinds, now)
	if err != nil {
		return c, err
	}
	if err := integration.KeepGenerated(doc, &d.Document); err != nil {
		return c, err
	}
	c.Action, c.Fields = Update, integration.Diff(doc, &d.Document)
	if !o.ReplaceCredentials {
		c.Credentials = slices.DeleteFunc(c.Credentials, func(name string) bool { return slices.Contains(now.CredentialNames, name) })
	}
	if len(c.Fields)+len(c.Credentials) == 0 {
		c.Action = None
	}
	return c, nil
}

// ApplyOptions configure Change.Apply.
type ApplyOptions struct {
	// ValidateOnly lets the broker check the change without making it.
	ValidateOnly bool
	// Force deletes integrations that are in use, and allows changes that remove the caller's
	// own role RESOURCE_OWNER.
	Force bool
}

// Apply makes the change, or lets the broker check it with o.ValidateOnly, if the integration
// is as it was when the plan was made. The error is a
// *CredentialError or an error of the client.
func (c *Change) Apply(ctx context.Context, cl *client.Client, o ApplyOptions) error {
	switch c.Action {
	case None:
		return nil
	case Delete:
		_, err := cl.DeleteIntegration(ctx, client.DeleteIntegrationRequest{IntegrationID: c.ID, ETag: c.Now.ETag, Force: o.Force, ValidateOnly: o.ValidateOnly})
		return err
	}
	in, err := c.Document.Integration(c.Credentials)
	if err != nil {
		return &CredentialError{err}
	}
	if c.Action == Create {
		_, err = cl.CreateIntegration(ctx, client.CreateIntegrationRequest{Integration: in, ValidateOnly: o.ValidateOnly})
		return err
	}
	in, mask := c.update(in)
	_, err = cl.UpdateIntegration(ctx, client.UpdateIntegrationRequest{Integration: in, Mask: mask, Force: o.Force, ValidateOnly: o.ValidateOnly})
	return err
}

// update returns what an update sends: only the fields that differ, so that it does not
// remove what a newer broker has beside them.
func (c *Change) update(in *client.Integration) (*client.Integration, []string) {
	settings := make([]string, len(c.Fields))
	for i := range c.Fields {
		settings[i] = c.Fields[i].Setting
	}
	mask := Mask(c.Document.Section(), settings, c.Document.Tree())
	if len(mask) == 0 { // an empty mask would mean all fields that are set
		in = &client.Integration{ID: in.ID, Credentials: in.Credentials}
	}
	in.ETag, in.Unknown = c.Now.ETag, c.Now.Unknown
	return in, mask
}

// NewUpdate compares a document with the integration now, which has its id, and returns the
// integration to send in a call that replaces now with the document, and the update mask. It
// sends all credentials of in, which is the integration of the document.
func NewUpdate(kinds *integration.Kinds, d *Document, in, now *client.Integration) (*client.Integration, []string, error) {
	c, err := newChange(d, now, Options{Kinds: kinds, ReplaceCredentials: true})
	if err != nil {
		return nil, nil, err
	}
	in, mask := c.update(in)
	return in, mask, nil
}
