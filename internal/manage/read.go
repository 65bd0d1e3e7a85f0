package manage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
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
	in := s.withEvents(withPolicies(s.withUse(s.present(rec), rec, s.lastUsed(ctx)), rec.Integration), rec.Integration)
	if err := op.answer(ctx, nil); err != nil {
		return Integration{}, err
	}
	return in, nil
}

// ListOptions select the integrations to list.
type ListOptions struct {
	// PageSize is the maximum number of integrations to return; 0 means 50, and the
	// maximum is 500.
	PageSize  int
	PageToken string
	// Filter has the syntax of IntegrationService.
	Filter string
}

// List returns the integrations on which who has a role, sorted by id, and the token of the
// next page, "" if there is none.
func (s *Service) List(ctx context.Context, who Caller, o ListOptions) (all []Integration, next string, err error) {
	op := s.begin(who, methodList, "")
	records, err := s.readable(who.Principal)
	switch {
	case err != nil:
	case records == nil:
		op.refused = true // nothing is returned, and the filter was not parsed
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
			if !s.authority(rec).May(who, authz.ToRead) || !f.match(s.summary(rec), lastUsed != nil && used.Before(since)) {
				continue
			}
			if len(all) == size { // at least one more follows
				return all, makeToken(all[size-1].Document.ID, o.Filter), nil
			}
			all = append(all, s.withUse(s.present(rec), rec, lastUsed))
		}
		if len(page) < maxPageSize {
			return all, "", nil
		}
	}
}

// recordsFunc returns integrations, as registry.Store.Records does.
type recordsFunc func(context.Context, registry.Page) ([]registry.Record, error)

// readable returns a function that reads the integrations on which who may have a role, or
// nil if there are none; the call is then finished.
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

// makeToken returns the token of the page that begins after a position. It contains a hash
// of the request, so that it is invalid for other requests. It is not encrypted.
func makeToken(position, request string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(hashOf(request) + position))
}

func openToken(token, request string) (position string, err error) {
	if token == "" {
		return "", nil
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	position, ok := strings.CutPrefix(string(data), hashOf(request))
	if err != nil || !ok {
		return "", errPageToken
	}
	return position, nil
}

var errPageToken = secret.Errorf(secret.ReasonInvalidRequest, "page_token: the token belongs to another request; request the first page")

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}
