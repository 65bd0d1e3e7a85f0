package secret

import (
	"strings"
	"testing"
)

// benchRefs are references to every kind of store, canonical unless the name states
// otherwise, and two invalid ones.
var benchRefs = []struct{ name, in string }{
	{"azure", "https://my-vault.vault.azure.net::db-secret::password"},
	{"azure-long", "https://my-vault.vault.azure.net::sqlserver-db-secret::password"},
	{"azure-version", "https://my-vault.vault.azure.net::db-secret#" + hex32 + "?decode=base64::password"},
	{"azure-gov", "https://my-vault.vault.usgovcloudapi.net::db-secret::password"},
	{"azure-folded", "https://My-Vault.vault.azure.net:443/::SqlServer-Db-Secret#" + strings.ToUpper(hex32) + "::password"},
	{"aws-arn", awsExample},
	{"aws-endpoint", "https://secretsmanager.eu-west-1.amazonaws.com::prod/db-secret::password"},
	{"gcp", gcpExample},
	{"gcp-regional", "projects/my-project/locations/europe-west3/secrets/db-secret::password"},
	{"vault", vaultExample},
	{"file", localExample},
	{"env", "env::DB_PASSWORD"},
	{"faulty", "https://my-vault.vault.azure.net::db_secret::password"},
	{"password", "hunter2"},
}

func BenchmarkRef(b *testing.B) {
	for _, bench := range benchRefs {
		r, err := ParseRef(bench.in)
		for name, run := range map[string]func(){
			"ParseRef": func() { _, _ = ParseRef(bench.in) },
			"IsString": func() { _ = r.IsString(bench.in) },
			"String":   func() { _ = r.String() },
		} {
			if err != nil && name != "ParseRef" {
				continue
			}
			b.Run(name+"/"+bench.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					run()
				}
			})
		}
	}
}
