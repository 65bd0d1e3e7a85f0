package history

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var start = time.Date(2027, 1, 10, 12, 0, 0, 0, time.UTC)

// replica writes the audit log of one broker.
type replica struct {
	t    *testing.T
	log  *audit.Log
	path string
}

func newReplica(t *testing.T) *replica {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := audit.Open(audit.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &replica{t, l, path}
}

// attempt records a change at a second, and then its outcome unless that is "".
func (r *replica) attempt(second int, request string, c audit.Change, outcome audit.Outcome, reason secret.Reason) {
	r.t.Helper()
	event := audit.Event{Time: start.Add(time.Duration(second) * time.Second), RequestID: request, Method: "UpdateIntegration", Principal: "dns:admin.example.org",
		IntegrationID: "a", Outcome: audit.Attempted, Change: &c}
	events := []audit.Event{event}
	if outcome != "" {
		event.Time, event.Outcome, event.Reason, event.Change = event.Time.Add(time.Millisecond), outcome, reason, nil
		events = append(events, event)
	}
	if err := r.log.Write(r.t.Context(), events); err != nil {
		r.t.Fatal(err)
	}
}

// with is the document of integration a with grants to these principals.
func with(principals ...string) json.RawMessage {
	grants := []any{}
	for _, p := range principals {
		grants = append(grants, map[string]any{"principals": []string{p}})
	}
	data, err := json.Marshal(map[string]any{"id": "a", "kind": "AZURE_KEY_VAULT", "azure": map[string]any{"vaults": []string{"https://abc.vault.azure.net"}}, "grants": grants})
	if err != nil {
		panic(err)
	}
	return data
}

// found compares and returns the findings as text.
func found(t *testing.T, database map[string]Kept, replicas ...*replica) []string {
	t.Helper()
	var files []string
	for _, r := range replicas {
		files = append(files, r.path)
	}
	h, err := Read(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range h.Compare(kinds.All(), database).Findings {
		all = append(all, fmt.Sprint(f.Kind, " ", f.Setting))
	}
	return all
}

func check(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func holding(document json.RawMessage) map[string]Kept {
	return map[string]Kept{"a": {Document: document}}
}

// TestReplicasAreMerged by the time of the changes, whichever file comes first.
func TestReplicasAreMerged(t *testing.T) {
	one, two := newReplica(t), newReplica(t)
	one.attempt(1, "r1", audit.Change{After: with("dns:x", "dns:y")}, audit.Changed, "")
	two.attempt(2, "r2", audit.Change{Before: with("dns:x", "dns:y"), After: with("dns:x")}, audit.Changed, "")
	one.attempt(3, "r3", audit.Change{Before: with("dns:x"), After: with("dns:x", "dns:z")}, audit.Changed, "")
	for _, order := range [][]*replica{{one, two}, {two, one}} {
		check(t, "as recorded", found(t, holding(with("dns:z", "dns:x")), order...))
		check(t, "restored", found(t, holding(with("dns:x", "dns:y")), order...), "grant_returned grants[1]", "grant_lost grants[1]")
		check(t, "gone", found(t, nil, order...), "integration_lost ")
	}
}

// TestOutcomes: a change that failed was not made, unless the database's answer may
// have been lost.
func TestOutcomes(t *testing.T) {
	before, after := with("dns:x", "dns:y"), with("dns:x")
	for _, c := range []struct {
		name    string
		outcome audit.Outcome
		reason  secret.Reason
		// what a database with the old and the new document has
		old, new []string
	}{
		{"made", audit.Changed, "", []string{"grant_returned grants[1]"}, nil},
		{"not made", audit.Failed, secret.ReasonIntegrationChanged, nil, []string{"grant_lost grants[1]"}},
		{"database lost", audit.Failed, secret.ReasonRegistryUnavailable, nil, nil},
		{"broker killed", "", "", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReplica(t)
			r.attempt(1, "r1", audit.Change{After: before}, audit.Changed, "")
			r.attempt(2, "r2", audit.Change{Before: before, After: after}, c.outcome, c.reason)
			check(t, "old", found(t, holding(before), r), c.old...)
			check(t, "new", found(t, holding(after), r), c.new...)
			if got := found(t, holding(with("dns:other")), r); !slices.Contains(got, "grant_returned grants[0]") {
				t.Errorf("another document: %v", got)
			}
		})
	}
	t.Run("the first", func(t *testing.T) {
		r := newReplica(t)
		r.attempt(1, "r1", audit.Change{Before: before, After: after}, "", "")
		check(t, "old", found(t, holding(before), r))
		check(t, "new", found(t, holding(after), r))
	})
	t.Run("tried again", func(t *testing.T) {
		r := newReplica(t)
		r.attempt(1, "r1", audit.Change{Before: before, After: with("dns:other")}, audit.Failed, secret.ReasonIntegrationChanged)
		r.attempt(2, "r1", audit.Change{Before: before, After: after}, audit.Changed, "")
		check(t, "old", found(t, holding(before), r), "grant_returned grants[1]")
		check(t, "new", found(t, holding(after), r))
	})
	t.Run("deleted", func(t *testing.T) {
		r := newReplica(t)
		r.attempt(1, "r1", audit.Change{Before: before}, audit.Changed, "")
		check(t, "old", found(t, holding(before), r), "integration_returned ", "grant_returned grants[0]", "grant_returned grants[1]")
		check(t, "new", found(t, nil, r))
	})
}

// TestOldCredential: documents do not show which credential there is; times do.
func TestOldCredential(t *testing.T) {
	r := newReplica(t)
	doc := with("dns:x")
	r.attempt(1, "r1", audit.Change{After: doc, Credentials: []string{"azure.credential.client_secret"}}, audit.Changed, "")
	r.attempt(9, "r2", audit.Change{Before: doc, After: doc, Credentials: []string{"azure.credential.client_secret"}}, audit.Changed, "")
	at := func(second int) map[string]Kept {
		return map[string]Kept{"a": {Document: doc, UpdatedAt: start.Add(time.Duration(second) * time.Second)}}
	}
	check(t, "before the replacement", found(t, at(1), r), "credential_old azure.credential.client_secret")
	check(t, "with it", found(t, at(9), r))
	check(t, "later", found(t, at(10), r))
}

// TestUnrecorded integrations are named and no difference.
func TestUnrecorded(t *testing.T) {
	h, err := Read(t.Context(), []string{newReplica(t).path})
	if err != nil {
		t.Fatal(err)
	}
	r := h.Compare(kinds.All(), map[string]Kept{"b": {}, "a": {}})
	if len(r.Findings) > 0 || !slices.Equal(r.Unrecorded, []string{"a", "b"}) {
		t.Errorf("%+v", r)
	}
}
