package logread

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Filter selects events. Zero fields select all.
type Filter struct {
	// Secret is a reference. If it has a version or a JSON key, these must match, too.
	// An event without a JSON key matches every key, because the whole secret was read.
	Secret secret.Ref
	// Principals matches the callers.
	Principals *authz.Principals
	// These match exact values.
	IntegrationID, GrantID, Connector, RequestID, Method, CertificateSHA256 string
	// Types lists the types, of which an event must have one.
	Types []audit.Type
	// Outcomes lists the outcomes, of which an event must have one.
	Outcomes []audit.Outcome
	// From and To limit the time: From is inclusive, To is exclusive.
	From, To time.Time
}

// Match reports whether f selects the event.
func (f *Filter) Match(e *audit.Event) bool {
	switch {
	case f.IntegrationID != "" && e.IntegrationID != f.IntegrationID,
		f.GrantID != "" && e.GrantID != f.GrantID,
		f.Method != "" && e.Method != f.Method,
		f.CertificateSHA256 != "" && e.CertificateSHA256 != f.CertificateSHA256,
		len(f.Types) > 0 && !slices.Contains(f.Types, e.Type),
		f.Connector != "" && e.Connector != f.Connector,
		f.RequestID != "" && e.RequestID != f.RequestID,
		len(f.Outcomes) > 0 && !slices.Contains(f.Outcomes, e.Outcome),
		!f.From.IsZero() && e.Time.Before(f.From),
		!f.To.IsZero() && !e.Time.Before(f.To),
		f.Principals != nil && !f.Principals.Contains(e.Principal):
		return false
	}
	return f.Secret.Name == "" || f.matchSecret(e)
}

func (f *Filter) matchSecret(e *audit.Event) bool {
	want := f.Secret
	if e.Watched != nil {
		return matchWatched(e.Watched, want)
	}
	if e.Store != want.Store || e.Secret != want.Name || want.Key != "" && e.JSONKey != "" && e.JSONKey != want.Key {
		return false
	}
	if want.Version == "" || strings.EqualFold(e.Version, want.Version) {
		return true
	}
	ref, err := secret.ParseRef(e.Reference) // the version that was requested
	return err == nil && ref.Version == want.Version
}

// matchWatched reports whether a set of secrets contains want, in the version that it names,
// if any. A set whose record omits some may contain it.
func matchWatched(w *audit.WatchedSet, want secret.Ref) bool {
	return w.Omitted > 0 || slices.ContainsFunc(w.Secrets, func(text string) bool {
		ref, err := secret.ParseRef(text)
		return err == nil && ref.Store == want.Store && ref.Name == want.Name && (want.Version == "" || ref.Version == want.Version)
	})
}

// Record is an event of a log.
type Record struct {
	audit.Event
	// Line is the whole line without its newline, valid until the next record.
	Line []byte
	// File and N are the file and the line number, from 1.
	File string
	N    int
}

// parse parses r.Line. It returns false for a line that is not an event, or one of another
// version of the format, which may mean something else.
func (r *Record) parse() bool {
	line := struct {
		V json.Number `json:"v"`
		*audit.Event
	}{Event: &r.Event}
	return json.Unmarshal(r.Line, &line) == nil && line.V == chain.Version && r.Outcome != ""
}

// Query calls f for every event of the files that filter selects, in order. It skips
// segment headers, and returns the number of lines that it could not parse. Of standard
// input, and of lines that a container runtime wrote, these are only damaged records,
// because log messages are expected among them. It does not check the chain; see Verify. The memory it needs does not depend on the size of the files.
func Query(ctx context.Context, filter *Filter, files []string, f func(*Record) error) (unreadable int, err error) {
	err = streamLines(ctx, files, func(l streamLine) error {
		if _, isHeader := chain.ParseSegmentHeader(l.text); isHeader {
			return nil
		}
		r := Record{Line: l.text, File: l.file, N: l.n}
		if l.long || !r.parse() {
			if (!l.long || l.ended) && (l.isRecord || !l.wrapped && l.file != Stdin) {
				unreadable++
			}
			return nil
		}
		if !filter.Match(&r.Event) {
			return nil
		}
		return f(&r)
	})
	return unreadable, err
}

// Access counts the requests of a principal for a secret with one outcome. The JSON names
// are a stable interface.
type Access struct {
	Principal     authz.Principal `json:"principal"`
	IntegrationID string          `json:"integration_id"`
	// Store and Secret are empty for events without a reference.
	Store     string        `json:"store,omitempty"`
	Secret    string        `json:"secret,omitempty"`
	Outcome   audit.Outcome `json:"outcome"`
	Count     int           `json:"count"`
	FirstTime time.Time     `json:"first_time"`
	LastTime  time.Time     `json:"last_time"`
}

// maxAccesses limits the number of accesses that Distinct keeps in memory.
const maxAccesses = 1_000_000

// Distinct counts the events that filter selects per principal, integration, secret and
// outcome, and returns the counts in that order. The memory it needs grows with the result.
func Distinct(ctx context.Context, filter *Filter, files []string) (all []Access, unreadable int, err error) {
	type key struct {
		principal                  authz.Principal
		integrationID, store, name string
		outcome                    audit.Outcome
	}
	found := make(map[key]*Access)
	unreadable, err = Query(ctx, filter, files, func(r *Record) error {
		k := key{r.Principal, r.IntegrationID, r.Store, r.Secret, r.Outcome}
		a := found[k]
		if a == nil {
			if len(found) == maxAccesses {
				return fmt.Errorf("more than %d different results; use a narrower filter", maxAccesses)
			}
			a = &Access{Principal: k.principal, IntegrationID: k.integrationID, Store: k.store, Secret: k.name, Outcome: k.outcome, FirstTime: r.Time, LastTime: r.Time}
			found[k] = a
		}
		first := r.Time
		if r.Count == nil {
			a.Count++
		} else {
			a.Count += int(min(r.Count.Total, math.MaxInt32))
			first = r.Count.Since
		}
		if first.Before(a.FirstTime) {
			a.FirstTime = first
		}
		if r.Time.After(a.LastTime) {
			a.LastTime = r.Time
		}
		return nil
	})
	for _, a := range found {
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b Access) int {
		for _, c := range []int{
			strings.Compare(string(a.Principal), string(b.Principal)), strings.Compare(a.IntegrationID, b.IntegrationID),
			strings.Compare(a.Store, b.Store), strings.Compare(a.Secret, b.Secret), strings.Compare(string(a.Outcome), string(b.Outcome)),
		} {
			if c != 0 {
				return c
			}
		}
		return 0
	})
	return all, unreadable, err
}
