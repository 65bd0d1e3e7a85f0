// Package manage owns the use case of managing integrations: who may do what with
// one, what a change has to comply with, and the record of it.
//
// It ties the registry, roles, placement rules, usage and the audit together, and
// knows no gRPC and no database. A credential passes through it on its way in and
// never comes back.
package manage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// AuditLog records what is done; audit.Limiter is one.
type AuditLog interface {
	// Write records the events, each of them.
	Write(ctx context.Context, events []audit.Event) error
	// Refuse records the events of a call that does and answers nothing. It may only
	// count them.
	Refuse(ctx context.Context, events []audit.Event) error
}

// Config is what a Service is made of. Store, Audit and Roles are required.
type Config struct {
	Store registry.Store
	// Kinds are the kinds of stores that there are.
	Kinds *integration.Kinds
	// Usage tells who has used what; nil if nobody keeps that.
	Usage registry.UsageStore
	// NoteUsage, if not nil, writes down what this broker has noted of usage so far,
	// so that it is listed. An error says that some of it is not written down.
	NoteUsage func(ctx context.Context) error
	// UsageInMemory, if not nil, returns the uses of an integration since then that
	// this broker has in memory, the latest first: all that are not in Usage yet, so
	// that what has just been used does not pass for unused.
	UsageInMemory func(id string, since time.Time) []registry.Usage
	Audit         AuditLog
	// Roles returns the roles for all integrations, as they are just now.
	Roles func() *authz.Roles
	// Placement are the organisation's rules; nil for none.
	Placement *placement.Rules
	// Validate contacts an integration's stores; provider.Set.Validate does. Nil if
	// nobody can.
	Validate func(ctx context.Context, in *integration.Integration) []provider.Step
	// UsageWindow is how long ago an integration may have been used to count as
	// unused; zero means 24 hours.
	UsageWindow time.Duration
	// Logger is told of what nobody else is; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service manages integrations. It is safe for concurrent use.
type Service struct {
	cfg        Config
	validating chan struct{} // has an element for each validation under way
	turns      turns
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
		cfg.UsageInMemory = func(string, time.Time) []registry.Usage { return nil }
	}
	return &Service{cfg: cfg, validating: make(chan struct{}, maxValidating)}
}

// Caller is who asks, as the server found out, and the call.
type Caller struct {
	RequestID         string
	Principal         authz.Principal
	PeerAddress       string
	CertificateSerial string
}

// Document is an integration as it is written down.
type Document = integration.Document

// Grant is one entry of its grants.
type Grant = integration.GrantSection

// Integration is one integration as those may see it who have a role on it.
type Integration struct {
	Document Document
	// CredentialNames are those that the broker keeps.
	CredentialNames []string
	Revision, ETag  string
	// CreatedAt and UpdatedAt, and who did it; zero where that is not known.
	CreatedAt, UpdatedAt time.Time
	CreatedBy, UpdatedBy authz.Principal
	// ReadOnly: it is a file.
	ReadOnly bool
	// Facts are what a person needs to know of the kind in question.
	Facts []Fact
	// LastUsedAt is zero if it never was.
	LastUsedAt time.Time
	// Problem says what keeps it from being used as it stands here, "" if nothing.
	Problem string
}

// Fact is one line about an integration, or a document of several lines that
// stands at its cloud, to paste there.
type Fact = integration.Fact

// Fault is what is wrong with a setting of an integration.
type Fault struct {
	// Setting is its name in the integration's document, such as "azure.vaults[0]".
	Setting string
	// Field is its name in the API, such as "integration.settings.vaults[0]".
	Field string
	Text  string
}

// InvalidError says that an integration is not acceptable. It quotes no value.
type InvalidError struct {
	// Faults is never empty.
	Faults []Fault
}

// Error lists the faults on one line, or the first of many.
func (e *InvalidError) Error() string {
	const most = 600 // bytes
	var b strings.Builder
	for i, f := range e.Faults {
		text := strings.TrimPrefix(f.Setting+": "+f.Text, ": ")
		if i > 0 && b.Len()+len(text) > most {
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

// newInvalid makes the error of faults in an integration of that kind.
func newInvalid(kind secret.Kind, faults ...Fault) *InvalidError {
	for i := range faults {
		if faults[i].Field == "" {
			faults[i].Field = fieldOf(kind, faults[i].Setting)
		}
	}
	return &InvalidError{Faults: faults}
}

// fieldOf is the API's name of a setting: that of the kind's section is settings.
func fieldOf(kind secret.Kind, setting string) string {
	if setting == "" {
		return "integration"
	}
	if rest, ok := integration.SectionField(setting); ok {
		return "integration.settings" + rest
	}
	return "integration." + setting
}

// errorOf translates the registry's errors. kind is that of the integration in
// question.
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
		return secret.Errorf(secret.ReasonIntegrationReadOnly, "the integrations are files of the broker; change them where they come from")
	case errors.Is(err, registry.ErrExists):
		return secret.Errorf(secret.ReasonIntegrationExists, "there is an integration of that id already; choose another id, or update it")
	case errors.Is(err, registry.ErrConflict):
		return secret.Errorf(secret.ReasonIntegrationChanged, "the integration has been changed since it was read; read it again and decide anew")
	case errors.Is(err, registry.ErrQuota):
		return secret.Errorf(secret.ReasonQuotaExceeded, "there are as many integrations as are allowed; delete one that nobody uses, or have the quota raised (registry.max_integrations)")
	case errors.Is(err, registry.ErrNotFound):
		return secret.Errorf(secret.ReasonIntegrationNotFound, "there is no integration of that id")
	case errors.Is(err, registry.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return secret.Errorf(secret.ReasonRegistryUnavailable, "the broker could not read its database or directory of integrations; wait, and have the operator look at it").WithCause(err)
	default:
		return err
	}
}

// present makes what is shown of a record.
func (s *Service) present(rec *registry.Record, lastUsed time.Time) Integration {
	doc := s.cfg.Kinds.DecodeDocument(rec.ID, rec.Document)
	in := Integration{
		Document: doc.Document, CredentialNames: rec.Credentials, ETag: rec.ETag,
		CreatedAt: rec.CreatedAt, UpdatedAt: rec.UpdatedAt, CreatedBy: rec.CreatedBy, UpdatedBy: rec.UpdatedBy,
		ReadOnly: rec.File != "", LastUsedAt: lastUsed,
	}
	in.Document.ID = rec.ID // also of a document that cannot be read
	if rec.Integration != nil {
		if live, err := s.cfg.Store.Get(rec.ID); err == nil {
			in.Revision = live.ReadRevision
		}
		in.Facts = rec.Integration.Facts()
		if len(rec.Document) == 0 { // the file has just been changed, and is served as it was
			in.Document.Kind, in.Document.DisplayName = rec.Integration.Kind, rec.Integration.DisplayName
		}
	}
	in.Problem = s.problem(rec)
	return in
}

// problem says what keeps an integration from being used as it stands, "" if
// nothing does.
func (s *Service) problem(rec *registry.Record) string {
	if len(rec.Faults) > 0 {
		texts := make([]string, len(rec.Faults))
		for i, f := range rec.Faults {
			texts[i] = strings.TrimPrefix(f.Path+": "+f.Text, ": ")
		}
		return strings.Join(texts, "; ")
	}
	if rec.Integration == nil {
		return ""
	}
	if faults := s.cfg.Placement.Check(rec.Integration.Kind, rec.Integration.Placement); len(faults) > 0 {
		return fmt.Sprintf("%s: %s", faults[0].Setting, faults[0].Text)
	}
	return ""
}

// lastUsedOf returns when one integration was used last, as lastUsed does.
func (s *Service) lastUsedOf(ctx context.Context, id string) time.Time {
	if s.cfg.Usage == nil {
		return time.Time{}
	}
	latest, err := s.cfg.Usage.Usage(ctx, id, time.Time{}, 1)
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "it cannot be found out when an integration was used last", "integration", id, "error", err)
	}
	if len(latest) == 0 {
		return time.Time{}
	}
	return latest[0].LastAt
}

// lastUsed returns when each integration was used last; nothing if that cannot be
// found out, which is no reason not to show the integrations.
func (s *Service) lastUsed(ctx context.Context) map[string]time.Time {
	if s.cfg.Usage == nil {
		return nil
	}
	at, err := s.cfg.Usage.LastUsed(ctx)
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "it cannot be found out when integrations were used last", "error", err)
		return nil
	}
	return at
}
