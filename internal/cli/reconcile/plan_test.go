package reconcile

import (
	"fmt"
	"slices"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
)

// TestNewPlan: the plan has one change for each integration, and none for integrations that
// are equal, read-only, or not to be pruned.
func TestNewPlan(t *testing.T) {
	document := func(id, ttl string) *Document {
		t.Helper()
		d, err := ParseDocument(kinds.All(), id+".yaml", []byte("id: "+id+"\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: 8d3f6a52-1c0b-4a7e-9f25-6b1e0c9d4a10\n"+
			"  client_id: c2a97b14-5e6d-4f38-8b0a-73d5e1f2a649\n  credential: {type: client_secret, client_secret_file: secret.txt}\n"+
			"  vaults: [https://my-vault.vault.azure.net]\ncache: {ttl: "+ttl+"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	const name = "azure.credential.client_secret"
	existing := func(id, ttl string, readOnly bool) *client.Integration {
		in := IntegrationOf(&document(id, ttl).Document)
		in.CredentialNames, in.ReadOnly = []string{name}, readOnly
		return in
	}
	all := []*client.Integration{existing("changed", "5m", false), existing("same", "5m", false), existing("extra", "5m", false), existing("file", "5m", true)}
	documents := func() []*Document {
		return []*Document{document("new", "5m"), document("changed", "6m"), document("same", "5m")}
	}
	for _, tt := range []struct {
		o    Options
		want []string
	}{
		{Options{}, []string{"create new [" + name + "]", "update changed [] cache.ttl", "none same []"}},
		{Options{Prune: true}, []string{"create new [" + name + "]", "update changed [] cache.ttl", "none same []", "delete extra []"}},
		{Options{ReplaceCredentials: true}, []string{"create new [" + name + "]", "update changed [" + name + "] cache.ttl", "update same [" + name + "]"}},
	} {
		tt.o.Kinds = kinds.All()
		plan, err := NewPlan(documents(), all, tt.o)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range plan {
			text := fmt.Sprint(c.Action, " ", c.ID, " ", c.Credentials)
			if c.Action == Update {
				for _, f := range c.Fields {
					text += " " + f.Setting
				}
			}
			got = append(got, text)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: got %q, want %q", tt.o, got, tt.want)
		}
	}
}
