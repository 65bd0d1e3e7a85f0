package manage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The sizes of pages.
const (
	defaultPageSize = 50
	maxPageSize     = 500
)

// Get returns one integration.
func (s *Service) Get(ctx context.Context, who Caller, id string) (Integration, error) {
	op := s.begin(who, methodGet, id)
	rec, err := s.load(ctx, who.Principal, id, authz.ToRead)
	if err != nil {
		return Integration{}, op.answer(ctx, err)
	}
	in := withPolicies(s.present(rec, s.lastUsedOf(ctx, id)), rec.Integration)
	if err := op.answer(ctx, nil); err != nil {
		return Integration{}, err
	}
	return in, nil
}

// ListOptions say which integrations are listed.
type ListOptions struct {
	// PageSize is the most to return; 0 for 50, at most 500.
	PageSize  int
	PageToken string
	// Filter is as IntegrationService has it.
	Filter string
}

// List returns the integrations that who has a role on, by id, and the token of
// the next page, "" if there is none.
func (s *Service) List(ctx context.Context, who Caller, o ListOptions) (all []Integration, next string, err error) {
	op := s.begin(who, methodList, "")
	records, err := s.readable(who.Principal)
	switch {
	case err != nil:
	case records == nil:
		op.refused = true // nothing is told, and the filter was not looked at
	default:
		if all, next, err = s.list(ctx, who.Principal, records, o); err == nil {
			op.note = o.Filter
		}
	}
	if err := op.answer(ctx, err); err != nil {
		return nil, "", err
	}
	return all, next, nil
}

func (s *Service) list(ctx context.Context, who authz.Principal, records recordsFunc, o ListOptions) (all []Integration, next string, err error) {
	size, err := pageSize(o.PageSize)
	if err != nil {
		return nil, "", err
	}
	f, err := parseFilter(o.Filter)
	if err != nil {
		return nil, "", secret.Errorf(secret.ReasonInvalidRequest, "filter: %v", err)
	}
	after, err := openToken(o.PageToken, o.Filter)
	if err != nil {
		return nil, "", err
	}
	lastUsed := s.lastUsed(ctx)
	since := s.cfg.Now().Add(-s.cfg.UsageWindow)
	for {
		page, err := records(ctx, registry.Page{After: after, Limit: maxPageSize})
		if err != nil {
			return nil, "", errorOf("", err)
		}
		for i := range page {
			rec := &page[i]
			after = rec.ID
			used := lastUsed[rec.ID]
			if !s.authority(rec).May(who, authz.ToRead) || !f.match(s.summary(rec), used.Before(since)) {
				continue
			}
			if len(all) == size { // there is at least this one more
				return all, makeToken(all[size-1].Document.ID, o.Filter), nil
			}
			all = append(all, s.present(rec, used))
		}
		if len(page) < maxPageSize {
			return all, "", nil
		}
	}
}

// recordsFunc returns integrations, as registry.Store.Records does.
type recordsFunc func(context.Context, registry.Page) ([]registry.Record, error)

// readable returns how to get at the integrations that who may have a role on, nil
// if there are none: then nothing else is done for the call.
func (s *Service) readable(who authz.Principal) (recordsFunc, error) {
	if s.readsAll(who) {
		return s.cfg.Store.Records, nil
	}
	own, err := s.cfg.Store.WithRole(who)
	if err != nil {
		return nil, errorOf("", err)
	}
	if len(own) == 0 {
		return nil, nil
	}
	return func(ctx context.Context, p registry.Page) (records []registry.Record, err error) {
		for _, in := range own {
			if in.ID <= p.After || len(records) == p.Limit {
				continue
			}
			rec, err := s.cfg.Store.Record(ctx, in.ID)
			if errors.Is(err, registry.ErrNotFound) { // deleted just now
				continue
			}
			if err != nil {
				return nil, err
			}
			records = append(records, rec)
		}
		return records, nil
	}, nil
}

func pageSize(n int) (int, error) {
	switch {
	case n < 0:
		return 0, secret.Errorf(secret.ReasonInvalidRequest, "page_size: expected 0 to %d", maxPageSize)
	case n == 0:
		return defaultPageSize, nil
	default:
		return min(n, maxPageSize), nil
	}
}

// makeToken makes the token of the page that begins behind a place. It holds a
// hash of the question, so that it answers no other; it hides nothing.
func makeToken(place, question string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(hashOf(question) + place))
}

func openToken(token, question string) (place string, err error) {
	if token == "" {
		return "", nil
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	place, ok := strings.CutPrefix(string(data), hashOf(question))
	if err != nil || !ok {
		return "", secret.Errorf(secret.ReasonInvalidRequest, "page_token: it is not of this question; ask for the first page")
	}
	return place, nil
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// UsagePage is a part of an integration's usage.
type UsagePage struct {
	// Usage is the latest first.
	Usage []registry.Usage
	// UnusedGrants are those, by index, that nobody has used within the window.
	UnusedGrants []int
	// Next is the token of the next page, "" if there is none.
	Next string
}

// Usage returns who has used an integration.
func (s *Service) Usage(ctx context.Context, who Caller, id string, size int, token string) (UsagePage, error) {
	op := s.begin(who, methodUsage, id)
	rec, err := s.load(ctx, who.Principal, id, authz.ToRead)
	if err != nil {
		return UsagePage{}, op.answer(ctx, err)
	}
	page, err := s.usage(ctx, rec, size, token)
	if err := op.answer(ctx, err); err != nil {
		return UsagePage{}, err
	}
	return page, nil
}

func (s *Service) usage(ctx context.Context, rec *registry.Record, size int, token string) (UsagePage, error) {
	size, err := pageSize(size)
	if err != nil {
		return UsagePage{}, err
	}
	place, err := openToken(token, "usage of "+rec.ID)
	if err != nil {
		return UsagePage{}, err
	}
	from := 0
	if place != "" {
		if from, err = strconv.Atoi(place); err != nil || from < 0 {
			return UsagePage{}, secret.Errorf(secret.ReasonInvalidRequest, "page_token: it is not of this question; ask for the first page")
		}
	}
	if s.cfg.Usage == nil {
		return UsagePage{}, nil
	}
	noting, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	if err := s.cfg.NoteUsage(noting); err != nil {
		s.cfg.Logger.WarnContext(ctx, "usage is listed without what could not be written down", "error", err)
	}
	usage, err := s.cfg.Usage.Usage(ctx, rec.ID, time.Time{}, 0)
	if err != nil {
		return UsagePage{}, errorOf("", err)
	}
	page := UsagePage{UnusedGrants: unusedGrants(rec.Integration, usage, s.cfg.Now().Add(-s.cfg.UsageWindow))}
	page.Usage = usage[min(from, len(usage)):min(from+size, len(usage))]
	if from+size < len(usage) {
		page.Next = makeToken(strconv.Itoa(from+size), "usage of "+rec.ID)
	}
	return page, nil
}

// noteTime is how long a list of usage waits until what this broker has noted is
// written down.
const noteTime = 2 * time.Second

// unusedGrants lists the grants by which nothing was read since then, as far as
// usage tells. Of several grants that allow the same the policy takes one, and
// the others count as unused.
func unusedGrants(in *integration.Integration, usage []registry.Usage, since time.Time) []int {
	if in == nil {
		return nil
	}
	used := make(map[int]bool)
	for _, u := range usage {
		if u.LastAt.Before(since) {
			continue
		}
		if u.Secret == "" { // of too many uses to be told apart: any that the principal may
			for i, g := range in.Policy.Grants() {
				used[i] = used[i] || matchesAny(g.Principals, u.Principal)
			}
			continue
		}
		d := in.Policy.Decide(u.Principal, secret.Ref{Kind: in.Kind, Store: u.Store, Name: u.Secret, Key: u.Key})
		if d.Effect == authz.Allowed {
			used[d.Grant] = true
		}
	}
	var unused []int
	for i := range in.Policy.Grants() {
		if !used[i] {
			unused = append(unused, i)
		}
	}
	return slices.Clip(unused)
}

// matchesAny reports whether a pattern, all of which are valid, matches who.
func matchesAny(patterns []string, who authz.Principal) bool {
	set, err := authz.NewPrincipals(patterns)
	return err != nil || set.Contains(who)
}
