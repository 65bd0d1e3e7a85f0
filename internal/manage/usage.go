package manage

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// AllIntegrations selects all integrations on which a caller has a role, in a UsageQuery.
const AllIntegrations = "-"

// UsageQuery selects usage.
type UsageQuery struct {
	// IntegrationID is the id of an integration, or AllIntegrations.
	IntegrationID string
	// Filter has the syntax of IntegrationService.
	Filter string
	// PageSize is the maximum number of entries to return; 0 means 50, and the maximum is
	// 500.
	PageSize  int
	PageToken string
}

// VersionState says whether a use has read the current version of its secret last.
type VersionState string

// The states.
const (
	VersionUnknown  VersionState = "UNKNOWN"
	VersionCurrent  VersionState = "CURRENT"
	VersionOutdated VersionState = "OUTDATED"
)

// Attribution says what a UsageEntry distinguishes.
type Attribution string

// The attributions.
const (
	// ByConnector: the caller named its connector.
	ByConnector Attribution = "CONNECTOR"
	// ByPrincipal: the entry has the reads of all connectors that the principal did not name.
	// Each of them may still use any of the versions.
	ByPrincipal Attribution = "PRINCIPAL"
)

// UsageEntry is an entry of usage, compared with the current version of its secret.
type UsageEntry struct {
	registry.Usage
	// CurrentVersion is the version that any replica has found when it last read the secret
	// from its store, through an integration on which the caller has a role; "" if that is
	// unknown.
	CurrentVersion string
	State          VersionState
	Attribution    Attribution
}

// VersionUse is what a use has read of one version.
type VersionUse = registry.VersionUse

// UsagePage is one page of usage.
type UsagePage struct {
	// Usage is sorted: that of one integration the latest first, that of all by integration.
	Usage []UsageEntry
	// UnusedGrantIDs are the ids of the grants of one integration that were not used within the
	// window.
	UnusedGrantIDs []string
	// Recording says what usage is recorded.
	Recording Recording
	// Next is the token of the next page, "" if there is none.
	Next string
}

// Usage returns the usage of an integration, or of all integrations on which who has a role.
func (s *Service) Usage(ctx context.Context, who Caller, q UsageQuery) (page UsagePage, err error) {
	op := s.begin(who, methodUsage, q.IntegrationID)
	if q.IntegrationID == AllIntegrations {
		var records recordsFunc
		records, err = s.readable(who.Principal)
		switch {
		case err != nil:
		case records == nil:
			op.refused = true // nothing is returned, and the filter was not parsed
		default:
			page, err = s.usageOfAll(ctx, who.Principal, records, q)
		}
	} else {
		var rec *registry.Record
		if rec, err = s.load(ctx, who.Principal, q.IntegrationID, authz.ToRead); err == nil {
			page, err = s.usageOfOne(ctx, who.Principal, rec, q)
		}
	}
	if err == nil && !op.refused {
		op.note = q.Filter
	}
	if err := op.answer(ctx, err); err != nil {
		return UsagePage{}, err
	}
	return page, nil
}

// usageRequest identifies a query in page tokens.
func usageRequest(q *UsageQuery) string { return "usage of " + q.IntegrationID + " " + q.Filter }

func (s *Service) usageOfOne(ctx context.Context, who authz.Principal, rec *registry.Record, q UsageQuery) (UsagePage, error) {
	size, f, position, err := parseUsageQuery(&q)
	if err != nil {
		return UsagePage{}, err
	}
	from := 0
	if position != "" {
		if from, err = strconv.Atoi(position); err != nil || from < 0 {
			return UsagePage{}, errPageToken
		}
	}
	if s.cfg.Usage == nil {
		return UsagePage{}, nil
	}
	var unwritten []registry.Usage
	if err := s.noteUsage(ctx); err != nil {
		s.cfg.Logger.WarnContext(ctx, "usage is listed from memory as far as it could not be written", "error", err)
		unwritten = s.cfg.UsageInMemory(rec.ID, rec.UID, time.Time{})
	}
	usage, err := s.cfg.Usage.Usage(ctx, rec.ID, time.Time{}, 0)
	if err != nil {
		return UsagePage{}, errorOf("", err)
	}
	usage = mergeUsage(usage, unwritten)
	page := UsagePage{Recording: s.recording(rec), UnusedGrantIDs: unusedGrants(rec.Integration, usage, s.cfg.Now().Add(-s.cfg.UsageWindow))}
	var entries []UsageEntry
	for i := range usage {
		if e := entryOf(rec, &usage[i]); f.mayMatch(rec, &e) {
			entries = append(entries, e)
		}
	}
	versions := s.newVersions(who)
	if f.needsState() {
		if err := versions.compare(ctx, map[string]*registry.Record{rec.ID: rec}, entries); err != nil {
			return UsagePage{}, err
		}
		entries = slices.DeleteFunc(entries, func(e UsageEntry) bool { return !f.match(rec, &e) })
	}
	page.Usage = entries[min(from, len(entries)):min(from+size, len(entries))]
	if !f.needsState() {
		if err := versions.compare(ctx, map[string]*registry.Record{rec.ID: rec}, page.Usage); err != nil {
			return UsagePage{}, err
		}
	}
	if from+size < len(entries) {
		page.Next = makeToken(strconv.Itoa(from+size), usageRequest(&q))
	}
	return page, nil
}

func parseUsageQuery(q *UsageQuery) (size int, f usageFilter, position string, err error) {
	if size, err = pageSize(q.PageSize); err != nil {
		return 0, nil, "", err
	}
	parsed, err := usageGrammar.parse(q.Filter)
	if err != nil {
		return 0, nil, "", secret.Errorf(secret.ReasonInvalidRequest, "filter: %v", err)
	}
	position, err = openToken(q.PageToken, usageRequest(q))
	return size, usageFilter(parsed), position, err
}

// noteTime limits how long a list of usage waits for the broker to write the usage in
// memory.
const noteTime = 2 * time.Second

// noteUsage writes the usage in memory.
func (s *Service) noteUsage(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	return s.cfg.NoteUsage(ctx)
}

// mergeUsage returns stored usage and usage in memory, which has no FirstAt, the latest first.
func mergeUsage(stored, inMemory []registry.Usage) []registry.Usage {
	if len(inMemory) == 0 {
		return stored
	}
	at := make(map[string]int, len(stored)) // by ID
	for i := range stored {
		at[stored[i].ID()] = i
	}
	for _, u := range inMemory {
		u.UID, u.FirstAt = "", u.LastAt
		if i, found := at[u.ID()]; found {
			stored[i] = registry.MergeUsage(stored[i], u)
		} else {
			stored = append(stored, registry.MergeUsage(u, u))
		}
	}
	slices.SortStableFunc(stored, func(a, b registry.Usage) int { return b.LastAt.Compare(a.LastAt) })
	return stored
}
