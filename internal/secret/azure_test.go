package secret

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseAzureVaultAccepts(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"https://abc.vault.azure.net", "https://abc.vault.azure.net"},
		{"https://abc.vault.azure.net/", "https://abc.vault.azure.net"},
		{"https://abc.vault.azure.net:443", "https://abc.vault.azure.net"},
		{"https://abc.vault.azure.net:443/", "https://abc.vault.azure.net"},
		{"hTTpS://A-B-C.Vault.Azure.Net", "https://a-b-c.vault.azure.net"},
		{"https://abc.vault.azure.cn", "https://abc.vault.azure.cn"},
		{"https://ABC.VAULT.USGOVCLOUDAPI.NET:443/", "https://abc.vault.usgovcloudapi.net"},
	} {
		got, err := ParseAzureVault(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseAzureVault(%q) = %q, %v, want %q", tt.in, got, err, tt.want)
		}
		again, err := ParseAzureVault(got)
		if err != nil || again != got {
			t.Errorf("ParseAzureVault of the canonical %q = %q, %v", got, again, err)
		}
		store, err := KindAzureKeyVault.ParseStore(tt.in)
		if err != nil || store != tt.want {
			t.Errorf("ParseStore(%q) = %q, %v, want %q", tt.in, store, err, tt.want)
		}
	}
}

func TestParseAzureVaultRejects(t *testing.T) {
	for _, tt := range rejectedVaults {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAzureVault(tt.in)
			if got != "" {
				t.Errorf("ParseAzureVault(%q) = %q with an error", tt.in, got)
			}
			if diff := cmp.Diff(vaultRejection(tt.fault), rejection(t, err)); diff != "" {
				t.Errorf("ParseAzureVault(%q) (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

// A token must only ever be asked for at the authority of the vault's own cloud.
func TestAzureCloudOf(t *testing.T) {
	for vault, authority := range map[string]string{
		"https://abc.vault.azure.net":         "https://login.microsoftonline.com/",
		"https://abc.vault.azure.cn":          "https://login.chinacloudapi.cn/",
		"https://abc.vault.usgovcloudapi.net": "https://login.microsoftonline.us/",
	} {
		cloud, ok := AzureCloudOf(vault)
		if !ok || cloud.AuthorityHost != authority {
			t.Errorf("AzureCloudOf(%q) = %+v, %v, want the authority %q", vault, cloud, ok, authority)
		}
	}
	if cloud, ok := AzureCloudOf("https://abc.vault.azure.net.evil.example"); ok {
		t.Errorf("AzureCloudOf of a foreign host = %+v", cloud)
	}
}

func TestFoldNameIsASCIIOnly(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"db-1", "db-1"},
		{"DB-Secret-1", "db-secret-1"},
		{"aZ[@`{", "az[@`{"}, // the neighbours of the letters stay
		{"\u212a", "\u212a"}, // Kelvin sign, which Unicode folds to k
		{"\u0130\u0131", "\u0130\u0131"},
		{"\u017f", "\u017f"}, // long s
		{"ÄA", "Äa"},
	} {
		if got := KindAzureKeyVault.FoldName(tt.in); got != tt.want {
			t.Errorf("FoldName(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestValidNamePart(t *testing.T) {
	for in, want := range map[string]bool{
		"": true, "db-": true, "-": true, "DB": true, hex32 + hex32 + hex32 + hex32[1:]: true,
		hex32 + hex32 + hex32 + hex32: false, "*": false, "a*b": false, "a_b": false, ".": false, "a b": false, "\u212a": false,
	} {
		if got := KindAzureKeyVault.ValidNamePart(in); got != want {
			t.Errorf("ValidNamePart(%q) = %v, want %v", in, got, want)
		}
	}
}
