package sqlstore

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// usageChunk is the number of entries that one statement writes.
	usageChunk = 100
	// maxUsage is the maximum number of entries per integration. It is bounded because
	// callers choose the names of their connectors. See surplusUsage.
	maxUsage = 10_000
	// maxUsageText bounds the stored name of a connector and the stored reference, in
	// bytes.
	maxUsageText = 2048
)

// text replaces what one of the databases does not accept as text.
func text(s string) string {
	if len(s) > maxUsageText {
		s = s[:maxUsageText]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// MergeUsage implements registry.UsageStore.
func (s *Store) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	merged := make(map[string]registry.Usage, len(batch)) // by ID and UID
	for i := range batch {
		u := stored(&batch[i])
		key := u.ID() + u.UID
		if old, ok := merged[key]; ok {
			u = registry.MergeUsage(old, u)
		}
		merged[key] = u
	}
	// All replicas write in the same order, so that they cannot deadlock.
	ids := make([]string, 0, len(merged))
	integrations := make(map[string]bool)
	for id, u := range merged {
		ids = append(ids, id)
		integrations[u.Integration] = true
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(merged[a].Integration, merged[b].Integration), cmp.Compare(a, b))
	})
	for chunk := range slices.Chunk(ids, usageChunk) {
		if err := s.mergeChunk(ctx, chunk, merged); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(slices.Sorted(maps.Keys(integrations)), usageChunk) {
		if err := s.foldSurplus(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

// writeUsage runs statements in their own transaction.
func (s *Store) writeUsage(ctx context.Context, stmts ...stmt) error {
	return s.runUsage(ctx, batch{access: writing, first: func() []stmt { return stmts }})
}

// runUsage runs a batch that writes usage.
func (s *Store) runUsage(ctx context.Context, b batch) error {
	limited, cancel := s.bounded(ctx)
	defer cancel()
	err := s.d.run(limited, s.db, b)
	if ctx.Err() == nil && !s.usageOnly {
		s.wrote(uses, err)
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// mergeChunk merges entries into the table. It inserts those that are missing and locks all of
// them, so that no other replica changes them until they are written.
func (s *Store) mergeChunk(ctx context.Context, keys []string, merged map[string]registry.Usage) error {
	var rows []*usageRow
	ids := make([]any, len(keys))
	for i, key := range keys {
		u := merged[key]
		ids[i] = u.ID()
	}
	return s.runUsage(ctx, batch{
		access: writing,
		first: func() []stmt {
			rows = nil
			return []stmt{s.insertUsage(keys, merged), {
				args: ids, row: each(&rows, (*usageRow).state),
				query: `SELECT id, version, first_at, last_at, ` + s.versionsColumn() + ` FROM integration_usage
					WHERE id IN (?` + strings.Repeat(", ?", len(ids)-1) + `) ORDER BY integration_id, id` + s.d.forUpdate,
			}}
		},
		then: func() []stmt {
			byID := make(map[string]registry.Usage, len(rows))
			for _, r := range rows {
				byID[r.id] = r.usage()
			}
			results := make(map[string]registry.Usage, len(keys))
			for _, key := range keys {
				u := merged[key]
				if old, ok := byID[u.ID()]; ok {
					m := registry.MergeUsage(u, old)
					u.Version, u.Versions, u.FirstAt, u.LastAt = m.Version, m.Versions, m.FirstAt, m.LastAt
				}
				results[key] = u
			}
			return []stmt{s.updateUsage(keys, results)}
		},
	})
}

// usageValues returns the VALUES of entries, without the parentheses around, and their arguments. The
// casts tell PostgreSQL the types of the columns; column1 and so on are the names that both
// databases assign.
func (s *Store) usageValues(keys []string, usage map[string]registry.Usage) (values string, args []any) {
	var b strings.Builder
	args = make([]any, 0, 13*len(keys))
	for i, key := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("(" + strings.Repeat("CAST(? AS TEXT), ", 9) + "CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT), CAST(? AS TEXT))")
		u := usage[key]
		args = append(args, u.ID(), u.Integration, string(u.Principal), u.Connector, u.Store, u.Secret, u.Key, u.GrantID, u.Version,
			u.FirstAt.UnixMicro(), u.LastAt.UnixMicro(), u.UID, encodeVersions(u.Versions))
	}
	return b.String(), args
}

// insertUsage returns the statement that inserts the entries that are missing, unless their
// integrations are not stored.
func (s *Store) insertUsage(keys []string, usage map[string]registry.Usage) stmt {
	values, args := s.usageValues(keys, usage)
	column, value := "", ""
	if s.keepsVersions() {
		column, value = ", versions", ", column13"
	}
	return stmt{args: args, query: `
		INSERT INTO integration_usage (id, integration_id, principal, connector, store, secret, json_key, grant_id, version, first_at, last_at` + column + `)
		SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, column11` + value + `
		FROM (VALUES ` + values + `) AS v
		WHERE EXISTS (SELECT 1 FROM integrations WHERE integrations.id = column2 AND column12 IN ('', ` + s.uid + `))
		ON CONFLICT (id) DO NOTHING`}
}

// updateUsage returns the statement that replaces the times and versions of entries.
func (s *Store) updateUsage(keys []string, usage map[string]registry.Usage) stmt {
	values, args := s.usageValues(keys, usage)
	set := ""
	if s.keepsVersions() {
		set = ", versions = column13"
	}
	return stmt{args: args, query: `
		UPDATE integration_usage SET version = column9, first_at = column10, last_at = column11` + set + `
		FROM (VALUES ` + values + `) AS v
		WHERE integration_usage.id = column1 AND EXISTS (SELECT 1 FROM integrations WHERE integrations.id = column2 AND column12 IN ('', ` + s.uid + `))`}
}

// foldSurplus replaces the surplus entries of integrations by one entry for each
// principal, which records that the principal used the integration but not which secrets.
// Deleting the entries would make used secrets look unused.
func (s *Store) foldSurplus(ctx context.Context, integrations []string) error {
	var surplus []*usageRow
	return s.runUsage(ctx, batch{
		access: writing,
		first: func() []stmt {
			surplus = nil
			stmts := make([]stmt, len(integrations))
			for i, id := range integrations {
				stmts[i] = s.surplusUsage(id, &surplus)
			}
			return stmts
		},
		then: func() []stmt { return s.foldUsage(surplus) },
	})
}

// surplusUsage returns the statement that reads the entries to fold once an integration
// has more than maxUsage: all beyond nine tenths of maxUsage, so that folding is rare.
// Principals share the places: the k-th latest entry of each is kept before the k+1-th of
// any, so that a principal with many entries does not displace those of others.
func (s *Store) surplusUsage(integration string, surplus *[]*usageRow) stmt {
	most := s.maxUsage
	return stmt{
		args: []any{integration, integration, most, most - most/10},
		row: each(surplus, func(r *usageRow) []any {
			return []any{&r.id, &r.Integration, &r.principal, &r.first, &r.latest}
		}),
		query: `
		SELECT id, integration_id, principal, first_at, last_at FROM (
			SELECT ranked.*, row_number() OVER (ORDER BY nth, last_at DESC, id) AS place FROM (
				SELECT id, integration_id, principal, secret, first_at, last_at,
					row_number() OVER (PARTITION BY principal ORDER BY CASE WHEN secret = '' THEN 0 ELSE 1 END, last_at DESC, id) AS nth
				FROM integration_usage
				WHERE integration_id = ? AND EXISTS (SELECT 1 FROM integration_usage WHERE integration_id = ? ORDER BY last_at DESC LIMIT 1 OFFSET ?)
			) AS ranked
		) AS placed WHERE place > ? AND secret <> ''`,
	}
}

// foldUsage returns the statements that replace entries by one for each integration and
// principal, none if there are no entries.
func (s *Store) foldUsage(surplus []*usageRow) (stmts []stmt) {
	folded := make(map[string]registry.Usage)
	for _, r := range surplus {
		u := registry.Usage{Integration: r.Integration, Principal: principal(r.principal), FirstAt: instant(r.first), LastAt: instant(r.latest)}
		id := u.ID()
		if old, ok := folded[id]; ok {
			u = registry.MergeUsage(old, u)
		}
		folded[id] = u
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(folded)), usageChunk) {
		stmts = append(stmts, s.insertUsage(ids, folded), s.extendUsage(ids, folded))
	}
	for rows := range slices.Chunk(surplus, usageChunk) {
		args := make([]any, len(rows))
		for i, r := range rows {
			args[i] = r.id
		}
		stmts = append(stmts, stmt{args: args, query: `DELETE FROM integration_usage WHERE id IN (?` + strings.Repeat(", ?", len(rows)-1) + `)`})
	}
	return stmts
}

// extendUsage returns the statement that extends the times of entries without versions.
func (s *Store) extendUsage(keys []string, usage map[string]registry.Usage) stmt {
	values, args := s.usageValues(keys, usage)
	return stmt{args: args, query: `
		UPDATE integration_usage SET
			first_at = CASE WHEN column10 < first_at THEN column10 ELSE first_at END,
			last_at  = CASE WHEN column11 > last_at THEN column11 ELSE last_at END
		FROM (VALUES ` + values + `) AS v WHERE integration_usage.id = column1`}
}

// prune deletes usage that has exceeded its retention.
func (s *Store) prune(ctx context.Context) {
	before := s.cfg.Now().Add(-s.cfg.UsageRetention).UnixMicro()
	stmts := []stmt{{query: `DELETE FROM integration_usage WHERE last_at < ?`, args: []any{before}}}
	if s.keepsVersions() {
		stmts = append(stmts, stmt{query: `DELETE FROM usage_secrets WHERE read_at < ?`, args: []any{before}})
	}
	err := s.writeUsage(ctx, stmts...)
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("deleting expired usage failed", "error", err)
	}
}

// usageRow is a row of the integration_usage table.
type usageRow struct {
	registry.Usage
	id, principal string
	first, latest int64
	versions      string
}

// state are the columns that change.
func (r *usageRow) state() []any {
	return []any{&r.id, &r.Version, &r.first, &r.latest, &r.versions}
}

func (r *usageRow) all() []any {
	return append(r.state(), &r.Integration, &r.principal, &r.Connector, &r.Store, &r.Secret, &r.Key, &r.GrantID)
}

// allColumns are the columns of usageRow.all.
func (s *Store) allColumns() string {
	return `id, version, first_at, last_at, ` + s.versionsColumn() + `, integration_id, principal, connector, store, secret, json_key, grant_id`
}

// usage returns the entry in a row.
func (r *usageRow) usage() registry.Usage {
	u := r.Usage
	u.Principal, u.FirstAt, u.LastAt = principal(r.principal), instant(r.first), instant(r.latest)
	u.Versions = decodeVersions(r.versions, u.Version, u.LastAt)
	return u
}

// Usage implements registry.UsageStore.
func (s *Store) Usage(ctx context.Context, integration string, since time.Time, limit int) ([]registry.Usage, error) {
	if limit <= 0 {
		limit = math.MaxInt32
	}
	from := int64(math.MinInt64)
	if !since.IsZero() {
		from = since.UnixMicro()
	}
	return s.usages(ctx, stmt{args: []any{integration, from, limit}, query: `SELECT ` + s.allColumns() + `
		FROM integration_usage WHERE integration_id = ? AND last_at >= ? ORDER BY last_at DESC, id LIMIT ?`})
}

// usages returns the entries that a statement selects with allColumns.
func (s *Store) usages(ctx context.Context, st stmt) ([]registry.Usage, error) {
	all, err := s.readUsage(ctx, st, (*usageRow).all)
	if err != nil {
		return nil, err
	}
	usage := make([]registry.Usage, len(all))
	for i, r := range all {
		usage[i] = r.usage()
	}
	return usage, nil
}

// LastUsed implements registry.UsageStore.
func (s *Store) LastUsed(ctx context.Context) (map[string]time.Time, error) {
	// One index lookup per integration.
	all, err := s.readUsage(ctx, stmt{query: `
		SELECT id, coalesce((SELECT max(last_at) FROM integration_usage WHERE integration_id = integrations.id), 0) FROM integrations`},
		func(r *usageRow) []any { return []any{&r.Integration, &r.latest} })
	if err != nil {
		return nil, err
	}
	last := make(map[string]time.Time, len(all))
	for _, r := range all {
		if r.latest != 0 {
			last[r.Integration] = instant(r.latest)
		}
	}
	return last, nil
}

// Recording implements registry.UsageStore.
func (s *Store) Recording() registry.Recording {
	return registry.Recording{Since: s.cfg.Now().Add(-s.cfg.UsageRetention)}
}

func (s *Store) readUsage(ctx context.Context, st stmt, fields func(*usageRow) []any) ([]*usageRow, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var all []*usageRow
	st.row = each(&all, fields)
	if err := s.d.alone(ctx, s.db, st); err != nil {
		return nil, unavailable(err)
	}
	return all, nil
}
