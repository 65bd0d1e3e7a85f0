// Package manage implements the management of integrations: which caller may do what with
// an integration, the rules that a change must satisfy, and its audit records.
//
// It combines the registry, roles, placement rules, usage and the audit log, and does not
// depend on gRPC or a database. It passes credentials to the registry and never returns
// them.
//
// A change goes through these steps: load finds the integration and checks the caller's
// role; edit makes the new form; comply checks the rules that the registry does not know;
// commit lets the registry validate the change, writes the audit record "attempted", makes
// the change, and records the result. The first record must be written before the change,
// so that no change can lack a record. See write.go, record.go and turns.go.
package manage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// AuditLog records the calls; audit.Limiter implements it.
type AuditLog interface {
	// Write records every event.
	Write(ctx context.Context, events []audit.Event) error
	// Refuse records the events of a call that neither changed nor returned anything. It
	// may count them instead.
	Refuse(ctx context.Context, events []audit.Event) error
}

// Config configures a Service. Store, Audit and Roles are required.
type Config struct {
	Store registry.Store
	// Kinds are the known kinds of stores.
	Kinds *integration.Kinds
	// Usage is the stored usage; nil if the broker does not store it.
	Usage registry.UsageStore
	// NoteUsage, if not nil, writes the usage that this broker has in memory to Usage,
	// so that it is listed. On error some of it was not written.
	NoteUsage func(ctx context.Context) error
	// UsageInMemory, if not nil, returns the uses of an integration since the given time
	// that are only in this broker's memory, the latest first. Without it, an
	// integration that was just used would count as unused.
	UsageInMemory func(id, uid string, since time.Time) []registry.Usage
	Audit         AuditLog
	// Denials is the deny list in effect; nil for none. DenialStore stores entries; nil if
	// the broker has no database.
	Denials     *denial.Set
	DenialStore registry.DenialStore
	// Roles returns the current roles for all integrations.
	Roles func() *authz.Roles
	// Placement are the organisation's rules; nil for none.
	Placement *placement.Rules
	// Validate contacts an integration's stores, like provider.Set.Validate. Nil
	// disables Service.Validate.
	Validate func(ctx context.Context, in *integration.Integration) []provider.Step
	// Events, if not nil, returns the states of the sources of an integration's events.
	Events func(in *integration.Integration) []EventSource
	// UsageWindow is the time after its last use from which an integration counts as
	// unused; zero means 24 hours.
	UsageWindow time.Duration
	// Logger receives errors that no call returns; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service manages integrations. It is safe for concurrent use.
type Service struct {
	cfg        Config
	validating chan struct{} // has an element for each validation in progress
	turns      turns
	uses       lastUses
}

// New makes a Service.
func New(cfg Config) *Service {
	if cfg.UsageWindow == 0 {
		cfg.UsageWindow = 24 * time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NoteUsage == nil {
		cfg.NoteUsage = func(context.Context) error { return nil }
	}
	if cfg.UsageInMemory == nil {
		cfg.UsageInMemory = func(string, string, time.Time) []registry.Usage { return nil }
	}
	if cfg.Events == nil {
		cfg.Events = func(*integration.Integration) []EventSource { return nil }
	}
	if cfg.Denials == nil {
		cfg.Denials = denial.NewSet()
	}
	return &Service{cfg: cfg, validating: make(chan struct{}, maxValidating)}
}

// Caller is the caller of a call, as the server authenticated it, and the call's id.
type Caller struct {
	RequestID         string
	Principal         authz.Principal
	PeerAddress       string
	CertificateSHA256 string
	CertificateSerial string
	// CertificateIssuer is as denial.IssuerOf returns it. Only Deny requires it.
	CertificateIssuer string
}

// Document is an integration as it is written down.
type Document = integration.Document

// Grant is one grant of an integration.
type Grant = integration.GrantSection

// Integration is an integration as callers with a role on it may see it.
type Integration struct {
	Document Document
	// UID is that of registry.Record.
	UID string
	// CredentialNames are the names of the stored credentials.
	CredentialNames []string
	Revision, ETag  string
	// CreatedAt and UpdatedAt, and the principals that did it; zero if unknown.
	CreatedAt, UpdatedAt time.Time
	CreatedBy, UpdatedBy authz.Principal
	// ReadOnly: the integration is a file.
	ReadOnly bool
	// Facts are the facts that the kind provides for people.
	Facts []Fact
	// LastUsedAt is zero if no use is recorded. Recording says since when uses are.
	LastUsedAt time.Time
	Recording  Recording
	// Problems say why the integration cannot be used in its current form; empty if it can.
	Problems []Problem
	// State says what is in effect instead.
	State State
	// EventSources are the sources of events about its secrets; only Get sets them.
	EventSources []EventSource
}

// State says whether an integration is in effect.
type State string

// The states. The result of a change that was only validated has none.
const (
	// Active: in effect as it is stored.
	Active State = "ACTIVE"
	// Degraded: in effect although it has problems. A file's last valid content is in effect.
	Degraded State = "DEGRADED"
	// Inactive: not in effect.
	Inactive State = "INACTIVE"
)

// Problem is one reason why an integration cannot be used.
type Problem struct {
	Reason  secret.Reason
	Message string
}

// Fact is one line about an integration, or a document of several lines to paste into the
// configuration of its cloud.
type Fact = integration.Fact

// Fault is an error in a setting of an integration.
type Fault struct {
	// Setting is its name in the integration's document, such as "azure.vaults[0]".
	Setting string
	// Field is its name in the API, such as "integration.settings.vaults[0]".
	Field string
	Text  string
}

// InvalidError is the error of an invalid integration. It quotes no value.
type InvalidError struct {
	// Faults is never empty.
	Faults []Fault
}

// Error lists the faults on one line, or the first of many.
func (e *InvalidError) Error() string {
	const limit = 600 // bytes
	var b strings.Builder
	for i, f := range e.Faults {
		text := strings.TrimPrefix(f.Setting+": "+f.Text, ": ")
		if i > 0 && b.Len()+len(text) > limit {
			fmt.Fprintf(&b, "; and %d more", len(e.Faults)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(text)
	}
	return b.String()
}

// Unwrap makes it a *secret.Error.
func (e *InvalidError) Unwrap() error {
	return secret.Errorf(secret.ReasonInvalidIntegration, "%s", e.Error())
}

// newInvalid returns the error of faults in an integration of the kind.
func newInvalid(kind secret.Kind, faults ...Fault) *InvalidError {
	for i := range faults {
		if faults[i].Field == "" {
			faults[i].Field = fieldOf(kind, faults[i].Setting)
		}
	}
	return &InvalidError{Faults: faults}
}

// fieldOf returns the API's name of a setting. The section of the kind is "settings" there.
func fieldOf(kind secret.Kind, setting string) string {
	if setting == "" {
		return "integration"
	}
	if rest, ok := integration.SectionField(setting); ok {
		return "integration.settings" + rest
	}
	return "integration." + setting
}

// errorOf translates an error of the registry. kind is the kind of the integration.
func errorOf(kind secret.Kind, err error) error {
	var invalid *registry.InvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		var faults []Fault
		for _, f := range invalid.Faults {
			faults = append(faults, Fault{Setting: f.Path, Text: f.Text})
		}
		return newInvalid(kind, faults...)
	case errors.Is(err, registry.ErrReadOnly):
		return secret.Errorf(secret.ReasonIntegrationReadOnly, "the integrations are files of the broker; change them at their source")
	case errors.Is(err, registry.ErrExists):
		return secret.Errorf(secret.ReasonIntegrationExists, "an integration with this id already exists; choose another id, or update the integration")
	case errors.Is(err, registry.ErrConflict):
		return secret.Errorf(secret.ReasonIntegrationChanged, "the integration was changed since you read it; read it again and repeat the change")
	case errors.Is(err, registry.ErrQuota):
		return secret.Errorf(secret.ReasonQuotaExceeded, "the maximum number of integrations is reached; delete an unused one, or ask the operator to raise registry.max_integrations")
	case errors.Is(err, registry.ErrNotFound):
		return secret.Errorf(secret.ReasonIntegrationNotFound, "there is no integration with this id")
	case errors.Is(err, registry.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return secret.Errorf(secret.ReasonRegistryUnavailable, "the broker cannot read its database or directory of integrations; wait, and ask the operator to check it").WithCause(err)
	default:
		return err
	}
}

// present converts a record to the Integration that callers see.
func (s *Service) present(rec *registry.Record) Integration {
	doc := s.cfg.Kinds.DecodeDocument(rec.ID, rec.Document)
	in := Integration{
		Document: doc.Document, UID: rec.UID, CredentialNames: rec.Credentials, ETag: rec.ETag,
		CreatedAt: rec.CreatedAt, UpdatedAt: rec.UpdatedAt, CreatedBy: rec.CreatedBy, UpdatedBy: rec.UpdatedBy,
		ReadOnly: rec.File != "",
	}
	in.Document.ID = rec.ID // even if the document cannot be parsed
	live, err := s.cfg.Store.Get(rec.ID)
	if err == nil && rec.Integration != nil {
		in.Revision = live.Revision
	}
	if rec.Integration != nil {
		in.Facts = rec.Integration.Facts()
	}
	in.Problems = s.problems(rec)
	in.State = stateOf(rec, err == nil, in.Problems)
	return in
}

// stateOf returns the state of an integration with the given problems. served reports
// whether the store returns it to callers.
func stateOf(rec *registry.Record, served bool, problems []Problem) State {
	switch {
	case rec.ETag == "" && rec.File == "": // validated only
		return ""
	case !served, slices.ContainsFunc(problems, func(p Problem) bool { return p.Reason == secret.ReasonPlacementDenied }):
		return Inactive
	case len(problems) > 0:
		return Degraded
	default:
		return Active
	}
}

// problems returns why an integration cannot be used; nil if it can.
func (s *Service) problems(rec *registry.Record) []Problem {
	var problems []Problem
	for _, f := range rec.Faults {
		text := strings.TrimPrefix(f.Path+": "+f.Text, ": ")
		if rec.File != "" && f.Line > 0 {
			text = fmt.Sprintf("%s:%d: %s", filepath.Base(f.File), f.Line, text)
		}
		problems = append(problems, Problem{secret.ReasonInvalidIntegration, text})
	}
	if rec.Integration == nil {
		return problems
	}
	for _, f := range s.cfg.Placement.Check(rec.Integration.Kind, rec.Integration.Placement) {
		problems = append(problems, Problem{secret.ReasonPlacementDenied, f.Setting + ": " + f.Text})
	}
	return problems
}
