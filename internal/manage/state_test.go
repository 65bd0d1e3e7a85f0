package manage_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/dirstore"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const fileDocument = `id: a
display_name: SQL Server CDC
kind: AZURE_KEY_VAULT
azure: {credential: {type: managed_identity}, vaults: [` + vault + `]}
placement: {region: westeurope}
grants: [{id: workers, principals: ["spiffe://example.org/connect/*"]}]
roles: {auditor: [` + string(auditor) + `]}
`

// fileBench is a Service over a directory of files, named after integrations.
type fileBench struct {
	*bench
	dir   string
	files *dirstore.Store
}

func newFileBench(t *testing.T, rules placement.Config, files map[string]string) *fileBench {
	t.Helper()
	b := &fileBench{bench: newBench(t, rules), dir: t.TempDir()}
	for id, content := range files {
		b.write(t, id, content)
	}
	var err error
	if b.files, err = dirstore.Open(dirstore.Config{Kinds: kinds.All(), Dir: b.dir}); err != nil {
		t.Fatal(err)
	}
	b.cfg.Store = b.files
	b.Service = manage.New(b.cfg)
	return b
}

func (b *fileBench) write(t *testing.T, id, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, id+".yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStates: an answer says what is in effect of a faulty integration, and has it. Who has a
// role on what is in effect still sees it.
func TestStates(t *testing.T) {
	rules := placement.Config{Regions: []string{"westeurope"}}
	b := newFileBench(t, rules, map[string]string{
		"a":      fileDocument,
		"never":  strings.Replace(fileDocument, "id: a", "id: never", 1) + "password: canary\n",
		"placed": strings.NewReplacer("id: a", "id: placed", "westeurope", "eastus").Replace(fileDocument),
	})
	check := func(id string, state manage.State, grants int, problem string) {
		t.Helper()
		in := b.get(t, id)
		if in.State != state || len(in.Document.Grants) != grants {
			t.Errorf("%s: %s with %d grants, want %s with %d", id, in.State, len(in.Document.Grants), state, grants)
		}
		if (problem == "") != (len(in.Problems) == 0) || problem != "" && !strings.Contains(in.Problems[0].Message, problem) {
			t.Errorf("%s: problems %v, want %q", id, in.Problems, problem)
		}
	}
	check("a", manage.Active, 1, "")
	check("never", manage.Inactive, 0, "never.yaml:")
	check("placed", manage.Inactive, 1, "placement.region")

	b.write(t, "a", fileDocument+"colour: red\n")
	b.files.Reload()
	check("a", manage.Degraded, 1, "a.yaml:8: ")
	for _, who := range []authz.Principal{orgAuditor, auditor} {
		all, _, err := b.List(t.Context(), as(who), manage.ListOptions{Filter: "faulty AND kind = AZURE_KEY_VAULT AND id = a"})
		if err != nil || len(all) != 1 || all[0].State != manage.Degraded || len(all[0].Document.Grants) != 1 || all[0].Revision == "" {
			t.Errorf("%s: %+v, %v", who, all, err)
		}
	}
	// It is unknown who has a role on an integration that was never valid.
	if _, err := b.Get(t.Context(), as(auditor), "never"); reasonOf(err) != secret.ReasonAccessDenied {
		t.Errorf("an auditor of one integration: %v", err)
	}
}

// TestUnreadableDocument: a document with settings of a newer release is not changed, because
// the change would lose them, unless the change replaces all of it.
func TestUnreadableDocument(t *testing.T) {
	b := newSampleBench(t)
	doc := sample(t, "cspi")
	text, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(text), "- principals:", "- only_on_sundays: true\n    principals:", 1)
	store := &newerStore{Store: b.store, document: []byte(newer)}
	b.cfg.Store = store
	s := manage.New(b.cfg)
	grant := manage.Grant{Principals: []string{"dns:other.example.org"}}
	doc.DisplayName = "New"
	for what, err := range map[string]error{
		"GrantUse":   fault(s.Grant(t.Context(), as(orgOwner), "cspi", grant, manage.WriteOptions{})),
		"RevokeUse":  fault(s.Revoke(t.Context(), as(orgOwner), "cspi", grant, manage.WriteOptions{})),
		"UpdateName": updateError(t, s, doc, []string{"display_name"}),
	} {
		if reasonOf(err) != secret.ReasonInvalidIntegration || !strings.Contains(err.Error(), "would lose them") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := updateError(t, s, doc, []string{"*"}); err != nil {
		t.Errorf("a replacement: %v", err)
	}
}

// newerStore returns a document that this release cannot read completely.
type newerStore struct {
	registry.Store
	document []byte
}

func (s *newerStore) Record(ctx context.Context, id string) (registry.Record, error) {
	r, err := s.Store.Record(ctx, id)
	r.Document = s.document
	return r, err
}

func updateError(t *testing.T, s *manage.Service, doc manage.Document, mask []string) error {
	t.Helper()
	_, _, err := s.Update(t.Context(), as(orgOwner), doc, mask, nil, manage.WriteOptions{})
	return err
}
