package secret

import "testing"

func TestIsPinned(t *testing.T) {
	arn := "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf"
	for in, want := range map[string]bool{
		"https://my-vault.vault.azure.net::db":          false,
		"https://my-vault.vault.azure.net::db#" + hex32: true,
		arn:                                      false,
		arn + "#AWSCURRENT":                      false,
		arn + "#AWSPREVIOUS":                     false,
		arn + "#" + hex32:                        true,
		"projects/p1234567/secrets/s":            false,
		"projects/p1234567/secrets/s#7":          true,
		"projects/p1234567/secrets/s#production": false,
		"https://vault.example.org:8200::kv/a":   false,
		"https://vault.example.org:8200::kv/a#3": true,
	} {
		ref, err := ParseRef(in)
		if err != nil {
			t.Fatalf("ParseRef(%q): %v", in, err)
		}
		if got := ref.IsPinned(); got != want {
			t.Errorf("IsPinned of %q is %t, want %t", in, got, want)
		}
	}
}
