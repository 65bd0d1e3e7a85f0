package manage

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Deny adds an entry to the deny list and returns it as stored.
//
// It refuses an entry that denies the caller, unless forced. The caller owns all
// integrations, so without force at least one owner remains who can end the denial.
func (s *Service) Deny(ctx context.Context, who Caller, e denial.Entry, o WriteOptions) (denial.Entry, error) {
	op := s.begin(who, methodDeny, "")
	e, err := s.prepareDenial(who, e, o)
	if err != nil {
		return denial.Entry{}, op.answer(ctx, err)
	}
	op.describe(&e)
	if o.ValidateOnly {
		op.note = "validate only: " + op.note
		return e, op.answer(ctx, nil)
	}
	c := &audit.Change{Before: entryJSON(s.stored(e.Subject)), After: entryJSON(&e), Forced: o.Force}
	err = op.change(ctx, c, func(ctx context.Context) (err error) {
		e, err = s.cfg.DenialStore.Deny(ctx, e)
		return denialError(err)
	})
	return e, err
}

func (s *Service) prepareDenial(who Caller, e denial.Entry, o WriteOptions) (denial.Entry, error) {
	if err := s.mayDeny(who.Principal, authz.ToDeny); err != nil {
		return e, err
	}
	e, err := e.Canonical()
	if fault, ok := errors.AsType[*denial.Fault](err); ok {
		return e, secret.Errorf(secret.ReasonInvalidRequest, "%s", fault.Error())
	}
	now := s.cfg.Now()
	if e.Expired(now) {
		return e, secret.Errorf(secret.ReasonInvalidRequest, "expire_time: expected a time in the future; check the clocks of this machine and the broker")
	}
	e.CreatedAt, e.CreatedBy = now.UTC().Truncate(time.Microsecond), who.Principal
	caller := denial.Certificate{Principal: who.Principal, SHA256: who.CertificateSHA256, Serial: who.CertificateSerial, Issuer: who.CertificateIssuer}
	if e.Denies(caller) && !o.Force {
		return e, secret.Errorf(secret.ReasonOwnerLockout,
			"this would deny the caller itself, and the caller could not end the denial; use another owner's certificate, deny only the leaked certificate by its fingerprint, or force it")
	}
	return e, s.hasDenialStore()
}

// Undeny ends a denial.
func (s *Service) Undeny(ctx context.Context, who Caller, subject denial.Subject, o WriteOptions) error {
	op := s.begin(who, methodUndeny, "")
	old, err := s.findDenial(who.Principal, subject)
	if err != nil {
		return op.answer(ctx, err)
	}
	op.describe(old)
	if o.ValidateOnly {
		op.note = "validate only: " + op.note
		return op.answer(ctx, nil)
	}
	return op.change(ctx, &audit.Change{Before: entryJSON(old)}, func(ctx context.Context) error {
		return denialError(s.cfg.DenialStore.Undeny(ctx, old.Subject))
	})
}

// findDenial returns the entry of the database with a subject. An entry that another replica
// has just added may be missing for up to a second.
func (s *Service) findDenial(who authz.Principal, subject denial.Subject) (*denial.Entry, error) {
	if err := s.mayDeny(who, authz.ToDeny); err != nil {
		return nil, err
	}
	subject, err := subject.Canonical()
	if fault, ok := errors.AsType[*denial.Fault](err); ok {
		return nil, secret.Errorf(secret.ReasonInvalidRequest, "%s", fault.Error())
	}
	if old := s.stored(subject); old != nil {
		return old, s.hasDenialStore()
	}
	if s.cfg.Denials.Current().Get(subject) != nil {
		return nil, secret.Errorf(secret.ReasonIntegrationReadOnly, "this denial is in the broker's deny file (denials.file in secretbroker.yaml); remove it there")
	}
	return nil, denialError(denial.ErrNotFound)
}

// stored returns the entry in the database, as last read, or nil.
func (s *Service) stored(subject denial.Subject) *denial.Entry {
	for i, e := range s.cfg.Denials.Current().Entries() {
		if e.Subject == subject && !e.InFile {
			return &s.cfg.Denials.Current().Entries()[i]
		}
	}
	return nil
}

// Denials returns a page of the deny list, sorted by subject, and the token of the next page,
// "" if there is none.
func (s *Service) Denials(ctx context.Context, who Caller, size int, token string) (entries []denial.Entry, next string, err error) {
	op := s.begin(who, methodDenials, "")
	entries, next, err = s.denials(who.Principal, size, token)
	if err := op.answer(ctx, err); err != nil {
		return nil, "", err
	}
	return entries, next, nil
}

func (s *Service) denials(who authz.Principal, size int, token string) (entries []denial.Entry, next string, err error) {
	if err := s.mayDeny(who, authz.ToListDenials); err != nil {
		return nil, "", err
	}
	if size, err = pageSize(size); err != nil {
		return nil, "", err
	}
	after, err := openToken(token, methodDenials)
	if err != nil {
		return nil, "", err
	}
	all := s.cfg.Denials.Current().Entries()
	begin := 0
	if after != "" {
		// The token is the last entry of the page before: its subject, and whether it was in
		// the file, because the file and the database may both have a subject.
		begin = slices.IndexFunc(all, func(e denial.Entry) bool { return positionOf(&e) > after })
	}
	if begin < 0 {
		return nil, "", nil
	}
	end := min(begin+size, len(all))
	if end < len(all) {
		next = makeToken(positionOf(&all[end-1]), methodDenials)
	}
	return all[begin:end], next, nil
}

// positionOf returns a text whose order is that of the list.
func positionOf(e *denial.Entry) string {
	if e.InFile {
		return e.Subject.String() + "\x000"
	}
	return e.Subject.String() + "\x001"
}

func (s *Service) mayDeny(who authz.Principal, act authz.Action) error {
	if !(authz.Authority{Organisation: s.cfg.Roles()}).May(who, act) {
		return secret.Errorf(secret.ReasonAccessDenied, "this requires %s", needs[act])
	}
	return nil
}

func (s *Service) hasDenialStore() error {
	if s.cfg.DenialStore == nil {
		return secret.Errorf(secret.ReasonIntegrationReadOnly, "this broker has no database that could store denials; add the denial to its deny file (denials.file in secretbroker.yaml)")
	}
	return nil
}

func denialError(err error) error {
	switch {
	case errors.Is(err, denial.ErrNotFound):
		return secret.Errorf(secret.ReasonDenialNotFound, "there is no such denial; list the denials to see their subjects")
	case errors.Is(err, denial.ErrFull):
		return secret.Errorf(secret.ReasonQuotaExceeded, "the deny list has its maximum of %d denials; remove some", denial.MaxEntries)
	default:
		return errorOf("", err)
	}
}

// describe puts what a denial is about into the records of the call.
func (op *operation) describe(e *denial.Entry) {
	op.subject, op.note = e.Principal, e.Subject.String()
}

// entryJSON is an entry as the audit log has it; nil for none.
func entryJSON(e *denial.Entry) json.RawMessage {
	if e == nil {
		return nil
	}
	data, err := json.Marshal(struct {
		Principal authz.Principal `json:"principal,omitempty"`
		SHA256    string          `json:"certificate_sha256,omitempty"`
		Serial    string          `json:"certificate_serial,omitempty"`
		Issuer    string          `json:"certificate_issuer,omitempty"`
		Reason    string          `json:"reason,omitempty"`
		Expire    time.Time       `json:"expire_time,omitzero"`
	}{e.Principal, e.SHA256, e.Serial, e.Issuer, e.Reason, e.ExpiresAt})
	if err != nil {
		return nil // cannot happen: these are texts and a time
	}
	return data
}
