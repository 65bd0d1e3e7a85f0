package sqlstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// change returns the statements that every write begins with, once per integration. They
// lock the row of registry_state, which makes the transaction the only writer until it
// ends, and they record the change for readers. revision receives the number of the
// change.
func (s *Store) change(id string, revision *int64) []stmt {
	state := stmt{query: `UPDATE registry_state SET revision = revision + 1, stamp = ? WHERE id = 1 RETURNING revision`, args: []any{rand.Text()}, row: into(revision)}
	if !s.logged {
		return []stmt{state}
	}
	state.query = `UPDATE registry_state SET revision = revision + 1, previous = stamp, stamp = ? WHERE id = 1 RETURNING revision`
	return []stmt{
		state,
		{query: `INSERT INTO registry_changes (revision, stamp, previous, integration_id) SELECT revision, stamp, previous, CAST(? AS TEXT) FROM registry_state WHERE id = 1`, args: []any{id}},
		{query: `DELETE FROM registry_changes WHERE revision <= (SELECT revision FROM registry_state WHERE id = 1) - CAST(? AS BIGINT)`, args: []any{keptChanges}},
	}
}

// keptChanges is the number of changes that the log keeps. A reader that is further behind
// reads the complete list.
const keptChanges = 10_000

// notify appends the statement that notifies the other replicas.
func (s *Store) notify(stmts []stmt) []stmt {
	if s.d.notify == "" {
		return stmts
	}
	return append(stmts, stmt{query: s.d.notify})
}

// Create implements registry.Store.
func (s *Store) Create(ctx context.Context, c registry.Change) (registry.Record, error) {
	return s.put(ctx, c, true)
}

// Update implements registry.Store.
func (s *Store) Update(ctx context.Context, c registry.Change) (registry.Record, error) {
	return s.put(ctx, c, false)
}

// row is a row of the integrations table.
type row struct {
	id, uid, spec, etag  string
	createdAt, updatedAt int64
	createdBy, updatedBy string
}

const rowColumns = `id, spec, etag, created_at, created_by, updated_at, updated_by`

// columns returns the columns of row.fields.
func (s *Store) columns() string { return rowColumns + ", " + s.uid }

func (r *row) fields() []any {
	return []any{&r.id, &r.spec, &r.etag, &r.createdAt, &r.createdBy, &r.updatedAt, &r.updatedBy, &r.uid}
}

func (r *row) values() []any {
	return []any{r.id, r.spec, r.etag, r.createdAt, r.createdBy, r.updatedAt, r.updatedBy}
}

// errRaced means that the integration changed between the read and the write of an
// operation.
var errRaced = errors.New("sqlstore: the integration has changed since it was read")

func (s *Store) put(ctx context.Context, c registry.Change, create bool) (registry.Record, error) {
	if !utf8.Valid(c.Document) || bytes.IndexByte(c.Document, 0) >= 0 {
		return registry.Record{}, invalid("", "the document is not UTF-8 text")
	}
	// The id comes first: everything else depends on what is stored under it.
	id := c.ID
	if !integration.ValidID(id) {
		id = s.cfg.Kinds.ParseDocument(c.Document, integration.DocumentConfig{}).ID
	}
	if id == "" {
		return registry.Record{}, &registry.InvalidError{Faults: s.cfg.Kinds.ParseDocument(c.Document, integration.DocumentConfig{Files: s.cfg.Files}).Faults}
	}
	if c.ValidateOnly {
		return s.validate(ctx, id, c, create)
	}
	var rec registry.Record
	err := s.retryRaced(ctx, func(ctx context.Context) (err error) {
		rec, err = s.putOnce(ctx, id, c, create)
		return err
	})
	return rec, err
}

// racing bounds the attempts of a write that competes with others. In every round one of
// the competing writes succeeds.
const racing = 100

// retryRaced retries a write until it does not lose a race. It wraps every error that is
// not one of the registry's as an error of the database.
func (s *Store) retryRaced(ctx context.Context, write func(context.Context) error) error {
	limited, cancel := s.bounded(ctx)
	defer cancel()
	var err error
	for range racing {
		if err = write(limited); !errors.Is(err, errRaced) {
			break
		}
	}
	var fault *registry.InvalidError
	switch {
	case errors.Is(err, errRaced):
		return registry.ErrConflict
	case err == nil, errors.As(err, &fault), errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrExists),
		errors.Is(err, registry.ErrConflict), errors.Is(err, registry.ErrQuota):
		return err
	default:
		if ctx.Err() == nil {
			s.wrote(changes, err)
		}
		return unavailable(err)
	}
}

// validate checks a change against the snapshot.
func (s *Store) validate(ctx context.Context, id string, c registry.Change, create bool) (registry.Record, error) {
	n, err := s.readable(ctx)
	if err != nil {
		return registry.Record{}, err
	}
	there := found{count: len(n.entries)}
	if k := n.get(id); k != nil {
		there.row, there.credentials = &k.row, k.credentials
	}
	next, err := s.next(&there, id, c, create)
	if err != nil {
		return registry.Record{}, err
	}
	w, err := s.judge(there.credentials, id, c)
	if err != nil {
		return registry.Record{}, err
	}
	if next.etag, next.createdAt, next.updatedAt = "", 0, 0; create {
		next.uid = ""
	}
	return next.record(w.parsed, w.names()), nil
}

// putOnce reads the integration, and writes the change unless the integration has changed
// in the meantime. That takes two round trips, and no lock is held between them.
func (s *Store) putOnce(ctx context.Context, id string, c registry.Change, create bool) (registry.Record, error) {
	there, err := s.find(ctx, id)
	if err != nil {
		return registry.Record{}, err
	}
	next, err := s.next(there, id, c, create)
	if err != nil {
		return registry.Record{}, err
	}
	w, err := s.judge(there.credentials, id, c)
	if err != nil {
		return registry.Record{}, err
	}
	stmts, err := w.statements(ctx, next, there.row)
	if err != nil {
		return registry.Record{}, err
	}
	if err := s.write(ctx, id, stmts); err != nil {
		return registry.Record{}, err
	}
	w.parsed.Integration.UID = next.uid
	return next.record(w.parsed, w.names()), nil
}

// write commits a change and puts it into effect in this Store. The first of stmts must
// change one row, or none if the integration has changed since it was read.
func (s *Store) write(ctx context.Context, id string, stmts []stmt) error {
	var revision, changed int64
	stmts[0].changed = &changed
	err := s.d.run(ctx, s.db, batch{access: writing, first: func() []stmt {
		changed = 0
		return s.notify(append(s.change(id, &revision), stmts...))
	}})
	if err != nil {
		return err
	}
	s.wrote(changes, nil)
	if changed == 0 {
		return errRaced
	}
	s.followTo(context.WithoutCancel(ctx), revision)
	return nil
}

// followTo calls follow unless the snapshot already includes the revision, for example
// because another write has loaded it.
func (s *Store) followTo(ctx context.Context, revision int64) {
	if s.current.Load().revision < revision {
		_ = s.follow(ctx, true) // follow records an outage
	}
}

// Delete implements registry.Store.
func (s *Store) Delete(ctx context.Context, id, etag string) error {
	return s.retryRaced(ctx, func(ctx context.Context) error {
		there, err := s.find(ctx, id)
		switch {
		case err != nil:
			return err
		case there.row == nil:
			return registry.ErrNotFound
		case etag != "" && etag != there.row.etag:
			return registry.ErrConflict
		}
		return s.write(ctx, id, []stmt{
			{query: `DELETE FROM integrations WHERE id = ? AND etag = ?`, args: []any{id, there.row.etag}}, // cascades to credentials and usage
		})
	})
}

// found is what is stored about an integration.
type found struct {
	row         *row // nil if it does not exist
	credentials map[string]integration.Credential
	count       int // of all integrations
}

// find reads an integration.
func (s *Store) find(ctx context.Context, id string) (*found, error) {
	var f found
	var rows []*row
	var sealed []*sealedCredential
	err := s.d.run(ctx, s.db, batch{first: func() []stmt {
		f, rows, sealed = found{}, nil, nil
		return []stmt{
			{query: `SELECT ` + s.columns() + ` FROM integrations WHERE id = ?`, args: []any{id}, row: each(&rows, (*row).fields)},
			{query: `SELECT integration_id, name, sealed FROM credentials WHERE integration_id = ?`, args: []any{id}, row: each(&sealed, (*sealedCredential).fields)},
			{query: `SELECT count(*) FROM integrations`, row: into(&f.count)},
		}
	}})
	if len(rows) > 0 {
		f.row = rows[0]
	}
	f.credentials = make(map[string]integration.Credential, len(sealed))
	for _, c := range sealed {
		f.credentials[c.name] = s.opener(c.integration, c.name, c.sealed)
	}
	return &f, err
}

// next returns the row that results from a change, or an error if the change is not
// allowed.
func (s *Store) next(f *found, id string, c registry.Change, create bool) (*row, error) {
	at := s.cfg.Now().UnixMicro()
	r := row{id: id, createdAt: at, createdBy: string(c.By)}
	switch {
	case create && f.row != nil:
		return nil, registry.ErrExists
	case create && f.count >= s.cfg.MaxIntegrations:
		return nil, registry.ErrQuota
	case create:
		r.uid = integration.NewUUID()
	case f.row == nil:
		return nil, registry.ErrNotFound
	case c.ETag != "" && c.ETag != f.row.etag:
		return nil, registry.ErrConflict
	default:
		r = *f.row
	}
	r.spec, r.etag, r.updatedAt, r.updatedBy = string(c.Document), rand.Text(), at, string(c.By)
	return &r, nil
}

// written is the result of judging a change.
type written struct {
	s      *Store
	given  map[string]secret.Value
	parsed integration.Parsed
	kept   []string // names of the credentials that are kept
}

// judge parses the document of a change together with the credentials that the integration
// would have.
func (s *Store) judge(there map[string]integration.Credential, id string, c registry.Change) (*written, error) {
	w := &written{s: s, given: c.Credentials, kept: slices.Sorted(maps.Keys(there))}
	credentials := make(map[string]integration.Credential, len(there)+len(c.Credentials))
	maps.Copy(credentials, there)
	for name, v := range c.Credentials {
		credentials[name] = func(context.Context) ([]byte, error) { return v.RevealBytes(), nil }
	}
	w.parsed = s.cfg.Kinds.ParseDocument(c.Document, integration.DocumentConfig{Credentials: credentials, Files: s.cfg.Files})
	faults := w.parsed.Faults
	if w.parsed.ID != id && len(faults) == 0 {
		return nil, invalid("id", "the document's id differs from the change's")
	}
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

// faultOf returns what is wrong with a given credential, or "".
func (w *written) faultOf(name string) string {
	size := w.given[name].Len()
	switch {
	case !slices.Contains(w.parsed.Used, name) && w.parsed.Integration == nil:
		return "" // unknown until the document is valid
	case !slices.Contains(w.parsed.Used, name):
		return "the document does not use this credential; remove it, or change the document"
	case w.s.cfg.Sealer == nil:
		return "this broker does not store credentials; set registry.seal.key_file in its secretbroker.yaml, or refer to a file instead"
	case size == 0:
		return "the credential is empty"
	case size > maxCredential:
		return "the credential is larger than 64 KiB"
	default:
		return ""
	}
}

// names returns the names of the credentials after the change.
func (w *written) names() []string { return w.parsed.Used }

// statements writes the integration over was (nil if it does not exist), writes the given
// credentials, and deletes those that are no longer used. All but the first have no effect
// if the first changes no row.
func (w *written) statements(ctx context.Context, r, was *row) ([]stmt, error) {
	stmts := make([]stmt, 0, 1+len(w.kept)+len(w.given))
	if was == nil {
		stmts = append(stmts, w.s.insert(r))
	} else {
		stmts = append(stmts, stmt{
			query: `UPDATE integrations SET spec = ?, etag = ?, updated_at = ?, updated_by = ? WHERE id = ? AND etag = ?`,
			args:  []any{r.spec, r.etag, r.updatedAt, r.updatedBy, r.id, was.etag},
		})
	}
	const written = `EXISTS (SELECT 1 FROM integrations WHERE id = CAST(? AS TEXT) AND etag = CAST(? AS TEXT))`
	for _, name := range w.kept {
		if _, replaced := w.given[name]; replaced || !slices.Contains(w.parsed.Used, name) {
			stmts = append(stmts, stmt{
				query: `DELETE FROM credentials WHERE integration_id = ? AND name = ? AND ` + written,
				args:  []any{r.id, name, r.id, r.etag},
			})
		}
	}
	for name, v := range w.given {
		b := v.RevealBytes()
		sealed, err := w.s.cfg.Sealer.Seal(ctx, b, associatedData(r.id, name))
		clear(b)
		if err != nil {
			return nil, err
		}
		stmts = append(stmts, stmt{
			query: `INSERT INTO credentials (integration_id, name, sealed) SELECT CAST(? AS TEXT), CAST(? AS TEXT), ` + w.s.d.bytes + ` WHERE ` + written,
			args:  []any{r.id, name, sealed, r.id, r.etag},
		})
		// The record returned outlives the values in the change.
		w.parsed.Integration.Credentials[name] = w.s.opener(r.id, name, sealed)
	}
	return stmts, nil
}

// insert returns the statement that creates an integration unless the id exists or the
// maximum number is reached.
func (s *Store) insert(r *row) stmt {
	columns, values := rowColumns, `CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS BIGINT), CAST(? AS TEXT)`
	args := r.values()
	if s.cfg.program >= uidVersion {
		columns, values, args = columns+`, uid`, values+`, CAST(? AS TEXT)`, append(args, r.uid)
	}
	return stmt{
		query: `INSERT INTO integrations (` + columns + `) SELECT ` + values + `
			WHERE (SELECT count(*) FROM integrations) < CAST(? AS BIGINT) ON CONFLICT (id) DO NOTHING`,
		args: append(args, s.cfg.MaxIntegrations),
	}
}

func invalid(path, text string) error {
	return &registry.InvalidError{Faults: strictyaml.Faults{{File: "integration", Path: path, Text: text}}}
}
