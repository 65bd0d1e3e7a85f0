package sqlstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// touch makes a transaction the only one that writes, until it ends, and tells
// readers of it. Every write begins with it.
func (s *Store) touch(ctx context.Context, t tx) error {
	if err := t.exec(ctx, `UPDATE registry_state SET revision = revision + 1, stamp = ? WHERE id = 1`, rand.Text()); err != nil {
		return err
	}
	if s.d.notify == "" {
		return nil
	}
	return t.exec(ctx, s.d.notify)
}

// Create implements registry.Store.
func (s *Store) Create(ctx context.Context, c registry.Change) (registry.Record, error) {
	return s.put(ctx, c, true)
}

// Update implements registry.Store.
func (s *Store) Update(ctx context.Context, c registry.Change) (registry.Record, error) {
	return s.put(ctx, c, false)
}

// row is one integration as its table has it.
type row struct {
	id, spec, etag       string
	createdAt, updatedAt int64
	createdBy, updatedBy string
}

const rowColumns = `id, spec, etag, created_at, created_by, updated_at, updated_by`

func (r *row) fields() []any {
	return []any{&r.id, &r.spec, &r.etag, &r.createdAt, &r.createdBy, &r.updatedAt, &r.updatedBy}
}

func (s *Store) put(ctx context.Context, c registry.Change, create bool) (registry.Record, error) {
	if !utf8.Valid(c.Document) || bytes.IndexByte(c.Document, 0) >= 0 {
		return registry.Record{}, invalid("", "the document is not UTF-8 text")
	}
	// The id first: everything else depends on what is there of it.
	id := registry.ParseDocument(c.Document, registry.DocumentConfig{}).ID
	if id == "" {
		return registry.Record{}, &registry.InvalidError{Faults: registry.ParseDocument(c.Document, registry.DocumentConfig{Files: s.cfg.Files}).Faults}
	}
	var rec registry.Record
	err := s.write(ctx, func(t tx) error {
		now, err := s.next(ctx, t, id, c, create)
		if err != nil {
			return err
		}
		w, err := s.judge(ctx, t, id, c)
		if err != nil {
			return err
		}
		if c.ValidateOnly {
			now.etag, now.createdAt, now.updatedAt = "", 0, 0
		} else if err := w.store(ctx, t, now, create); err != nil {
			return err
		}
		rec = now.record(w.parsed, w.names())
		if c.ValidateOnly {
			return errRollback
		}
		return nil
	})
	if err != nil {
		return registry.Record{}, err
	}
	if !c.ValidateOnly {
		s.follow(context.WithoutCancel(ctx))
	}
	return rec, nil
}

// Delete implements registry.Store.
func (s *Store) Delete(ctx context.Context, id, etag string) error {
	err := s.write(ctx, func(t tx) error {
		now, err := find(ctx, t, id)
		if err != nil {
			return err
		}
		if etag != "" && etag != now.etag {
			return registry.ErrConflict
		}
		return t.exec(ctx, `DELETE FROM integrations WHERE id = ?`, id) // and all that hangs on it
	})
	if err == nil {
		s.follow(context.WithoutCancel(ctx))
	}
	return err
}

// write runs do in a transaction that is the only one to write. What is not one
// of the registry's errors is the database's.
func (s *Store) write(ctx context.Context, do func(tx) error) error {
	err := inTx(ctx, s.db, s.d, s.d.write, func(t tx) error {
		if err := s.touch(ctx, t); err != nil {
			return err
		}
		return do(t)
	})
	var fault *registry.InvalidError
	switch {
	case err == nil, errors.As(err, &fault), errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrExists),
		errors.Is(err, registry.ErrConflict), errors.Is(err, registry.ErrQuota):
		return err
	default:
		return unavailable(err)
	}
}

func find(ctx context.Context, t tx, id string) (*row, error) {
	var r row
	err := t.row(ctx, `SELECT `+rowColumns+` FROM integrations WHERE id = ?`, id).Scan(r.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, registry.ErrNotFound
	}
	return &r, err
}

// next returns the row that a change makes, if what is there lets it.
func (s *Store) next(ctx context.Context, t tx, id string, c registry.Change, create bool) (*row, error) {
	at := s.cfg.Now().UnixMicro()
	r, err := find(ctx, t, id)
	switch {
	case create && err == nil:
		return nil, registry.ErrExists
	case create && errors.Is(err, registry.ErrNotFound):
		var n int
		if err := t.row(ctx, `SELECT count(*) FROM integrations`).Scan(&n); err != nil {
			return nil, err
		}
		if n >= s.cfg.MaxIntegrations {
			return nil, registry.ErrQuota
		}
		r = &row{id: id, createdAt: at, createdBy: string(c.By)}
	case err != nil:
		return nil, err
	case c.ETag != "" && c.ETag != r.etag:
		return nil, registry.ErrConflict
	}
	r.spec, r.etag, r.updatedAt, r.updatedBy = string(c.Document), rand.Text(), at, string(c.By)
	return r, nil
}

// written is what a change comes to.
type written struct {
	s      *Store
	given  map[string]secret.Value
	parsed registry.Parsed
	kept   []string // names of the credentials that were there before
}

// judge parses the document of a change with the credentials that it would have.
func (s *Store) judge(ctx context.Context, t tx, id string, c registry.Change) (*written, error) {
	rows, err := t.query(ctx, `SELECT integration_id, name, sealed FROM credentials WHERE integration_id = ?`, id)
	if err != nil {
		return nil, err
	}
	there, err := collect(rows, func(c *sealedCredential) []any { return []any{&c.integration, &c.name, &c.sealed} })
	if err != nil {
		return nil, err
	}
	w := &written{s: s, given: c.Credentials}
	credentials := make(map[string]registry.Credential)
	for _, sealed := range there {
		w.kept = append(w.kept, sealed.name)
		credentials[sealed.name] = s.opener(id, sealed.name, sealed.sealed)
	}
	for name, v := range c.Credentials {
		credentials[name] = func() ([]byte, error) { return v.RevealBytes(), nil }
	}
	w.parsed = registry.ParseDocument(c.Document, registry.DocumentConfig{Credentials: credentials, Files: s.cfg.Files})
	faults := w.parsed.Faults
	for _, name := range slices.Sorted(maps.Keys(c.Credentials)) {
		if text := w.faultOf(name); text != "" {
			faults = append(faults, strictyaml.Fault{File: "integration", Path: name, Text: text})
		}
	}
	if len(faults) > 0 {
		return nil, &registry.InvalidError{Faults: faults}
	}
	return w, nil
}

// faultOf says what is wrong with a credential that was given.
func (w *written) faultOf(name string) string {
	size := w.given[name].Len()
	switch {
	case !slices.Contains(w.parsed.Used, name) && w.parsed.Integration == nil:
		return "" // nobody can tell; the document's own faults come first
	case !slices.Contains(w.parsed.Used, name):
		return "the document has no use for this credential; leave it out, or change the document"
	case w.s.cfg.Sealer == nil:
		return "this broker keeps no credentials; set registry.key_file in its broker.yaml, or name a file"
	case size == 0:
		return "the credential is empty"
	case size > maxCredential:
		return "the credential is larger than 64 KiB"
	default:
		return ""
	}
}

// names are those of the credentials that there will be.
func (w *written) names() []string { return w.parsed.Used }

// store writes the integration, the credentials that were given, and takes out
// those that it has no use for any more.
func (w *written) store(ctx context.Context, t tx, r *row, create bool) error {
	var err error
	if create {
		err = t.exec(ctx, `INSERT INTO integrations (`+rowColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			r.id, r.spec, r.etag, r.createdAt, r.createdBy, r.updatedAt, r.updatedBy)
	} else {
		err = t.exec(ctx, `UPDATE integrations SET spec = ?, etag = ?, updated_at = ?, updated_by = ? WHERE id = ?`,
			r.spec, r.etag, r.updatedAt, r.updatedBy, r.id)
	}
	if err != nil {
		return err
	}
	for _, name := range w.kept {
		_, replaced := w.given[name]
		if !replaced && slices.Contains(w.parsed.Used, name) {
			continue
		}
		if err := t.exec(ctx, `DELETE FROM credentials WHERE integration_id = ? AND name = ?`, r.id, name); err != nil {
			return err
		}
	}
	for name, v := range w.given {
		b := v.RevealBytes()
		sealed, err := w.s.cfg.Sealer.Seal(b, place(r.id, name))
		clear(b)
		if err != nil {
			return err
		}
		if err := t.exec(ctx, `INSERT INTO credentials (integration_id, name, sealed) VALUES (?, ?, ?)`, r.id, name, sealed); err != nil {
			return err
		}
		// What the record hands out outlives the change's values.
		w.parsed.Integration.Credentials[name] = w.s.opener(r.id, name, sealed)
	}
	return nil
}

func invalid(path, text string) error {
	return &registry.InvalidError{Faults: strictyaml.Faults{{File: "integration", Path: path, Text: text}}}
}

// record is what may be told of a row.
func (r *row) record(p registry.Parsed, credentials []string) registry.Record {
	return registry.Record{
		ID: r.id, Document: []byte(r.spec), ETag: r.etag, Credentials: credentials,
		CreatedAt: instant(r.createdAt), UpdatedAt: instant(r.updatedAt),
		CreatedBy: principal(r.createdBy), UpdatedBy: principal(r.updatedBy),
		Integration: p.Integration, Faults: p.Faults,
	}
}

func instant(micro int64) time.Time {
	if micro == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micro).UTC()
}
