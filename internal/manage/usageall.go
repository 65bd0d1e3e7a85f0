package manage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// usageIntegrations is the maximum number of integrations whose usage is read at once.
	usageIntegrations = 100
	// usageRows is the maximum number of entries that are read at once.
	usageRows = 500
	// maxScanned is the number of entries from which a page ends, although it is not full.
	maxScanned = 20_000
)

// usageScan collects one page of the usage of all integrations.
type usageScan struct {
	s        *Service
	filter   usageFilter
	versions *currentVersions
	size     int
	page     []UsageEntry
	scanned  int
	// next is the position of the last entry that the page includes or has skipped.
	next usagePosition
	full bool // at least one more entry follows, or is to be scanned
}

// usagePosition is the position of an entry among all integrations.
type usagePosition struct{ integration, id string }

func (p usagePosition) String() string { return p.integration + "/" + p.id }

func parseUsagePosition(s string) (p usagePosition, err error) {
	if s == "" {
		return p, nil
	}
	var ok bool
	p.integration, p.id, ok = strings.Cut(s, "/")
	if id, err := hex.DecodeString(p.id); !ok || err != nil || len(id) != sha256.Size || !integration.ValidID(p.integration) {
		return p, errPageToken
	}
	return p, nil
}

// usageOfAll returns a page of the usage of the integrations of records on which who has a
// role. Unlike that of one integration, it fails if this broker cannot write its usage: it
// is asked for evidence that nothing was read.
func (s *Service) usageOfAll(ctx context.Context, who authz.Principal, records recordsFunc, q UsageQuery) (UsagePage, error) {
	size, f, position, err := parseUsageQuery(&q)
	if err != nil {
		return UsagePage{}, err
	}
	from, err := parseUsagePosition(position)
	if err != nil {
		return UsagePage{}, err
	}
	if s.cfg.Usage == nil {
		return UsagePage{}, nil
	}
	if err := s.noteUsage(ctx); err != nil {
		return UsagePage{}, secret.Errorf(secret.ReasonRegistryUnavailable,
			"the broker cannot write the usage that it has in memory, so a list would be incomplete; wait, or ask for the usage of one integration").WithCause(err)
	}
	scan := &usageScan{s: s, filter: f, versions: s.newVersions(who), size: size, next: from}
	if err := scan.all(ctx, who, records); err != nil {
		return UsagePage{}, err
	}
	r := s.cfg.Usage.Recording()
	page := UsagePage{Usage: scan.page, Recording: Recording{Since: r.Since, ReplicaOnly: r.ReplicaOnly}}
	if scan.full {
		page.Next = makeToken(scan.next.String(), usageRequest(&q))
	}
	return page, nil
}

// all scans the integrations from the position on.
func (u *usageScan) all(ctx context.Context, who authz.Principal, records recordsFunc) error {
	after := u.next.integration
	if after != "" { // the rest of the integration at which the previous page ended
		if err := u.rest(ctx, who, after); err != nil {
			return err
		}
	}
	for !u.full {
		some, err := records(ctx, registry.Page{After: after, Limit: usageIntegrations})
		if err != nil {
			return errorOf("", err)
		}
		if err := u.some(ctx, who, some); err != nil {
			return err
		}
		if len(some) < usageIntegrations {
			return nil
		}
		after = some[len(some)-1].ID
	}
	return nil
}

// rest scans the rest of an integration. The caller chooses its id with the page token.
func (u *usageScan) rest(ctx context.Context, who authz.Principal, id string) error {
	switch err := u.s.mayFind(who, id); {
	case errors.Is(err, errNoRole):
		return nil
	case err != nil:
		return err
	}
	rec, err := u.s.cfg.Store.Record(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound): // deleted meanwhile
		return nil
	case err != nil:
		return errorOf("", err)
	}
	return u.some(ctx, who, []registry.Record{rec})
}

// some scans integrations until the page is full.
func (u *usageScan) some(ctx context.Context, who authz.Principal, records []registry.Record) error {
	byID := make(map[string]*registry.Record, len(records))
	q := registry.UsageQuery{Secret: u.filter.secret(), Limit: usageRows}
	for i := range records {
		rec := &records[i]
		if u.s.authority(rec).May(who, authz.ToRead) {
			byID[rec.ID] = rec
			q.Integrations = append(q.Integrations, rec.ID)
		}
	}
	if len(q.Integrations) == 0 {
		return nil
	}
	for {
		q.AfterIntegration, q.AfterID = u.next.integration, u.next.id
		rows, err := u.s.cfg.Usage.UsagePage(ctx, q)
		if err != nil {
			return errorOf("", err)
		}
		if err := u.rows(ctx, byID, rows); err != nil || u.full || len(rows) < usageRows {
			return err
		}
		if u.scanned += len(rows); u.scanned >= maxScanned {
			u.full = true
			return nil
		}
	}
}

// rows adds the entries that match to the page until it is full.
func (u *usageScan) rows(ctx context.Context, byID map[string]*registry.Record, rows []registry.Usage) error {
	entries := make([]UsageEntry, len(rows))
	for i := range rows {
		entries[i] = entryOf(byID[rows[i].Integration], &rows[i])
	}
	if err := u.versions.compare(ctx, byID, entries); err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if u.filter.match(byID[e.Integration], e) {
			if len(u.page) == u.size {
				u.full = true
				return nil
			}
			u.page = append(u.page, *e)
		}
		u.next = usagePosition{e.Integration, e.ID()}
	}
	return nil
}
