// Package reconcile makes a broker's integrations what a set of documents says. It is the
// part of "broker integration apply" that knows neither files in a directory nor a
// terminal, so that other programs can use it.
//
// A run has three steps, and the caller decides between them whether to go on:
//
//  1. NewPlan compares the documents with the integrations that the broker listed. It does
//     no I/O, and its result is complete: what it does not list will not be touched.
//  2. Change.Apply with WriteOptions.ValidateOnly has the broker check a change. Check all
//     changes first and stop if one is refused, so that a fault in one document leaves
//     everything as it is.
//  3. Change.Apply makes it. Each change carries the etag of the integration that the plan
//     was made from, so that the broker refuses it if somebody changed the integration
//     meanwhile. There is no transaction over several integrations: a change that fails
//     leaves those before it made, and running the three steps again completes them.
//
// The broker never returns credentials, so that a plan cannot tell whether one differs. It
// sends a credential if the broker has none of that name, or if it is told to send all.
package reconcile

import (
	"context"
	"maps"
	"slices"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
)

// Action is what a plan does with an integration.
type Action string

// The actions. They are in the output of commands: never rename one.
const (
	None   Action = "none"
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
)

// Plan is what there is to do, one Change for each integration: first those of the
// documents, in their order, then those to delete, by id.
type Plan []Change

// Change is what there is to do with one integration.
type Change struct {
	Action   Action
	ID       string
	Document *Document           // nil for Delete
	Now      *client.Integration // nil for Create
	// Fields are the settings that differ, Credentials the names of those that are sent.
	Fields      []manage.FieldChange
	Credentials []string
}

// Options say how a plan is made.
type Options struct {
	// Kinds are the kinds of stores that there are.
	Kinds *integration.Kinds
	// Prune deletes integrations that no document describes, except read-only ones.
	Prune bool
	// ReplaceCredentials sends every credential that the documents name.
	ReplaceCredentials bool
}

// CredentialError says that a file with a credential cannot be read.
type CredentialError struct{ Err error }

func (e *CredentialError) Error() string { return e.Err.Error() }

func (e *CredentialError) Unwrap() error { return e.Err }

// NewPlan compares documents, each with an id of its own, with the broker's integrations.
// The error says that an integration has settings that this version does not know.
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
		c.Fields = manage.Diff(nil, &d.Document)
		return c, nil
	}
	doc, err := DocumentOf(o.Kinds, now)
	if err != nil {
		return c, err
	}
	if err := manage.KeepGenerated(doc, &d.Document); err != nil {
		return c, err
	}
	c.Action, c.Fields = Update, manage.Diff(doc, &d.Document)
	if !o.ReplaceCredentials {
		c.Credentials = slices.DeleteFunc(c.Credentials, func(name string) bool { return slices.Contains(now.CredentialNames, name) })
	}
	if len(c.Fields)+len(c.Credentials) == 0 {
		c.Action = None
	}
	return c, nil
}

// Apply makes the change, or has the broker check it. It sets the etag of o. The error is a
// *CredentialError or one of the client's.
func (c *Change) Apply(ctx context.Context, cl *client.Client, o client.WriteOptions) error {
	switch c.Action {
	case None:
		return nil
	case Delete:
		o.ETag = c.Now.ETag
		return cl.DeleteIntegration(ctx, c.ID, o)
	}
	in, err := c.Document.Integration(c.Credentials)
	if err != nil {
		return &CredentialError{err}
	}
	if c.Action == Create {
		_, err = cl.CreateIntegration(ctx, in, o)
		return err
	}
	in.ETag = c.Now.ETag
	_, _, err = cl.UpdateIntegration(ctx, in, []string{"*"}, o)
	return err
}
