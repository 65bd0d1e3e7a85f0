package sqlstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math"
	"slices"
	"strconv"
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

// usageID identifies an entry. It contains the lengths of the columns, so that different
// columns never result in the same ID. Without a grant's id it is the ID of releases before
// schema version 4, which did not record it.
func usageID(u *registry.Usage) string {
	h := sha256.New()
	columns := []string{u.Integration, string(u.Principal), u.Connector, u.Store, u.Secret, u.Key, u.GrantID}
	if u.GrantID == "" {
		columns = columns[:len(columns)-1]
	}
	for _, s := range columns {
		h.Write([]byte(strconv.Itoa(len(s)) + ":" + s))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// text replaces what one of the databases does not accept as text.
func text(s string) string {
	if len(s) > maxUsageText {
		s = s[:maxUsageText]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// MergeUsage implements registry.UsageStore.
func (s *Store) MergeUsage(ctx context.Context, batch []registry.Usage) error {
	merged := make(map[string]registry.Usage, len(batch)) // by usageID and UID
	for _, u := range batch {
		u.Connector, u.Store, u.Secret, u.Key, u.Version = text(u.Connector), text(u.Store), text(u.Secret), text(u.Key), text(u.Version)
		id := usageID(&u) + u.UID
		if old, ok := merged[id]; ok {
			u = registry.MergeUsage(old, u)
		}
		merged[id] = u
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
		if err := s.writeUsage(ctx, s.upsertUsage(chunk, merged)); err != nil {
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

// upsertUsage returns the statement that merges entries into the table. The casts in the
// first entry tell PostgreSQL the types of the columns; column1 and so on are the names
// that both databases assign.
func (s *Store) upsertUsage(ids []string, merged map[string]registry.Usage) stmt {
	var values strings.Builder
	args := make([]any, 0, 12*len(ids))
	for i, id := range ids {
		if i > 0 {
			values.WriteString(", ")
		}
		values.WriteString("(" + strings.Repeat("CAST(? AS TEXT), ", 9) + "CAST(? AS BIGINT), CAST(? AS BIGINT), CAST(? AS TEXT))")
		u := merged[id]
		args = append(args, usageID(&u), u.Integration, string(u.Principal), u.Connector, u.Store, u.Secret, u.Key, u.GrantID, u.Version,
			u.FirstAt.UnixMicro(), u.LastAt.UnixMicro(), u.UID)
	}
	return stmt{args: args, query: `
		INSERT INTO integration_usage (id, integration_id, principal, connector, store, secret, json_key, grant_id, version, first_at, last_at)
		SELECT column1, column2, column3, column4, column5, column6, column7, column8, column9, column10, column11
		FROM (VALUES ` + values.String() + `) AS v
		WHERE EXISTS (SELECT 1 FROM integrations WHERE integrations.id = column2 AND column12 IN ('', ` + s.uid + `))
		ON CONFLICT (id) DO UPDATE SET
			version  = CASE WHEN excluded.last_at >= integration_usage.last_at THEN excluded.version ELSE integration_usage.version END,
			first_at = CASE WHEN excluded.first_at < integration_usage.first_at THEN excluded.first_at ELSE integration_usage.first_at END,
			last_at  = CASE WHEN excluded.last_at > integration_usage.last_at THEN excluded.last_at ELSE integration_usage.last_at END`}
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
		id := usageID(&u)
		if old, ok := folded[id]; ok {
			u = registry.MergeUsage(old, u)
		}
		folded[id] = u
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(folded)), usageChunk) {
		stmts = append(stmts, s.upsertUsage(ids, folded))
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

// prune deletes usage that has exceeded its retention.
func (s *Store) prune(ctx context.Context) {
	before := s.cfg.Now().Add(-s.cfg.UsageRetention).UnixMicro()
	err := s.writeUsage(ctx, stmt{query: `DELETE FROM integration_usage WHERE last_at < ?`, args: []any{before}})
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("deleting expired usage failed", "error", err)
	}
}

// usageRow is a row of the integration_usage table.
type usageRow struct {
	registry.Usage
	id, principal string
	first, latest int64
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
	all, err := s.readUsage(ctx, stmt{args: []any{integration, from, limit}, query: `
		SELECT integration_id, principal, connector, store, secret, json_key, grant_id, version, first_at, last_at
		FROM integration_usage WHERE integration_id = ? AND last_at >= ? ORDER BY last_at DESC, id LIMIT ?`},
		func(r *usageRow) []any {
			return []any{&r.Integration, &r.principal, &r.Connector, &r.Store, &r.Secret, &r.Key, &r.GrantID, &r.Version, &r.first, &r.latest}
		})
	if err != nil {
		return nil, err
	}
	usage := make([]registry.Usage, len(all))
	for i, r := range all {
		usage[i] = r.Usage
		usage[i].Principal, usage[i].FirstAt, usage[i].LastAt = principal(r.principal), instant(r.first), instant(r.latest)
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
