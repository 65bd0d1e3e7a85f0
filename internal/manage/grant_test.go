package manage_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestGrantAndRevoke(t *testing.T) {
	b := newSampleBench(t)
	g := manage.Grant{Principals: []string{"dns:b", "dns:a"}, Keys: []string{"k"}}
	for range 2 { // the second time it is there already
		in, err := b.Grant(t.Context(), as(assigner), "cspi", g, manage.WriteOptions{})
		if err != nil || len(in.Document.Grants) != 2 {
			t.Fatalf("%v, %v", in.Document.Grants, err)
		}
	}
	live, err := b.store.Get("cspi")
	if err != nil || live.Policy.Decide("dns:a", secret.Ref{Kind: secret.KindAzureKeyVault, Store: vault, Name: "x", Key: "k"}).Effect != authz.Allowed {
		t.Error("the grant is not in effect")
	}
	in, err := b.Revoke(t.Context(), as(assigner), "cspi", manage.Grant{Principals: []string{"dns:a", "dns:b"}, Keys: []string{"k"}}, manage.WriteOptions{})
	if err != nil || len(in.Document.Grants) != 1 || in.CreatedAt != now {
		t.Errorf("%v, %v", in, err)
	}
	lines, _ := b.audit.take(t)
	want := []string{"GrantUse attempted", "GrantUse changed", "GrantUse answered", "RevokeUse attempted", "RevokeUse changed"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

// TestGrantIDs: grants are found by id, by content, or by both.
func TestGrantIDs(t *testing.T) {
	b := newSampleBench(t)
	plain := manage.Grant{Principals: []string{"dns:a", "dns:b"}}
	named := manage.Grant{ID: "team-a", Principals: []string{"dns:b", "dns:a", "dns:b"}}
	derived := manage.Grant{ID: plain.DerivedID(), Principals: plain.Principals}
	ids := func() (ids []string) {
		t.Helper()
		for _, g := range b.get(t, "cspi").Document.Grants[1:] { // without the sample's
			ids = append(ids, g.ID)
		}
		return ids
	}
	for _, step := range []struct {
		name   string
		revoke bool
		grant  manage.Grant
		reason secret.Reason
		want   []string
	}{
		{"a name", false, named, "", []string{"team-a"}},
		{"again", false, named, "", []string{"team-a"}},
		{"the same content without a name", false, plain, "", []string{"team-a"}},
		{"the same content with its derived id", false, derived, "", []string{"team-a", ""}},
		{"the name with other content", false, manage.Grant{ID: "team-a", Principals: []string{"dns:c"}}, secret.ReasonInvalidIntegration, []string{"team-a", ""}},
		{"a derived id with other content", false, manage.Grant{ID: derived.ID, Principals: []string{"dns:c"}}, secret.ReasonInvalidIntegration, []string{"team-a", ""}},
		{"revoke another name", true, manage.Grant{ID: "team-b"}, secret.ReasonInvalidRequest, []string{"team-a", ""}},
		{"revoke the name with other content", true, manage.Grant{ID: "team-a", Principals: []string{"dns:c"}}, secret.ReasonInvalidRequest, []string{"team-a", ""}},
		{"revoke nothing", true, manage.Grant{}, secret.ReasonInvalidRequest, []string{"team-a", ""}},
		{"revoke the derived id", true, manage.Grant{ID: derived.ID}, "", []string{"team-a"}},
		{"revoke the name with its content", true, named, "", nil},
		{"a name once more", false, named, "", []string{"team-a"}},
		{"revoke the name", true, manage.Grant{ID: "team-a"}, "", nil},
		{"two names of one content", false, named, "", []string{"team-a"}},
		{"the other name", false, manage.Grant{ID: "team-b", Principals: plain.Principals}, "", []string{"team-a", "team-b"}},
		{"revoke all of the content", true, plain, "", nil},
	} {
		do := b.Grant
		if step.revoke {
			do = b.Revoke
		}
		_, err := do(t.Context(), as(assigner), "cspi", step.grant, manage.WriteOptions{})
		if reasonOf(err) != step.reason {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(step.want, ids()); diff != "" {
			t.Fatalf("%s: %s", step.name, diff)
		}
	}
}

// The records of a change name the revisions before and after it, which the registry serves.
func TestRevisionsOfAChange(t *testing.T) {
	b := newSampleBench(t)
	before, err := b.store.Get("cspi")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Grant(t.Context(), as(assigner), "cspi", manage.Grant{Principals: []string{"dns:a"}}, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	after, err := b.store.Get("cspi")
	if err != nil {
		t.Fatal(err)
	}
	_, events := b.audit.take(t)
	if len(events) != 2 || events[0].IntegrationRevision != before.Revision || events[1].IntegrationRevision != after.Revision || before.Revision == after.Revision {
		t.Errorf("%s to %s recorded as %+v", before.Revision, after.Revision, events)
	}
	if in := b.get(t, "cspi"); in.Revision != after.Revision {
		t.Errorf("callers see %s, and records contain %s", in.Revision, after.Revision)
	}
}
