package manage_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const elsewhere = authz.Principal("spiffe://example.org/teams/other/owner")

// newUsageBench has the integrations cspi and other, whose owners differ. Both read the secret
// db: v2 is current for those who see both, and v1 for the owner of cspi.
func newUsageBench(t *testing.T) *bench {
	t.Helper()
	b := newSampleBench(t)
	other := sample(t, "other")
	other.Roles = integration.RolesSection{ResourceOwner: []string{string(elsewhere)}}
	if _, err := b.Create(t.Context(), as(orgOwner), other, credentials(), manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	use := func(in, connector, name, version string) registry.Usage {
		return registry.Usage{Integration: in, Principal: worker, Connector: connector, Store: vault, Secret: name, GrantID: "g", Version: version, FirstAt: now.Add(-time.Hour), LastAt: now}
	}
	saw := func(in, name, version string, ago time.Duration) registry.Seen {
		return registry.Seen{Integration: in, Store: vault, Secret: name, Version: version, ReadAt: now.Add(-ago)}
	}
	if err := b.store.MergeUsage(t.Context(), []registry.Usage{
		use("cspi", "new", "db", "v2"), use("cspi", "old", "db", "v1"), use("cspi", "", "db", "v1"), use("cspi", "x", "never-read-since", "v1"),
		use("other", "theirs", "db", "v1"), use("other", "theirs", "own", "v1"), {Integration: "other", Principal: worker, FirstAt: now, LastAt: now},
	}); err != nil {
		t.Fatal(err)
	}
	// The last one is from a replica whose clock was ahead: it does not hide later reads.
	if err := b.store.MergeSeen(t.Context(), []registry.Seen{
		saw("cspi", "db", "v1", time.Hour), saw("other", "db", "v2", time.Minute), saw("other", "own", "v1", time.Minute), saw("cspi", "own", "v9", -time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
	b.audit.take(t)
	return b
}

// lines returns the entries of all pages, sorted.
func lines(t *testing.T, s *manage.Service, who authz.Principal, q manage.UsageQuery) []string {
	t.Helper()
	var got []string
	for {
		page, err := s.Usage(t.Context(), as(who), q)
		if err != nil {
			t.Fatalf("%s, %+v: %v", who, q, err)
		}
		for _, u := range page.Usage {
			got = append(got, strings.Join([]string{u.Integration, u.Connector, u.Secret, u.Version, u.CurrentVersion, string(u.State), string(u.Attribution)}, " "))
		}
		if q.PageToken = page.Next; page.Next == "" {
			slices.Sort(got)
			return got
		}
	}
}

// TestUsageOfAll: a caller gets the usage of the integrations on which it has a role, compared
// with the versions that were read through these.
func TestUsageOfAll(t *testing.T) {
	b := newUsageBench(t)
	tests := []struct {
		who        authz.Principal
		id, filter string
		want       []string
	}{
		{orgAuditor, "-", `secret = db`, []string{
			"cspi  db v1 v2 OUTDATED PRINCIPAL", "cspi new db v2 v2 CURRENT CONNECTOR", "cspi old db v1 v2 OUTDATED CONNECTOR", "other theirs db v1 v2 OUTDATED CONNECTOR",
		}},
		{orgAuditor, "-", `outdated`, []string{"cspi  db v1 v2 OUTDATED PRINCIPAL", "cspi old db v1 v2 OUTDATED CONNECTOR", "other theirs db v1 v2 OUTDATED CONNECTOR"}},
		{orgAuditor, "-", `NOT outdated AND NOT current`, []string{"cspi x never-read-since v1  UNKNOWN CONNECTOR", "other     UNKNOWN PRINCIPAL"}},
		{orgAuditor, "-", `secret = own AND version = v1 AND current`, []string{"other theirs own v1 v1 CURRENT CONNECTOR"}},
		{orgAuditor, "-", `connector != "" AND secret = d* AND attribution = CONNECTOR AND version = v2`, []string{"cspi new db v2 v2 CURRENT CONNECTOR"}},
		{orgAuditor, "-", `principal = dns:nobody`, nil},
		{orgAuditor, "other", `secret = db`, []string{"other theirs db v1 v2 OUTDATED CONNECTOR"}},
		{orgAuditor, "cspi", `current`, []string{"cspi new db v2 v2 CURRENT CONNECTOR"}},
		// What was read through other integrations is not told.
		{owner, "-", `secret = db`, []string{"cspi  db v1 v1 CURRENT PRINCIPAL", "cspi new db v2 v1 OUTDATED CONNECTOR", "cspi old db v1 v1 CURRENT CONNECTOR"}},
		{owner, "cspi", `outdated`, []string{"cspi new db v2 v1 OUTDATED CONNECTOR"}},
		{elsewhere, "-", ``, []string{"other     UNKNOWN PRINCIPAL", "other theirs db v1 v2 OUTDATED CONNECTOR", "other theirs own v1 v1 CURRENT CONNECTOR"}},
		{worker, "-", ``, nil},
		{worker, "-", `no such filter`, nil},
	}
	for _, tt := range tests {
		for _, size := range []int{0, 1, 2} {
			got := lines(t, b.Service, tt.who, manage.UsageQuery{IntegrationID: tt.id, Filter: tt.filter, PageSize: size})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s, %s, %q, pages of %d (-want +got):\n%s", tt.who, tt.id, tt.filter, size, diff)
			}
		}
	}
}

// TestUsageQueriesAreRecorded: the record of a query has its filter; that of a caller without
// a role may be counted.
func TestUsageQueriesAreRecorded(t *testing.T) {
	b := newUsageBench(t)
	for who, refused := range map[authz.Principal]int{orgAuditor: 0, owner: 0, worker: 1} {
		b.audit.refused = 0
		if _, err := b.Usage(t.Context(), as(who), manage.UsageQuery{IntegrationID: "-", Filter: "outdated"}); err != nil {
			t.Fatal(err)
		}
		all, events := b.audit.take(t)
		if diff := cmp.Diff([]string{"ListUsage answered"}, all); diff != "" || b.audit.refused != refused || (events[0].Note == "outdated") != (refused == 0) || events[0].IntegrationID != "" {
			t.Errorf("%s: %+v, %d may be counted", who, events, b.audit.refused)
		}
	}
	for _, filter := range []string{"secret", "secrets = db", "id = cspi", "outdated = true", "unused", strings.Repeat("x", 2000)} {
		for _, id := range []string{"-", "cspi"} {
			if _, err := b.Usage(t.Context(), as(orgAuditor), manage.UsageQuery{IntegrationID: id, Filter: filter}); reasonOf(err) != secret.ReasonInvalidRequest {
				t.Errorf("%s, %q: %v", id, filter, err)
			}
		}
	}
}

// TestForgedUsageToken: a page token does not lead to integrations of others, and an invalid
// one is refused.
func TestForgedUsageToken(t *testing.T) {
	b := newUsageBench(t)
	q := manage.UsageQuery{IntegrationID: "-", PageSize: 1}
	page, err := b.Usage(t.Context(), as(orgAuditor), q)
	if err != nil || page.Next == "" {
		t.Fatalf("%+v, %v", page, err)
	}
	data, err := base64.RawURLEncoding.DecodeString(page.Next)
	if err != nil {
		t.Fatal(err)
	}
	hash, position := string(data[:8]), string(data[8:])
	forge := func(position string) string { return base64.RawURLEncoding.EncodeToString([]byte(hash + position)) }
	zero := strings.Repeat("0", 64)
	for _, id := range []string{"other", "nope"} {
		q.PageToken = forge(id + "/" + zero)
		store := &countingStore{Store: b.store, UsageStore: b.store}
		cfg := b.cfg
		cfg.Store = store
		page, err := manage.New(cfg).Usage(t.Context(), as(owner), q)
		if err != nil || len(page.Usage) != 0 || store.asked.Load() != 0 {
			t.Errorf("%s: %+v, %v, the store was asked %d times", id, page, err, store.asked.Load())
		}
	}
	q.PageToken = forge("cspi/" + zero)
	if page, err := b.Usage(t.Context(), as(owner), q); err != nil || len(page.Usage) != 1 {
		t.Errorf("%+v, %v", page, err)
	}
	for _, bad := range []string{"x", page.Next + "x", forge(""), forge("cspi"), forge("cspi/"), forge("cspi/00"), forge("../" + zero), forge(position + "0")} {
		q.PageToken = bad
		if page, err := b.Usage(t.Context(), as(orgAuditor), q); reasonOf(err) != secret.ReasonInvalidRequest && bad != forge("") {
			t.Errorf("%q: %+v, %v", bad, page, err)
		}
	}
	q.PageToken, q.Filter = page.Next, "outdated"
	if _, err := b.Usage(t.Context(), as(orgAuditor), q); reasonOf(err) != secret.ReasonInvalidRequest {
		t.Errorf("a token of another filter: %v", err)
	}
}

// endless is a UsageStore whose pages of integrations never end.
type endless struct {
	registry.UsageStore
	rows int
}

func (s *endless) UsagePage(_ context.Context, q registry.UsageQuery) ([]registry.Usage, error) {
	page := make([]registry.Usage, q.Limit)
	for i := range page {
		page[i] = registry.Usage{Integration: q.Integrations[0], Principal: worker, Connector: fmt.Sprint(s.rows + i), Store: vault, Secret: "db", Version: "v"}
	}
	s.rows += len(page)
	return page, nil
}

// TestLongUsageLists: a page ends although it is not full when many entries do not match, and
// its token continues behind them.
func TestLongUsageLists(t *testing.T) {
	b := newUsageBench(t)
	store := &endless{UsageStore: b.store}
	cfg := b.cfg
	cfg.Usage = store
	s := manage.New(cfg)
	q := manage.UsageQuery{IntegrationID: "-", Filter: `connector = 30000`}
	page, err := s.Usage(t.Context(), as(orgAuditor), q)
	if err != nil || len(page.Usage) != 0 || page.Next == "" || store.rows != 20_000 {
		t.Fatalf("%d entries, next %q, %v, %d rows", len(page.Usage), page.Next, err, store.rows)
	}
	q.PageToken = page.Next
	if page, err = s.Usage(t.Context(), as(orgAuditor), q); err != nil || len(page.Usage) != 1 || page.Next == "" {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestUsageOfAllIsComplete: if this broker cannot write its usage, a list of all usage fails,
// because it is asked for evidence that something was not read.
func TestUsageOfAllIsComplete(t *testing.T) {
	b := newUsageBench(t)
	cfg := b.cfg
	cfg.NoteUsage = func(context.Context) error { return errors.New("the database is full") }
	if _, err := manage.New(cfg).Usage(t.Context(), as(orgAuditor), manage.UsageQuery{IntegrationID: "-"}); reasonOf(err) != secret.ReasonRegistryUnavailable {
		t.Errorf("got %v", err)
	}
	cfg.Usage = nil
	if page, err := manage.New(cfg).Usage(t.Context(), as(orgAuditor), manage.UsageQuery{IntegrationID: "-"}); err != nil || len(page.Usage) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestUsageOfAliases: both names of a store have one current version, and a filter finds both.
func TestUsageOfAliases(t *testing.T) {
	const arn, endpoint = "arn:aws:secretsmanager:eu-west-1:123456789012", "https://secretsmanager.eu-west-1.amazonaws.com"
	b := newBench(t, placement.Config{})
	in, err := b.Create(t.Context(), as(orgOwner), decoded(t, awsSample), awsKeys(), manage.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := in.Document.ID
	rec, err := b.store.Record(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.MergeUsage(t.Context(), []registry.Usage{
		{Integration: id, Principal: worker, Connector: "by-arn", Store: arn, Secret: "prod/db", Version: "v1", FirstAt: now, LastAt: now},
		{Integration: id, Principal: worker, Connector: "by-name", Store: endpoint, Secret: "prod/db", Version: "v2", FirstAt: now, LastAt: now},
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.MergeSeen(t.Context(), []registry.Seen{{Integration: id, Store: rec.Integration.CanonicalStore(arn), Secret: "prod/db", Version: "v2", ReadAt: now}}); err != nil {
		t.Fatal(err)
	}
	want := []string{id + " by-arn prod/db v1 v2 OUTDATED CONNECTOR", id + " by-name prod/db v2 v2 CURRENT CONNECTOR"}
	for _, store := range []string{arn, endpoint} {
		got := lines(t, b.Service, orgAuditor, manage.UsageQuery{IntegrationID: "-", Filter: fmt.Sprintf("store = %q AND secret = prod/db", store)})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", store, diff)
		}
	}
}
