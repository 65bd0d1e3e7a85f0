package manage_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestWhoMayDoWhat makes every call as every caller, on an integration that exists and on
// one that does not.
func TestWhoMayDoWhat(t *testing.T) {
	check := manage.WriteOptions{ValidateOnly: true}
	const denied, missing = secret.ReasonAccessDenied, secret.ReasonIntegrationNotFound
	calls := map[string]func(b *bench, who manage.Caller, id string) error{
		"create": func(b *bench, who manage.Caller, _ string) error {
			return fault(b.Create(t.Context(), who, sample(t, "new"), credentials(), check))
		},
		"get": func(b *bench, who manage.Caller, id string) error { return fault(b.Get(t.Context(), who, id)) },
		"usage": func(b *bench, who manage.Caller, id string) error {
			return fault(b.Usage(t.Context(), who, manage.UsageQuery{IntegrationID: id}))
		},
		"update": func(b *bench, who manage.Caller, id string) error {
			_, _, err := b.Update(t.Context(), who, manage.Document{ID: id, DisplayName: "new"}, nil, nil, check)
			return err
		},
		"delete":   func(b *bench, who manage.Caller, id string) error { return b.Delete(t.Context(), who, id, check) },
		"validate": func(b *bench, who manage.Caller, id string) error { return fault(b.Validate(t.Context(), who, id)) },
		"grant": func(b *bench, who manage.Caller, id string) error {
			return fault(b.Grant(t.Context(), who, id, manage.Grant{Principals: []string{"dns:a"}}, check))
		},
		"revoke": func(b *bench, who manage.Caller, id string) error {
			g := manage.Grant{Principals: []string{"spiffe://example.org/connect/*"}, Secrets: []string{"sqlserver-*"}}
			return fault(b.Revoke(t.Context(), who, id, g, check))
		},
	}
	may := map[string][]authz.Principal{
		"create":   {orgOwner},
		"get":      {orgOwner, orgAssigner, orgAuditor, owner, assigner, auditor},
		"usage":    {orgOwner, orgAssigner, orgAuditor, owner, assigner, auditor},
		"update":   {orgOwner, owner},
		"delete":   {orgOwner, owner},
		"validate": {orgOwner, orgAssigner, owner, assigner},
		"grant":    {orgOwner, orgAssigner, owner, assigner},
		"revoke":   {orgOwner, orgAssigner, owner, assigner},
	}
	everywhere := map[authz.Principal]bool{orgOwner: true, orgAssigner: true, orgAuditor: true}
	b := newSampleBench(t)
	for name, call := range calls {
		for _, who := range []authz.Principal{orgOwner, orgAssigner, orgAuditor, owner, assigner, auditor, worker} {
			want := denied
			if slices.Contains(may[name], who) {
				want = ""
			}
			if got := reasonOf(call(b, as(who), "cspi")); got != want {
				t.Errorf("%s by %s: %q, want %q", name, who, got, want)
			}
			lines, _ := b.audit.take(t)
			if last := lines[len(lines)-1]; strings.Contains(last, "denied") != (want == denied) {
				t.Errorf("%s by %s is recorded as %v", name, who, lines)
			}
			if name == "create" {
				continue
			}
			want = denied
			if everywhere[who] {
				want = missing
			}
			if got := reasonOf(call(b, as(who), "nowhere")); got != want {
				t.Errorf("%s by %s where there is none: %q, want %q", name, who, got, want)
			}
		}
	}
}

// A caller without a role cannot find out which integrations exist.
func TestNothingIsLearnedWithoutARole(t *testing.T) {
	b := newSampleBench(t)
	_, there := b.Get(t.Context(), as(worker), "cspi")
	_, notThere := b.Get(t.Context(), as(worker), "cspj")
	if there == nil || notThere == nil || there.Error() != notThere.Error() {
		t.Errorf("%v\n%v", there, notThere)
	}
	all, next, err := b.List(t.Context(), as(worker), manage.ListOptions{})
	if err != nil || len(all) != 0 || next != "" {
		t.Errorf("%v %q %v", all, next, err)
	}
}

func TestChangesAreRecordedBeforeAndAfter(t *testing.T) {
	b := newBench(t, placement.Config{})
	in, err := b.Create(t.Context(), as(orgOwner), sample(t, "cspi"), credentials(), manage.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if in.ETag == "" || in.CreatedBy != orgOwner || !cmp.Equal(in.CredentialNames, []string{"azure.credential.client_secret"}) {
		t.Errorf("%+v", in)
	}
	_, changed, err := b.Update(t.Context(), as(owner), manage.Document{ID: "cspi", Cache: integration.CacheSection{TTL: 6e10}}, []string{"cache.ttl"}, credentials(), manage.WriteOptions{ETag: in.ETag})
	if err != nil || !cmp.Equal(changed, []string{"cache.ttl", "credentials.azure.credential.client_secret"}) {
		t.Fatalf("%v, %v", changed, err)
	}
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	lines, events := b.audit.take(t)
	want := []string{"CreateIntegration attempted", "CreateIntegration changed", "UpdateIntegration attempted", "UpdateIntegration changed", "DeleteIntegration attempted", "DeleteIntegration changed"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Fatal(diff)
	}
	for i, has := range map[int][2]bool{0: {false, true}, 2: {true, true}, 4: {true, false}} {
		c := events[i].Change
		if (len(c.Before) > 0) != has[0] || (len(c.After) > 0) != has[1] || len(c.Credentials) != 1 {
			t.Errorf("%s: %+v", lines[i], c)
		}
	}
	c := events[2].Change
	if !cmp.Equal(c.Fields, []string{"cache.ttl"}) || !strings.Contains(string(c.After), `"ttl":"1m"`) || strings.Contains(string(c.Before), `"ttl"`) || !events[4].Change.Forced {
		t.Errorf("%s\n%s\n%v", c.Before, c.After, c.Fields)
	}
}

// Without a record, nothing is changed and nothing is answered.
func TestNoChangeWithoutARecord(t *testing.T) {
	b := newBench(t, placement.Config{})
	in := b.create(t, "cspi")
	b.audit.broken = func(audit.Event) bool { return true }
	who := as(orgOwner)
	_, errCreate := b.Create(t.Context(), who, sample(t, "other"), credentials(), manage.WriteOptions{})
	_, _, errUpdate := b.Update(t.Context(), who, manage.Document{ID: "cspi", DisplayName: "x"}, nil, nil, manage.WriteOptions{})
	errDelete := b.Delete(t.Context(), who, "cspi", manage.WriteOptions{})
	_, errGet := b.Get(t.Context(), who, "cspi")
	_, _, errList := b.List(t.Context(), who, manage.ListOptions{})
	for i, err := range []error{errCreate, errUpdate, errDelete, errGet, errList} {
		if reasonOf(err) != secret.ReasonAuditUnavailable {
			t.Errorf("call %d: %v", i, err)
		}
	}
	b.audit.broken = nil
	if got := b.get(t, "cspi"); got.ETag != in.ETag {
		t.Error("it was changed without a record")
	}
	if _, err := b.Get(t.Context(), who, "other"); reasonOf(err) != secret.ReasonIntegrationNotFound {
		t.Errorf("it was created without a record: %v", err)
	}
	// A record that fails only afterwards does not hide the change.
	b.audit.broken = func(e audit.Event) bool { return e.Outcome == audit.Changed }
	_, _, err := b.Update(t.Context(), who, manage.Document{ID: "cspi", DisplayName: "y"}, nil, nil, manage.WriteOptions{})
	if reasonOf(err) != secret.ReasonAuditUnavailable || !strings.Contains(err.Error(), "the change was made") {
		t.Errorf("got %v", err)
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t, placement.Config{Regions: []string{"westeurope"}})
	in := b.create(t, "cspi")
	update := func(who authz.Principal, edit func(*manage.Document), mask []string, o manage.WriteOptions) error {
		f := in.Document
		edit(&f)
		_, _, err := b.Update(t.Context(), as(who), f, mask, nil, o)
		return err
	}
	for _, tt := range []struct {
		name string
		err  error
		want secret.Reason
	}{
		{"an id that is taken", func() error {
			_, err := b.Create(t.Context(), as(orgOwner), in.Document, credentials(), manage.WriteOptions{})
			return err
		}(), secret.ReasonIntegrationExists},
		{"an etag of before", update(owner, func(f *manage.Document) { f.DisplayName = "x" }, nil, manage.WriteOptions{ETag: "old"}), secret.ReasonIntegrationChanged},
		{"another kind", update(owner, func(f *manage.Document) { f.Kind = "AWS_SECRETS_MANAGER" }, nil, manage.WriteOptions{}), secret.ReasonInvalidIntegration},
		{"a mask of the kind", update(owner, func(*manage.Document) {}, []string{"kind"}, manage.WriteOptions{}), secret.ReasonInvalidRequest},
		{"a mask of nothing there is", update(owner, func(*manage.Document) {}, []string{"azure"}, manage.WriteOptions{}), secret.ReasonInvalidRequest},
		{"a vault that is none", update(owner, func(f *manage.Document) { change(t, f, func(s map[string]any) { s["vaults"] = []any{"http://x"} }) }, nil, manage.WriteOptions{}), secret.ReasonInvalidIntegration},
		{"a grant to nobody", update(owner, func(f *manage.Document) { f.Grants = []manage.Grant{{Secrets: []string{"a"}}} }, nil, manage.WriteOptions{}), secret.ReasonInvalidIntegration},
		{"a role of no principal", update(owner, func(f *manage.Document) { f.Roles.Auditor = []string{"x"} }, nil, manage.WriteOptions{}), secret.ReasonInvalidIntegration},
		{"an owner who gives it up", update(owner, func(f *manage.Document) { f.Roles.ResourceOwner = []string{"dns:b"} }, nil, manage.WriteOptions{}), secret.ReasonOwnerLockout},
		{"a region that is not allowed", update(owner, func(f *manage.Document) { f.Placement.Region = "eastus" }, nil, manage.WriteOptions{}), secret.ReasonPlacementDenied},
		{"no region", update(owner, func(f *manage.Document) { f.Placement.Region = "" }, []string{"placement"}, manage.WriteOptions{}), secret.ReasonPlacementDenied},
		{"the machine's identity", update(owner, func(f *manage.Document) {
			change(t, f, func(s map[string]any) { s["credential"] = map[string]any{"type": "managed_identity"} })
		}, nil, manage.WriteOptions{}), secret.ReasonAccessDenied},
		{"an address to connect to", update(owner, func(f *manage.Document) {
			change(t, f, func(s map[string]any) {
				s["dial"] = map[string]any{"your-key-vault-name.vault.azure.net": "10.0.0.1:443"}
			})
		}, nil, manage.WriteOptions{}), secret.ReasonAccessDenied},
		{"a file of the machine, by the owner of all", update(orgOwner, func(f *manage.Document) {
			change(t, f, func(s map[string]any) { s["ca_file"] = "/etc/shadow" })
		}, nil, manage.WriteOptions{}), secret.ReasonInvalidIntegration},
		{"a grant that is not there", func() error {
			_, err := b.Revoke(t.Context(), as(assigner), "cspi", manage.Grant{Principals: []string{"dns:none"}}, manage.WriteOptions{})
			return err
		}(), secret.ReasonInvalidRequest},
	} {
		if got := reasonOf(tt.err); got != tt.want {
			t.Errorf("%s: %q, want %q: %v", tt.name, got, tt.want, tt.err)
		}
	}
	lines, _ := b.audit.take(t)
	for _, line := range lines {
		if strings.HasSuffix(line, " attempted") || strings.HasSuffix(line, " changed") {
			t.Errorf("a refused change was attempted: %s", line)
		}
	}
	if got := b.get(t, "cspi"); got.ETag != in.ETag {
		t.Error("a refused change was made")
	}
}

// If an integration uses the machine's identity, its owner may not change the stores that
// are read with it.
func TestLentIdentityStaysWhereItWasLent(t *testing.T) {
	b := newBench(t, placement.Config{})
	f := sample(t, "cspi")
	change(t, &f, func(s map[string]any) { s["credential"] = map[string]any{"type": "managed_identity"} })
	if _, err := b.Create(t.Context(), as(orgOwner), f, nil, manage.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	change(t, &f, func(s map[string]any) { s["vaults"] = []any{vault, "https://another-vault.vault.azure.net"} })
	for who, want := range map[authz.Principal]secret.Reason{owner: secret.ReasonAccessDenied, orgOwner: ""} {
		if _, _, err := b.Update(t.Context(), as(who), f, nil, nil, manage.WriteOptions{ValidateOnly: true}); reasonOf(err) != want {
			t.Errorf("%s: %v", who, err)
		}
	}
	if _, _, err := b.Update(t.Context(), as(owner), manage.Document{ID: "cspi", DisplayName: "x"}, nil, nil, manage.WriteOptions{}); err != nil {
		t.Errorf("the owner may change the rest: %v", err)
	}
}

func TestFaultsNameFields(t *testing.T) {
	b := newBench(t, placement.Config{})
	f := sample(t, "cspi")
	change(t, &f, func(s map[string]any) { s["vaults"], s["tenant"] = []any{"http://x"}, "y" })
	f.Grants[0].Stores = []string{"https://other-vault.vault.azure.net"}
	_, err := b.Create(t.Context(), as(orgOwner), f, nil, manage.WriteOptions{})
	invalid, ok := manage.IsInvalid(err)
	if !ok {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, fault := range invalid.Faults {
		fields[fault.Field] = true
	}
	for _, want := range []string{"integration.settings.vaults[0]", "integration.settings", "integration.grants[0].stores[0]", "integration.settings.credential.client_secret_file"} {
		if !fields[want] {
			t.Errorf("no fault of %s in %v", want, invalid.Faults)
		}
	}
}

func TestCredentialFaultsNameFields(t *testing.T) {
	b := newBench(t, placement.Config{})
	given := credentials()
	given["azure.credential.certificate"] = secret.NewValue([]byte("canary-certificate"))
	_, err := b.Create(t.Context(), as(orgOwner), sample(t, "cspi"), given, manage.WriteOptions{})
	invalid, ok := manage.IsInvalid(err)
	if !ok || len(invalid.Faults) != 1 || invalid.Faults[0].Field != `integration.credentials["azure.credential.certificate"]` || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	for name, v := range given {
		func() {
			defer func() {
				if recover() == nil { // which a wiped value does when it is used
					t.Errorf("%s was not wiped", name)
				}
			}()
			_ = v.Len()
		}()
	}
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	b := newBench(t, placement.Config{})
	in, err := b.Create(t.Context(), as(orgOwner), sample(t, "cspi"), credentials(), manage.WriteOptions{ValidateOnly: true})
	if err != nil || in.Document.ID != "cspi" || in.ETag != "" {
		t.Fatalf("%+v, %v", in, err)
	}
	if _, err := b.Get(t.Context(), as(orgOwner), "cspi"); reasonOf(err) != secret.ReasonIntegrationNotFound {
		t.Errorf("got %v", err)
	}
	was := b.create(t, "cspi")
	if _, changed, err := b.Update(t.Context(), as(owner), manage.Document{ID: "cspi", DisplayName: "x"}, nil, nil, manage.WriteOptions{ValidateOnly: true}); err != nil || !cmp.Equal(changed, []string{"display_name"}) {
		t.Errorf("%v, %v", changed, err)
	}
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{ValidateOnly: true}); err != nil {
		t.Error(err)
	}
	lines, _ := b.audit.take(t)
	if diff := cmp.Diff([]string{"UpdateIntegration answered", "DeleteIntegration answered"}, lines); diff != "" {
		t.Error(diff)
	}
	if b.get(t, "cspi").ETag != was.ETag {
		t.Error("something has changed")
	}
}

func TestDeleteIsRefusedWhileInUse(t *testing.T) {
	b := newSampleBench(t)
	use := func(ago time.Duration) {
		if err := b.store.MergeUsage(t.Context(), []registry.Usage{{
			Integration: "cspi", Principal: worker, Connector: "orders", Store: vault, Secret: "sqlserver-db", FirstAt: now.Add(-ago), LastAt: now.Add(-ago),
		}}); err != nil {
			t.Fatal(err)
		}
	}
	use(time.Hour)
	err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{})
	if reasonOf(err) != secret.ReasonIntegrationInUse || !strings.Contains(err.Error(), string(worker)) || !strings.Contains(err.Error(), `"orders"`) {
		t.Errorf("got %v", err)
	}
	if err := b.Delete(t.Context(), as(assigner), "cspi", manage.WriteOptions{Force: true}); reasonOf(err) != secret.ReasonAccessDenied {
		t.Errorf("forced by an assigner: %v", err)
	}
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	b.create(t, "cspi")
	use(25 * time.Hour)
	if err := b.Delete(t.Context(), as(owner), "cspi", manage.WriteOptions{}); err != nil {
		t.Errorf("used before the window: %v", err)
	}
}
