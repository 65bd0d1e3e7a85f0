package sqlstore

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// keepsVersions reports whether the tables have the versions of uses. It is false only for a
// program that behaves like an older release.
func (s *Store) keepsVersions() bool { return s.cfg.program >= usageVersionsVersion }

// versionsColumn is the column of the versions, or its default.
func (s *Store) versionsColumn() string {
	if s.keepsVersions() {
		return "versions"
	}
	return "''"
}

// storedVersion is the JSON of a registry.VersionUse. Times are in microseconds since the
// Unix epoch; 0 is unknown.
type storedVersion struct {
	Version   string `json:"v"`
	FirstAt   int64  `json:"f,omitempty"`
	LastAt    int64  `json:"l"`
	RequestID string `json:"r,omitempty"`
	Sequence  uint64 `json:"s,omitempty"`
	Replica   string `json:"b,omitempty"`
}

func encodeVersions(all []registry.VersionUse) string {
	if len(all) == 0 {
		return ""
	}
	list := make([]storedVersion, len(all))
	for i, v := range all {
		list[i] = storedVersion{v.Version, microOf(v.FirstAt), microOf(v.LastAt), v.RequestID, v.Sequence, v.Replica}
	}
	text, err := json.Marshal(list)
	if err != nil { // cannot happen for strings and numbers
		return ""
	}
	return string(text)
}

func microOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// decodeVersions returns the versions of an entry whose last read, at lastAt, returned last.
// Other releases may have written last and lastAt without the text.
func decodeVersions(text, last string, lastAt time.Time) []registry.VersionUse {
	if last == "" {
		return nil
	}
	var list []storedVersion
	if text != "" && json.Unmarshal([]byte(text), &list) != nil {
		list = nil // changed by hand
	}
	all := make([]registry.VersionUse, 0, len(list)+1)
	for _, v := range list {
		all = append(all, registry.VersionUse{Version: v.Version, FirstAt: instant(v.FirstAt), LastAt: instant(v.LastAt), RequestID: v.RequestID, Sequence: v.Sequence, Replica: v.Replica})
	}
	i := slices.IndexFunc(all, func(v registry.VersionUse) bool { return v.Version == last })
	if i < 0 {
		all = append(all, registry.VersionUse{Version: last, LastAt: lastAt})
	} else if all[i].LastAt.Before(lastAt) {
		all[i].LastAt = lastAt
	}
	return registry.LastVersions(all)
}

// stored returns an entry as the databases store it.
func stored(u *registry.Usage) registry.Usage {
	v := *u
	v.Connector, v.Store, v.Secret, v.Key, v.Version = text(u.Connector), text(u.Store), text(u.Secret), text(u.Key), text(u.Version)
	v.FirstAt, v.LastAt = instant(u.FirstAt.UnixMicro()), instant(u.LastAt.UnixMicro())
	v.Versions = slices.Clone(u.Versions)
	for i := range v.Versions {
		one := &v.Versions[i]
		one.Version, one.Replica = text(one.Version), text(one.Replica)
		one.FirstAt, one.LastAt = instant(microOf(one.FirstAt)), instant(microOf(one.LastAt))
	}
	return registry.MergeUsage(v, v)
}

// UsagePage implements registry.UsageStore.
func (s *Store) UsagePage(ctx context.Context, q registry.UsageQuery) ([]registry.Usage, error) {
	if len(q.Integrations) == 0 {
		return nil, nil
	}
	args := make([]any, 0, len(q.Integrations)+6)
	for _, id := range q.Integrations {
		args = append(args, id)
	}
	condition := ""
	if q.Secret != "" {
		condition = " AND secret = ?"
		args = append(args, text(q.Secret))
	}
	args = append(args, q.AfterIntegration, q.AfterIntegration, q.AfterID, q.Limit)
	return s.usages(ctx, stmt{args: args, query: `SELECT ` + s.allColumns() + `
		FROM integration_usage WHERE integration_id IN (?` + strings.Repeat(", ?", len(q.Integrations)-1) + `)` + condition + `
		AND (integration_id > ? OR integration_id = ? AND id > ?) ORDER BY integration_id, id LIMIT ?`})
}

// CountVersions implements registry.UsageStore.
func (s *Store) CountVersions(ctx context.Context, limit int) ([]registry.VersionCount, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var rows []*registry.VersionCount
	err := s.d.alone(ctx, s.db, stmt{
		args: []any{limit},
		query: `SELECT integration_id, store, secret, version, count(*) FROM integration_usage WHERE secret <> ''
			GROUP BY integration_id, store, secret, version LIMIT ?`,
		row: each(&rows, func(c *registry.VersionCount) []any {
			return []any{&c.Integration, &c.Store, &c.Secret, &c.Version, &c.Count}
		}),
	})
	if err != nil {
		return nil, unavailable(err)
	}
	return values(rows), nil
}

func values[T any](rows []*T) []T {
	all := make([]T, len(rows))
	for i, r := range rows {
		all[i] = *r
	}
	return all
}

// MergeSeen implements registry.UsageStore. A read in the future is that of a clock that was
// set back.
func (s *Store) MergeSeen(ctx context.Context, all []registry.Seen) error {
	if !s.keepsVersions() {
		return nil
	}
	// All replicas write in the same order, so that they cannot deadlock.
	sorted := make(map[string]registry.Seen, len(all)) // by ID and UID
	for _, v := range all {
		v.Store, v.Secret, v.Version = text(v.Store), text(v.Secret), text(v.Version)
		sorted[secretID(&v)+v.UID] = v
	}
	for chunk := range slices.Chunk(sortedKeys(sorted), usageChunk) {
		args := make([]any, 0, 7*len(chunk)+1)
		for _, key := range chunk {
			v := sorted[key]
			args = append(args, secretID(&v), v.Integration, v.Store, v.Secret, v.Version, v.ReadAt.UnixMicro(), v.UID)
		}
		row := "(" + strings.Repeat("CAST(? AS TEXT), ", 5) + "CAST(? AS BIGINT), CAST(? AS TEXT))"
		args = append(args, s.cfg.Now().UnixMicro())
		if err := s.writeUsage(ctx, stmt{args: args, query: `
			INSERT INTO usage_secrets (id, integration_id, store, secret, version, read_at)
			SELECT column1, column2, column3, column4, column5, column6
			FROM (VALUES ` + row + strings.Repeat(", "+row, len(chunk)-1) + `) AS v
			WHERE EXISTS (SELECT 1 FROM integrations WHERE integrations.id = column2 AND column7 IN ('', ` + s.uid + `))
			ON CONFLICT (id) DO UPDATE SET version = excluded.version, read_at = excluded.read_at
			WHERE excluded.read_at >= usage_secrets.read_at OR usage_secrets.read_at > CAST(? AS BIGINT)`}); err != nil {
			return err
		}
	}
	return nil
}

// secretID identifies a secret of an integration.
func secretID(v *registry.Seen) string {
	u := registry.Usage{Integration: v.Integration, Store: v.Store, Secret: v.Secret}
	return u.ID()
}

// seenPrefix is the number of characters by which secrets are indexed: names can be longer
// than an index takes.
const seenPrefix = 200

// Seen implements registry.UsageStore.
func (s *Store) Seen(ctx context.Context, secrets []string) ([]registry.Seen, error) {
	if !s.keepsVersions() || secrets != nil && len(secrets) == 0 {
		return nil, nil
	}
	st := stmt{query: `SELECT integration_id, store, secret, version, read_at FROM usage_secrets`}
	if secrets != nil {
		in := "(?" + strings.Repeat(", ?", len(secrets)-1) + ")"
		st.query += " WHERE substr(secret, 1, 200) IN " + in + " AND secret IN " + in
		for _, name := range secrets {
			st.args = append(st.args, prefixOf(text(name)))
		}
		for _, name := range secrets {
			st.args = append(st.args, text(name))
		}
	}
	type row struct {
		registry.Seen
		readAt int64
	}
	var rows []*row
	st.row = each(&rows, func(r *row) []any { return []any{&r.Integration, &r.Store, &r.Secret, &r.Version, &r.readAt} })
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	if err := s.d.alone(ctx, s.db, st); err != nil {
		return nil, unavailable(err)
	}
	all := make([]registry.Seen, len(rows))
	for i, r := range rows {
		all[i] = r.Seen
		all[i].ReadAt = instant(r.readAt)
	}
	return all, nil
}

func prefixOf(name string) string {
	if r := []rune(name); len(r) > seenPrefix {
		return string(r[:seenPrefix])
	}
	return name
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
