package manage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	prod  = "https://prod.vault.azure.net"
	stage = "https://stage.vault.azure.net"
	other = "https://other.vault.azure.net" // not one of any integration's

	worker = "spiffe://example.org/connect/worker-1"
)

func sampleIntegration(t testing.TB, id string, vaults []string, grants ...authz.Grant) *integration.Integration {
	t.Helper()
	grants = slices.Clone(grants)
	for i := range grants {
		grants[i].ID = strconv.Itoa(i)
	}
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, vaults, grants)
	if err != nil {
		t.Fatal(err)
	}
	return &integration.Integration{ID: id, Kind: secret.KindAzureKeyVault, Settings: &azurekv.Settings{Vaults: vaults}, Policy: policy}
}

func to(principals ...string) authz.Grant { return authz.Grant{Principals: principals} }

func match(grantID, principal string, store, name, key bool) GrantMatch {
	return GrantMatch{grantID, authz.Match{Principal: principal, Store: store, Secret: name, Key: key}}
}

func sample(t testing.TB) []*integration.Integration {
	return []*integration.Integration{
		sampleIntegration(t, "sqlserver", []string{prod, stage},
			authz.Grant{Principals: []string{"spiffe://example.org/connect/*"}, Secrets: []string{"sqlserver-*"}},
			authz.Grant{Principals: []string{"spiffe://example.org/ops", "dns:ops.example.org"}}),
		sampleIntegration(t, "orders", []string{prod},
			authz.Grant{Principals: []string{"dns:*.orders.example.org"}, Keys: []string{"password"}}),
	}
}

func TestExplain(t *testing.T) {
	db := prod + "::sqlserver-db"
	for _, tt := range []struct {
		name string
		q    Question
		want Answer
	}{
		{"who may", Question{Reference: "https://PROD.vault.azure.net/::SQLServer-DB#" + strings.Repeat("A", 32)}, Answer{
			Reference: db + "#" + strings.Repeat("a", 32),
			Readers: []Access{
				{"sqlserver", "0", "spiffe://example.org/connect/*"},
				{"sqlserver", "1", "dns:ops.example.org"},
				{"sqlserver", "1", "spiffe://example.org/ops"},
			},
		}},
		{"in one integration", Question{Reference: db + "::password", IntegrationID: "orders"}, Answer{
			Reference: db + "::password",
			Readers:   []Access{{"orders", "0", "dns:*.orders.example.org"}},
		}},
		{"no readers", Question{Reference: other + "::x"}, Answer{Reference: other + "::x"}},
		{"may this one", Question{Reference: db + "::password", Principal: worker}, Answer{
			Reference: db + "::password",
			Readers: []Access{
				{"orders", "0", "dns:*.orders.example.org"},
				{"sqlserver", "0", "spiffe://example.org/connect/*"},
				{"sqlserver", "1", "dns:ops.example.org"},
				{"sqlserver", "1", "spiffe://example.org/ops"},
			},
			Decisions: []Decision{
				{"orders", false, "", "no grant names this principal", []GrantMatch{match("0", "", true, true, true)}},
				{"sqlserver", true, "0", "grant 0 allows it for spiffe://example.org/connect/*", []GrantMatch{
					match("0", "spiffe://example.org/connect/*", true, true, true), match("1", "", true, true, true),
				}},
			},
		}},
		{"a name in capitals", Question{Reference: stage + "::x", IntegrationID: "sqlserver", Principal: "dns:OPS.example.org"}, Answer{
			Reference: stage + "::x",
			Readers:   []Access{{"sqlserver", "1", "dns:ops.example.org"}, {"sqlserver", "1", "spiffe://example.org/ops"}},
			Decisions: []Decision{{"sqlserver", true, "1", "grant 1 allows it for dns:ops.example.org", []GrantMatch{
				match("0", "", true, false, true), match("1", "dns:ops.example.org", true, true, true),
			}}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Explain(sample(t), tt.q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(Answer{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestExplainPages: pages of every size together are the whole answer, in order.
func TestExplainPages(t *testing.T) {
	var integrations []*integration.Integration
	for _, id := range []string{"a", "b.c", "b-d", "empty", "other"} {
		var grants []authz.Grant
		for g := range 12 { // "10" sorts before "2"
			grants = append(grants, to("dns:*.td", "dns:worker.td", fmt.Sprintf("dns:h%d.td", g)))
		}
		vaults := []string{prod}
		switch id {
		case "empty":
			grants = nil
		case "other":
			vaults = []string{other}
		}
		integrations = append(integrations, sampleIntegration(t, id, vaults, grants...))
	}
	for _, principal := range []string{"", "dns:worker.td"} {
		q := Question{Reference: prod + "::db", Principal: principal}
		whole, err := Explain(integrations, q)
		if err != nil || len(whole.Readers) != 3*36 || whole.Next != "" || principal != "" && len(whole.Decisions) != 5 {
			t.Fatalf("%d readers, %d decisions, %v", len(whole.Readers), len(whole.Decisions), err)
		}
		total := len(whole.Readers) + len(whole.Decisions)
		for _, size := range []int{1, 2, 7, total - 1, total, total + 1} {
			all, pages := Answer{Reference: whole.Reference}, 0
			q.PageSize, q.PageToken = size, ""
			for {
				page, err := Explain(integrations, q)
				if n := len(page.Readers) + len(page.Decisions); err != nil || n > size || page.Next != "" && n != size {
					t.Fatalf("a page of %d entries for a size of %d: %v", n, size, err)
				}
				all.Readers, all.Decisions = append(all.Readers, page.Readers...), append(all.Decisions, page.Decisions...)
				pages++
				if q.PageToken = page.Next; q.PageToken == "" {
					break
				}
			}
			if diff := cmp.Diff(whole, all, cmpopts.IgnoreUnexported(Answer{})); diff != "" || pages != (total+size-1)/size {
				t.Errorf("%d pages of %d entries: %s", pages, size, diff)
			}
		}
	}
}

// TestExplainPagesAfterAChange: a page begins after the last entry of the previous one, although
// that entry is gone.
func TestExplainPagesAfterAChange(t *testing.T) {
	before := []*integration.Integration{sampleIntegration(t, "x", []string{prod}, to("dns:a", "dns:b", "dns:c"))}
	after := []*integration.Integration{sampleIntegration(t, "x", []string{prod}, to("dns:a", "dns:b2", "dns:c"))}
	q := Question{Reference: prod + "::db", PageSize: 2}
	first, err := Explain(before, q)
	if err != nil {
		t.Fatal(err)
	}
	q.PageToken = first.Next
	second, err := Explain(after, q)
	if err != nil || len(second.Readers) != 2 || second.Readers[0].Principal != "dns:b2" || second.Next != "" {
		t.Errorf("%+v, %v", second, err)
	}
	for name, change := range map[string]func(*Question){
		"another reference":   func(q *Question) { q.Reference = stage + "::db" },
		"another integration": func(q *Question) { q.IntegrationID = "x" },
		"another principal":   func(q *Question) { q.Principal = "dns:a" },
		"no token":            func(q *Question) { q.PageToken = "!" },
		"another position":    func(q *Question) { q.PageToken = makeToken("x", q.text()) },
	} {
		q := q
		change(&q)
		if a, err := Explain(after, q); err == nil || secret.AsError(err).Reason != secret.ReasonInvalidRequest {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

// TestExplainPageIsBounded: a page does not exceed what a gRPC client accepts, even with
// documents of the maximum size.
func TestExplainPageIsBounded(t *testing.T) {
	const maxDocument = 1 << 20 // strictyaml.MaxSize
	var grants []authz.Grant
	for i := range maxDocument / len("- {principals: [dns:00000]}\n") {
		grants = append(grants, to(fmt.Sprintf("dns:%05d", i)))
	}
	var integrations []*integration.Integration
	for i := range 3 {
		in := sampleIntegration(t, fmt.Sprint("x", i), []string{prod})
		in.Policy = longPolicy(t, grants)
		integrations = append(integrations, in)
	}
	q := Question{Reference: prod + "::db", Principal: worker, PageSize: maxPageSize}
	decisions := 0
	for {
		page, err := Explain(integrations, q)
		if err != nil {
			t.Fatal(err)
		}
		size := 0 // about as long as its message; each match has four flags of two bytes
		for _, d := range page.Decisions {
			decisions++
			size += len(d.IntegrationID) + len(d.Explanation) + 20
			for _, g := range d.Grants {
				size += len(g.GrantID) + 12
			}
		}
		for _, r := range page.Readers {
			size += len(r.IntegrationID) + len(r.GrantID) + len(r.Principal) + 12
		}
		if size > 7<<19 {
			t.Fatalf("a page of %d bytes", size)
		}
		if decisions == len(integrations) || page.Next == "" {
			break
		}
		q.PageToken = page.Next
	}
	if decisions != len(integrations) {
		t.Errorf("%d decisions", decisions)
	}
}

// longPolicy returns a policy whose grants have ids as long as derived ones.
func longPolicy(t *testing.T, grants []authz.Grant) *authz.Policy {
	t.Helper()
	for i := range grants {
		grants[i].ID = fmt.Sprintf("%032d", i)
	}
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{prod}, grants)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func TestExplainErrors(t *testing.T) {
	many := sample(t)
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		many = append(many, sampleIntegration(t, id, []string{prod}))
	}
	for _, tt := range []struct {
		name         string
		integrations []*integration.Integration
		q            Question
		reason       secret.Reason
		text         string
	}{
		{"no reference", nil, Question{}, secret.ReasonInvalidReference, "not a reference"},
		{"a password by mistake", nil, Question{Reference: "hunter2"}, secret.ReasonInvalidReference, "not a reference"},
		{"no principal", nil, Question{Reference: prod + "::x", Principal: "worker-1"}, secret.ReasonInvalidRequest, "the principal: expected a SPIFFE ID"},
		{"a pattern", nil, Question{Reference: prod + "::x", Principal: "spiffe://example.org/*"}, secret.ReasonInvalidRequest, "a pattern can match many principals"},
		{"no integration", nil, Question{Reference: prod + "::x", IntegrationID: "sql"}, secret.ReasonInvalidRequest, "there is no integration with this id; the broker has no integrations"},
		{"no such integration", sample(t), Question{Reference: prod + "::x", IntegrationID: "sql"}, secret.ReasonInvalidRequest, "the ids are orders, sqlserver"},
		{"one of many", many, Question{Reference: prod + "::x", IntegrationID: "sql"}, secret.ReasonInvalidRequest, "the ids are a, b, c, d, e and 2 more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Explain(tt.integrations, tt.q)
			var e *secret.Error
			if !errors.As(err, &e) {
				t.Fatalf("err = %v, answer %+v", err, a)
			}
			if e.Reason != tt.reason || !strings.Contains(e.Message, tt.text) {
				t.Errorf("%s: %s, want %s: %s", e.Reason, e.Message, tt.reason, tt.text)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error quotes the invalid reference")
			}
		})
	}
}

// An integration's nil Policy denies; it must not affect the others.
func TestExplainNilPolicy(t *testing.T) {
	a, err := Explain([]*integration.Integration{{ID: "x"}}, Question{Reference: prod + "::x", Principal: worker})
	if err != nil {
		t.Fatal(err)
	}
	want := []Decision{{IntegrationID: "x", Explanation: "the integration has no grants, so no principal may use it; the store is not one of the integration's"}}
	if diff := cmp.Diff(want, a.Decisions); diff != "" {
		t.Error(diff)
	}
}

func TestExplanations(t *testing.T) {
	narrowed := func(g authz.Grant) authz.Grant {
		g.Principals = []string{"spiffe://example.org/connect/*"}
		return g
	}
	stranger := to("spiffe://example.org/stranger")
	bySecret := narrowed(authz.Grant{Secrets: []string{"sqlserver-*", "oracle"}})
	byKey := narrowed(authz.Grant{Keys: []string{"password", "user*"}})
	byVault := narrowed(authz.Grant{Stores: []string{stage}})
	byAll := narrowed(authz.Grant{Stores: []string{stage}, Secrets: []string{"a"}, Keys: []string{"k"}})
	for _, tt := range []struct {
		name, ref string
		grants    []authz.Grant
		want      string
	}{
		{"no grants", prod + "::db", nil, "the integration has no grants, so no principal may use it"},
		{"not named", prod + "::db", []authz.Grant{stranger}, "no grant names this principal"},
		{"not named, vault neither", other + "::db", []authz.Grant{stranger}, "no grant names this principal; the store is not one of the integration's"},
		{"other secrets", prod + "::db", []authz.Grant{bySecret}, "grant 0 names the principal but allows only secrets sqlserver-*, oracle"},
		{"other vaults", prod + "::db", []authz.Grant{stranger, byVault}, "grant 1 names the principal but allows only stores " + stage},
		{"other keys", prod + "::db::Password", []authz.Grant{byKey}, "grant 0 names the principal but allows only JSON keys password, user*"},
		{"the whole secret", prod + "::db", []authz.Grant{byKey}, "grant 0 allows only single JSON keys (password, user*), but the reference asks for the whole secret"},
		{"the vault", other + "::db", []authz.Grant{stranger, narrowed(authz.Grant{})}, "grant 1 would allow it, but the store is not one of the integration's"},
		{"the vault and more", other + "::db", []authz.Grant{bySecret}, "grant 0 names the principal but allows only secrets sqlserver-*, oracle; the store is not one of the integration's"},
		{"everything", prod + "::db::key", []authz.Grant{byAll}, "grant 0 names the principal but allows only stores " + stage + " and secrets a and JSON keys k"},
		{"everything, and the whole", prod + "::db", []authz.Grant{byAll},
			"grant 0 names the principal but allows only stores " + stage + " and secrets a, and of those only single JSON keys, but the reference asks for the whole secret"},
		{"the closest first", prod + "::db", []authz.Grant{byAll, bySecret, byKey},
			"grant 1 names the principal but allows only secrets sqlserver-*, oracle; " +
				"grant 2 allows only single JSON keys (password, user*), but the reference asks for the whole secret; " +
				"grant 0 names the principal but allows only stores " + stage + " and secrets a, and of those only single JSON keys, but the reference asks for the whole secret"},
		{"many grants", prod + "::db", []authz.Grant{byVault, byVault, byVault, byVault, byVault, byVault, byVault},
			strings.Repeat("grant N names the principal but allows only stores "+stage+"; ", 5) + "2 more grants name the principal but do not allow it either"},
		{"many patterns", prod + "::db", []authz.Grant{narrowed(authz.Grant{Secrets: []string{"a", "b", "c", "d", "e", "f"}})},
			"grant 0 names the principal but allows only secrets a, b, c, d, e and 1 more"},
		{"odd keys", prod + "::db::k", []authz.Grant{narrowed(authz.Grant{Keys: []string{"a, b", "\x1b[2J", "é"}})},
			`grant 0 names the principal but allows only JSON keys "a, b", "\x1b[2J", é`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := Explain([]*integration.Integration{sampleIntegration(t, "x", []string{prod, stage}, tt.grants...)}, Question{Reference: tt.ref, Principal: worker})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range "01234" {
				tt.want = strings.Replace(tt.want, "grant N", "grant "+string(n), 1)
			}
			got := a.Decisions[0]
			if diff := cmp.Diff(tt.want, got.Explanation); diff != "" {
				t.Error(diff)
			}
			if got.Allowed || got.GrantID != "" || len(got.Grants) != len(tt.grants) {
				t.Errorf("allowed %v by grant %q of %d", got.Allowed, got.GrantID, len(got.Grants))
			}
		})
	}
}
