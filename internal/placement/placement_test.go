package placement

import (
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func rules(t *testing.T, cfg Config) *Rules {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCheck(t *testing.T) {
	azure := func(region string) integration.Placement {
		return integration.Placement{Cloud: "azure", Region: region}
	}
	closed := Config{Kinds: []secret.Kind{secret.KindAzureKeyVault}, Clouds: []string{"azure"}, Regions: []string{"westeurope", "eastus"}}
	for _, tt := range []struct {
		name string
		cfg  Config
		kind secret.Kind
		at   integration.Placement
		want string // settings that violate a rule
	}{
		{"no rules", Config{}, "X", integration.Placement{}, ""},
		{"allowed", closed, secret.KindAzureKeyVault, azure("eastus"), ""},
		{"another kind and cloud", closed, "AWS_SECRETS_MANAGER", integration.Placement{Cloud: "aws", Region: "eastus"}, "kind placement.cloud"},
		{"another region", closed, secret.KindAzureKeyVault, azure("brazilsouth"), "placement.region"},
		{"no region", closed, secret.KindAzureKeyVault, azure(""), "placement.region"},
		{"no cloud", Config{Clouds: []string{"azure"}}, "HASHICORP_VAULT", integration.Placement{}, "placement.cloud"},
	} {
		var got []string
		for _, f := range rules(t, tt.cfg).Check(tt.kind, tt.at) {
			got = append(got, f.Setting)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if (*Rules)(nil).Check("X", integration.Placement{}) != nil {
		t.Error("no rules allow everything")
	}
}

func TestAdmit(t *testing.T) {
	const byList, byPath, elsewhere, unknown, dns = authz.Principal("spiffe://td/special/w"), authz.Principal("spiffe://td/connect/x/azure/westeurope/w-1"),
		authz.Principal("spiffe://td/connect/x/azure/eastus/w-1"), authz.Principal("spiffe://td/other"), authz.Principal("dns:w.example.org")
	in := &integration.Integration{Kind: secret.KindAzureKeyVault, Placement: integration.Placement{Cloud: "azure", Region: "westeurope"}}
	nowhere := &integration.Integration{Kind: "HASHICORP_VAULT"}
	cfg := func(same Same) Config {
		return Config{Same: same, Path: "/connect/*/{cloud}/{region}", Callers: []Callers{
			{[]string{string(byList)}, integration.Placement{Cloud: "azure", Region: "westeurope"}},
			{[]string{"dns:*.example.org"}, integration.Placement{Cloud: "aws", Region: "westeurope"}},
		}}
	}
	for _, tt := range []struct {
		same Same
		who  authz.Principal
		in   *integration.Integration
		want bool
	}{
		{SameNothing, unknown, in, true},
		{SameCloud, byList, in, true},
		{SameCloud, byPath, in, true},
		{SameCloud, elsewhere, in, true},
		{SameCloud, unknown, in, false},
		{SameCloud, dns, in, false},
		{SameCloud, byPath, nowhere, false},
		{SameCloud, unknown, nowhere, false}, // two unknown places are not the same
		{SameRegion, byList, in, true},
		{SameRegion, byPath, in, true},
		{SameRegion, elsewhere, in, false},
		{SameRegion, dns, in, false}, // the same name in another cloud
		{SameRegion, "spiffe://td/connect/x/azure", in, false},
		{SameRegion, "", in, false},
	} {
		if why := rules(t, cfg(tt.same)).Admit(tt.who, tt.in); (why == "") != tt.want {
			t.Errorf("same %q, %s: %q", tt.same, tt.who, why)
		}
	}
	if why := rules(t, Config{Regions: []string{"eastus"}}).Admit(byPath, in); !strings.Contains(why, "placement.region") {
		t.Errorf("an integration that complies no more is used: %q", why)
	}
	if (*Rules)(nil).Admit(unknown, nowhere) != "" || rules(t, Config{}).Admit(unknown, nowhere) != "" {
		t.Error("no rules allow everything")
	}
	if (*Rules)(nil).Restrict() || rules(t, Config{}).Restrict() || !rules(t, Config{Same: SameCloud}).Restrict() || !rules(t, Config{Kinds: []secret.Kind{"X"}}).Restrict() {
		t.Error("Restrict is wrong")
	}
}

func TestCheckPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/{cloud}": true, "/a/{cloud}/*/{region}/": true, "/{region}": true,
		"": false, "{cloud}": false, "/": false, "/a": false, "/{cloud}/{cloud}": false, "/{c}": false, "/a*/{cloud}": false, "/a//{cloud}": false,
	} {
		if got := CheckPath(path) == ""; got != ok {
			t.Errorf("%q: %v", path, got)
		}
	}
}

func FuzzCallerPlace(f *testing.F) {
	r, err := New(Config{Same: SameRegion, Path: "/connect/{cloud}/{region}"})
	if err != nil {
		f.Fatal(err)
	}
	in := &integration.Integration{Kind: secret.KindAzureKeyVault, Placement: integration.Placement{Cloud: "azure", Region: "westeurope"}}
	f.Add("spiffe://td/connect/azure/westeurope/w")
	f.Add("dns:connect/azure/westeurope")
	f.Fuzz(func(t *testing.T, who string) {
		if r.Admit(authz.Principal(who), in) == "" {
			_, path, _ := strings.Cut(strings.TrimPrefix(who, "spiffe://"), "/")
			if !strings.HasPrefix(who, "spiffe://") || !strings.HasPrefix(path+"/", "connect/azure/westeurope/") {
				t.Errorf("%q is let in", who)
			}
		}
	})
}
