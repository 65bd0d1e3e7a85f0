package kinds

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
)

// A document that is decoded and encoded again has the same meaning for the parser.
func TestDocumentKeepsWhatAFileSays(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc := All().DecodeDocument("full.yaml", data)
	if err := doc.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	written, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	opts := cmp.AllowUnexported(integration.Integration{})
	before := All().ParseFile("/etc/integrations/full.yaml", data, sound)
	after := All().ParseFile("/etc/integrations/full.yaml", written, sound)
	if err := after.Faults.Err(); err != nil {
		t.Fatalf("%v\n%s", err, written)
	}
	if diff := cmp.Diff(before.Integration.Settings.(*azurekv.Settings), after.Integration.Settings.(*azurekv.Settings), opts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before.Integration.Policy.Rules(), after.Integration.Policy.Rules()); diff != "" {
		t.Error(diff)
	}
	if before.Integration.Reads != after.Integration.Reads || before.Integration.CacheTTL != after.Integration.CacheTTL || before.Integration.Placement != after.Integration.Placement {
		t.Errorf("%+v\n%+v", before.Integration, after.Integration)
	}
	// Through JSON and back.
	settings := doc.Settings()
	if err := doc.SetSettings(settings); err != nil {
		t.Fatal(err)
	}
	again, err := doc.Encode()
	if err != nil || string(again) != string(written) {
		t.Errorf("%v\n%s", err, again)
	}
	if got := doc.Line("azure.vaults[1]"); got != 13 {
		t.Errorf("line %d", got)
	}
}

func TestDocumentCredentialFiles(t *testing.T) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc := All().DecodeDocument("full.yaml", data)
	want := map[string]string{"azure.credential.client_secret": "/d/credentials/client-secret", "azure.events.credential.certificate": "/d/credentials/events.pem"}
	if diff := cmp.Diff(want, doc.CredentialFiles("/d")); diff != "" {
		t.Error(diff)
	}
	if document, err := doc.Encode(); err != nil || strings.Contains(string(document), "credentials/client-secret") || !strings.Contains(string(document), "ca_file: ca.pem") {
		t.Errorf("%v\n%s", err, document)
	}
}

func TestDecodeDocumentFaults(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"id: a", "f:1: kind: missing; it is required"},
		{"id: a\nkind: X", "f:2: kind: there is no such kind"},
		{"id: a\nkind: AZURE_KEY_VAULT\naws: {a: b}", "f:3: aws: does not belong to the kind; remove it or change the kind"},
		{"id: a\nkind: AZURE_KEY_VAULT\ngrants: [{principals: [a], secrets: []}]",
			"f:3: grants[0].secrets: an empty list would allow nothing; list what is allowed, or remove the setting to allow everything"},
	} {
		f := All().DecodeDocument("f", []byte(tt.text))
		if got := f.Faults.Error(); got != tt.want {
			t.Errorf("%s: got %s", tt.text, got)
		}
	}
}

func TestSetSettings(t *testing.T) {
	f := integration.Document{Kind: "AZURE_KEY_VAULT"}
	if err := f.SetSettings(map[string]any{"n": 3.0, "l": []any{true, map[string]any{"s": "x"}}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"n": 3, "l": []any{true, map[string]any{"s": "x"}}}, f.Settings()); diff != "" {
		t.Error(diff)
	}
	deep := map[string]any{}
	for range 20 {
		deep = map[string]any{"d": deep}
	}
	for _, bad := range []map[string]any{{"n": 1.5}, {"n": nil}, {"l": []any{nil}}, deep} {
		if err := f.SetSettings(bad); err == nil || !strings.HasPrefix(err.Error(), "settings.") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestIsOrdinary(t *testing.T) {
	for setting, want := range map[string]bool{
		"display_name": true, "grants": true, "azure.vaults": true, "azure.vaults[1]": true, "azure.credential.type=client_secret": true,
		"azure.credential.type=managed_identity": false, "azure.dial": false, "azure.ca_file": false, "azure.private_endpoint": false,
		"azure.authority_host": false, "azure.vaultsx": false, "azure.credential.client_secret_file": false, "azure.credential.type": false,
	} {
		if got := All().IsMutable("AZURE_KEY_VAULT", setting); got != want {
			t.Errorf("%s: %v", setting, got)
		}
	}
	if All().IsMutable("LOCAL_FILE", "local.directories") || All().IsMutable("HASHICORP_VAULT", "vault.auth.type=kubernetes") {
		t.Error("what is not listed is closed")
	}
}
