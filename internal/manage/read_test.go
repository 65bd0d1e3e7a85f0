package manage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestList(t *testing.T) {
	b := newBench(t, placement.Config{})
	for _, id := range []string{"c", "a", "d", "b"} {
		b.create(t, id)
	}
	if err := b.store.MergeUsage(t.Context(), []registry.Usage{
		{Integration: "a", Principal: worker, Store: vault, Secret: "s", FirstAt: now, LastAt: now},
		{Integration: "b", Principal: worker, Store: vault, Secret: "s", FirstAt: now, LastAt: now.Add(-48 * time.Hour)},
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Update(t.Context(), as(orgOwner), manage.Document{ID: "d", DisplayName: "Other, one"}, nil, nil, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		who    authz.Principal
		filter string
		want   string // ids, or the beginning of an error's message
	}{
		{orgAuditor, "", "a b c d"},
		{auditor, "", "a b c d"},
		{worker, "", ""},
		{orgOwner, `id = a`, "a"},
		{orgOwner, `id != a AND id != b`, "c d"},
		{orgOwner, `display_name = "Other, one"`, "d"},
		{orgOwner, `display_name=SQL*`, "a b c"},
		{orgOwner, `kind = AZURE_KEY_VAULT AND NOT unused`, "a"},
		{orgOwner, `unused`, "b c d"},
		{orgOwner, `read_only`, ""},
		{orgOwner, `NOT faulty AND NOT id = a`, "b c d"},
		{orgOwner, `NOT id != a`, "a"},
		{orgOwner, `id`, "!filter: id: expected"},
		{orgOwner, `id = a OR id = b`, "!filter: expected AND"},
		{orgOwner, `id = a AND`, "!filter: expected AND"},
		{orgOwner, `id = "a`, "!filter: a quote"},
		{orgOwner, `kind = aws`, "!filter: kind: no such kind"},
		{orgOwner, `created = now`, "!filter: expected id"},
		{orgOwner, `id ! a`, "!filter: unexpected \"!\""},
	} {
		all, _, err := b.List(t.Context(), as(tt.who), manage.ListOptions{Filter: tt.filter})
		var ids []string
		for _, in := range all {
			ids = append(ids, in.Document.ID)
		}
		got := strings.Join(ids, " ")
		if err != nil {
			got = "!" + secret.AsError(err).Message
		}
		if got != tt.want && (err == nil || !strings.HasPrefix(got, tt.want)) {
			t.Errorf("%s, %q: %q, want %q", tt.who, tt.filter, got, tt.want)
		}
	}
}

func TestPages(t *testing.T) {
	b := newBench(t, placement.Config{})
	for i := range 5 {
		b.create(t, fmt.Sprint("i", i))
	}
	var ids []string
	token := ""
	for pages := 0; ; pages++ {
		all, next, err := b.List(t.Context(), as(owner), manage.ListOptions{PageSize: 2, PageToken: token, Filter: "id != i1"})
		if err != nil || len(all) > 2 {
			t.Fatalf("%v %v", all, err)
		}
		for _, in := range all {
			ids = append(ids, in.Document.ID)
		}
		if token = next; token == "" {
			if pages != 1 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		if _, _, err := b.List(t.Context(), as(owner), manage.ListOptions{PageSize: 2, PageToken: token}); reasonOf(err) != secret.ReasonInvalidRequest {
			t.Errorf("a token answers another question: %v", err)
		}
	}
	if got := strings.Join(ids, " "); got != "i0 i2 i3 i4" {
		t.Errorf("got %s", got)
	}
	for _, o := range []manage.ListOptions{{PageToken: "x"}, {PageToken: "????"}, {PageSize: -1}} {
		if _, _, err := b.List(t.Context(), as(owner), o); reasonOf(err) != secret.ReasonInvalidRequest {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := b.Create(t.Context(), as(orgOwner), sample(t, "more"), credentials(), manage.WriteOptions{}); reasonOf(err) != secret.ReasonQuotaExceeded {
		t.Errorf("beyond the quota: %v", err)
	}
}

func TestUsage(t *testing.T) {
	b := newSampleBench(t)
	if _, err := b.Grant(t.Context(), as(owner), "cspi", manage.Grant{ID: "a", Principals: []string{"dns:a"}}, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	var usage []registry.Usage
	for i := range 3 {
		usage = append(usage, registry.Usage{
			Integration: "cspi", Principal: worker, Connector: fmt.Sprint("c", i), Store: vault, Secret: "sqlserver-db", Version: "v",
			FirstAt: now.Add(-time.Hour), LastAt: now.Add(-time.Duration(i) * time.Minute),
		})
	}
	if err := b.store.MergeUsage(t.Context(), usage); err != nil {
		t.Fatal(err)
	}
	first, err := b.Usage(t.Context(), as(auditor), manage.UsageQuery{IntegrationID: "cspi", PageSize: 2})
	if err != nil || len(first.Usage) != 2 || first.Usage[0].Connector != "c0" || first.Next == "" || !cmp.Equal(first.UnusedGrantIDs, []string{"a"}) {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := b.Usage(t.Context(), as(auditor), manage.UsageQuery{IntegrationID: "cspi", PageSize: 2, PageToken: first.Next})
	if err != nil || len(second.Usage) != 1 || second.Usage[0].Connector != "c2" || second.Next != "" {
		t.Errorf("%+v, %v", second, err)
	}
	if got := b.get(t, "cspi").LastUsedAt; !got.Equal(now) {
		t.Errorf("last used at %v", got)
	}
}

func TestValidateIsRecorded(t *testing.T) {
	b := newBench(t, placement.Config{Regions: []string{"westeurope"}})
	b.create(t, "cspi")
	steps, err := b.Validate(t.Context(), as(assigner), "cspi")
	if err != nil || len(steps) != 3 || steps[0].Step != "PLACEMENT" || steps[2].Store != vault || steps[2].Err == nil {
		t.Fatalf("%+v, %v", steps, err)
	}
	_, events := b.audit.take(t)
	if len(events) != 1 || events[0].Note != "failed: read "+vault {
		t.Errorf("%+v", events)
	}
}

func TestWatcher(t *testing.T) {
	b := newSampleBench(t)
	w := manage.NewWatcher(b.Service, manage.WatchConfig{AtStart: true})
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, failed := w.Counts(); ok != 0 || failed != 1 || !strings.Contains(w.Failures()["cspi"], "assign the role") {
		t.Errorf("%d %d %v", ok, failed, w.Failures())
	}
}

func TestDiff(t *testing.T) {
	before, after := sample(t, "cspi"), sample(t, "cspi")
	change(t, &after, func(s map[string]any) {
		s["vaults"] = []any{vault, "https://b-vault.vault.azure.net"}
		s["credential"] = map[string]any{"type": "client_certificate"}
	})
	after.DisplayName = ""
	after.Grants = append(after.Grants, manage.Grant{Principals: []string{"dns:a"}})
	want := []integration.FieldChange{
		{Setting: "azure.credential.type", Before: "client_secret", After: "client_certificate"},
		{Setting: "azure.vaults", Before: []any{vault}, After: []any{vault, "https://b-vault.vault.azure.net"}},
		{Setting: "display_name", Before: "SQL Server CDC"},
		{Setting: "grants[1]", After: map[string]any{"principals": []any{"dns:a"}}},
	}
	if diff := cmp.Diff(want, integration.Diff(&before, &after)); diff != "" {
		t.Error(diff)
	}
	if got := integration.Diff(&before, &before); got != nil {
		t.Errorf("%v", got)
	}
	if got := integration.Diff(nil, &before); len(got) < 8 {
		t.Errorf("%v", got)
	}
}

func FuzzFilter(f *testing.F) {
	b := manage.New(manage.Config{Kinds: kinds.All()})
	f.Add(`id = "a" AND NOT unused`)
	f.Add(`NOT NOT !==`)
	f.Fuzz(func(_ *testing.T, text string) { _ = b.CheckFilter(text) })
}

// TestListOfAStranger: a caller without a role gets an empty list, and its record is
// bounded and does not repeat the filter, which may be of any length.
func TestListOfAStranger(t *testing.T) {
	b := newBench(t, placement.Config{})
	all, next, err := b.List(t.Context(), as("spiffe://example.org/stranger"), manage.ListOptions{Filter: strings.Repeat("\x01", 100_000)})
	if all != nil || next != "" || err != nil {
		t.Errorf("%v, %q, %v", all, next, err)
	}
	if _, events := b.audit.take(t); len(events) != 1 || events[0].Note != "" || b.audit.refused != 1 {
		t.Errorf("recorded %d, refused %d", len(events), b.audit.refused)
	}
}
