package connectmap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const canary = "Canary-7f3a"

func usesOf(m *Map) []string {
	var uses []string
	for _, u := range m.Uses {
		uses = append(uses, fmt.Sprintf("%s/%s %s: %s %s %q %s", u.Cluster, u.Connector, u.Property, u.Form, u.Integration, u.Label, u.Ref))
	}
	return uses
}

func TestAdd(t *testing.T) {
	cluster := &connectapi.Cluster{
		Name: "prod", Aliases: []string{"secretbroker", "vaults"},
		OtherProviders: []connectapi.OtherProvider{
			{Alias: "az", Form: connectapi.FormCSIDAzure, Store: "https://vlt.vault.azure.net", Integration: "cspi"},
			{Alias: "azwhole", Form: connectapi.FormCSIDAzure, Store: "https://vlt.vault.azure.net", WholeSecrets: true},
			{Alias: "aws", Form: connectapi.FormCSIDAWS, Store: "https://secretsmanager.eu-west-1.amazonaws.com", Prefix: "production/"},
			{Alias: "gcp", Form: connectapi.FormCSIDGCP, Store: "projects/1234"},
			{Alias: "vault", Form: connectapi.FormCSIDVault, Store: "https://vault.example.org:8200"},
			{Alias: "laz", Form: connectapi.FormLensesAzure},
			{Alias: "laws", Form: connectapi.FormLensesAWS, Store: "https://secretsmanager.eu-west-1.amazonaws.com"},
			{Alias: "lvault", Form: connectapi.FormLensesVault, Store: "https://vault.example.org:8200"},
		},
	}
	var m Map
	m.Add(cluster, []connectapi.Connector{
		{Name: "own", Unreadable: []string{"x"}, Config: map[string]string{
			"url":      "jdbc:x?u=${secretbroker:cspi:https://VLT.vault.azure.net::Db::user}&p=${vaults:cspi:https://vlt.vault.azure.net::db#0123456789abcdef0123456789abcdef}",
			"labelled": "${secretbroker:cspi/or%2Fders:https://vlt.vault.azure.net::db::password}",
			"bad":      "${secretbroker:cspi:" + canary + "}",
			"badlabel": "${secretbroker:cspi/%zz:https://vlt.vault.azure.net::db}",
			"unclosed": "${secretbroker:cspi:https://vlt.vault.azure.net::" + canary,
			"plain":    canary, "transforms": "${topic}-${file:/etc/x:" + canary + "}",
		}},
		{Name: "managed", Config: map[string]string{
			"secret.manager.enabled": "true", "secret.manager": "AZURE_KEY_VAULT", "secret.manager.managed.configs": "p,absent",
			"secret.manager.provider.integration.id": "cspi", "p": "https://vlt.vault.azure.net::db::password",
		}},
		{Name: "disabled", Config: map[string]string{
			"secret.manager.enabled": "false", "secret.manager.managed.configs": "p", "secret.manager.provider.integration.id": "cspi", "p": "https://vlt.vault.azure.net::db",
		}},
		{Name: "others", Config: map[string]string{
			"1": "${az:db?version=0123456789abcdef0123456789abcdef:password}", "2": "${azwhole:db:db}", "3": "${aws:db:password}", "4": "${gcp:db:password}", "5": "${vault:secret/db:password}",
			"6": "${laz:vlt.vault.azure.net:db}", "7": "${laws:db:password}", "8": "${lvault:secret/data/db:password}", "9": "${az:db}",
		}},
	})
	want := []string{
		`prod/managed p: secret.manager cspi "managed" https://vlt.vault.azure.net::db::password`,
		`prod/others 1: csid_azure cspi "" https://vlt.vault.azure.net::db#0123456789abcdef0123456789abcdef::password`,
		`prod/others 2: csid_azure  "" https://vlt.vault.azure.net::db`,
		`prod/others 3: csid_aws  "" https://secretsmanager.eu-west-1.amazonaws.com::production/db::password`,
		`prod/others 4: csid_gcp  "" projects/1234/secrets/db::password`,
		`prod/others 5: csid_vault  "" https://vault.example.org:8200::secret/db::password`,
		`prod/others 6: lenses_azure  "" https://vlt.vault.azure.net::db`,
		`prod/others 7: lenses_aws  "" https://secretsmanager.eu-west-1.amazonaws.com::db::password`,
		`prod/others 8: lenses_vault  "" https://vault.example.org:8200::secret/db::password`,
		`prod/own labelled: placeholder cspi "or/ders" https://vlt.vault.azure.net::db::password`,
		`prod/own url: placeholder cspi "" https://vlt.vault.azure.net::db::user`,
		`prod/own url: placeholder cspi "" https://vlt.vault.azure.net::db#0123456789abcdef0123456789abcdef`,
	}
	if diff := cmp.Diff(want, usesOf(&m)); diff != "" {
		t.Error(diff)
	}
	var faults []string
	for _, f := range m.Faults {
		faults = append(faults, f.Connector+" "+f.Property)
	}
	if diff := cmp.Diff([]string{"own x", "own bad", "own badlabel", "own unclosed", "managed secret.manager.managed.configs", "others 9"}, faults); diff != "" {
		t.Error(diff)
	}
	if len(m.Foreign) != 1 || m.Foreign[0].Provider != "file" || m.Foreign[0].Property != "transforms" || m.Connectors != 4 {
		t.Errorf("%+v", m.Foreign)
	}
	if text := fmt.Sprintf("%+v", m); strings.Contains(text, canary) {
		t.Errorf("the map has a value of a configuration: %s", text)
	}
}

// TestFamilies: the map has the references of the families of connectors that connectorfile
// is tested with, and no fault.
func TestFamilies(t *testing.T) {
	files, err := filepath.Glob("../connectorfile/testdata/families/*")
	if err != nil || len(files) < 10 {
		t.Fatal(err, len(files))
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := connectorfile.Parse(file, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range parsed {
			var m Map
			m.Add(&connectapi.Cluster{Name: "c", Aliases: []string{"secretbroker", "broker"}}, []connectapi.Connector{{Name: c.Name, Config: c.Configs}})
			want := len(c.Placeholders("secretbroker", "broker")) + len(c.ManagedReferences())
			if len(m.Uses) != want || len(m.Faults) > 0 {
				t.Errorf("%s: %d uses, want %d; %v", file, len(m.Uses), want, m.Faults)
			}
		}
	}
}

func TestSame(t *testing.T) {
	groups := [][]string{ // the same within a group, different between groups
		{"https://vlt.vault.azure.net::db::a", "https://VLT.vault.azure.net:443::DB#0123456789abcdef0123456789abcdef?decode=base64::b"},
		{"https://wlt.vault.azure.net::db"},
		{"https://secretsmanager.eu-west-1.amazonaws.com::db", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf::k"},
		{"https://secretsmanager.eu-west-2.amazonaws.com::db"},
		{"projects/1234/secrets/db", "projects/1234/secrets/db#3::k"},
		{"https://vault.example.org:8200::secret/db", "https://vault.example.org:8200::secret/db#2"},
	}
	ref := func(s string) secret.Ref {
		r, err := secret.ParseRef(s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for i, group := range groups {
		for _, a := range group {
			for j, other := range groups {
				for _, b := range other {
					if Same(ref(a), ref(b)) != (i == j) {
						t.Errorf("%s and %s: %v", a, b, i != j)
					}
				}
			}
		}
	}
	// Two accounts are two secrets, although either may be the one of an endpoint.
	if Same(ref("arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf"), ref("arn:aws:secretsmanager:eu-west-1:222233334444:secret:db-AbCdEf")) {
		t.Error("two accounts")
	}
	if !slices.Equal([]string{SecretOf(ref(groups[0][1])).String()}, []string{"https://vlt.vault.azure.net::db"}) {
		t.Error(SecretOf(ref(groups[0][1])))
	}
}
