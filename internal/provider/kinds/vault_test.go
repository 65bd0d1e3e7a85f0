package kinds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/localfile"
	"github.com/secretbroker/secretbroker/internal/provider/vaultkv"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	vaultHead     = "id: x\nkind: HASHICORP_VAULT\nvault:\n  address: https://Vault.example.org:8200/\n"
	vaultRest     = "  mounts:\n    - {path: secret, engine: kv2}\n"
	vaultAuthLine = "  auth: {type: approle, role_id: r, secret_id_file: id}\n"
	vaultFull     = vaultHead + vaultRest + vaultAuthLine + "grants:\n  - principals: [dns:a.example.org]\n    stores: [https://vault.example.org:8200]\n    secrets: [secret/db/*]\n"
	localFull     = "id: x\nkind: LOCAL_FILE\nlocal:\n  directories: [/run/secrets/, data]\n  environment: [DB]\ngrants:\n  - principals: [dns:a.example.org]\n    stores: [env, file:///run/secrets]\n    secrets: [DB]\n"
)

func TestParseVault(t *testing.T) {
	data := vaultHead + `  namespace: /org/team/
  mounts:
    - {path: secret/, engine: kv2}
    - {path: team/deep/kv, engine: kv1}
    - {path: database, engine: dynamic}
  auth: {type: jwt, mount: ci/jwt, role: broker, token_file: jwt}
  ca_file: ca.pem
  dial: 10.0.0.5:8200
  private_endpoint: true
  events: {poll: 10s}
`
	got := All().ParseFile("/d/f.yaml", []byte(data), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := &integration.Integration{ID: "x", Kind: secret.KindHashiCorpVault, Settings: &vaultkv.Settings{
		Address: "https://vault.example.org:8200", Namespace: "org/team",
		Mounts: []vaultkv.Mount{{Path: "secret", Engine: vaultkv.KV2}, {Path: "team/deep/kv", Engine: vaultkv.KV1}, {Path: "database", Engine: vaultkv.Dynamic}},
		Auth:   vaultkv.Auth{Type: vaultkv.JWT, Mount: "ci/jwt", Role: "broker", TokenFile: "/d/jwt"},
		CAFile: "/d/ca.pem", Dial: "10.0.0.5:8200", PrivateEndpoint: true, Poll: 10 * time.Second,
	}}
	if diff := cmp.Diff(want, got.Integration, cmpopts.IgnoreFields(integration.Integration{}, "Policy")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]integration.NamedFile{{Path: "/d/ca.pem", Use: integration.UseCA}, {Path: "/d/jwt", Use: integration.UseToken}}, got.Files, cmp.AllowUnexported(integration.NamedFile{}), cmpopts.SortSlices(func(a, b integration.NamedFile) bool { return a.Path < b.Path })); diff != "" {
		t.Error(diff)
	}
}

// TestVaultPollFacts: the policy to paste permits polls only if they are configured, and only
// of mounts with metadata. Secrets with a version in the reference do not change.
func TestVaultPollFacts(t *testing.T) {
	const metadata = "path \"secret/metadata/*\" {\n  capabilities = [\"read\"]\n}"
	for section, want := range map[string]int{"": 0, "  events: {poll: 10s}\n": 1} {
		got := All().ParseFile("/d/f", []byte(vaultHead+"  mounts: [{path: secret, engine: kv2}, {path: kv1, engine: kv1}]\n"+vaultAuthLine+section), sound)
		if err := got.Faults.Err(); err != nil {
			t.Fatal(err)
		}
		for _, f := range got.Integration.Facts() {
			if f.ID == "VAULT_POLICY" && (strings.Count(f.Value, metadata) != want || strings.Count(f.Value, "metadata") != want) {
				t.Errorf("%q: %s", section, f.Value)
			}
		}
		settings := got.Integration.Settings.(integration.PollSettings)
		for name, polled := range map[string]bool{"secret/a": true, "secret/a#3": false, "kv1/a": false, "other/a": false} {
			if d := settings.PollInterval(ref(t, "https://vault.example.org:8200::"+name)); (d > 0) != (polled && want > 0) {
				t.Errorf("%q: %s is polled every %v", section, name, d)
			}
		}
	}
}

func TestParseVaultDecides(t *testing.T) {
	got := All().ParseFile("/d/f.yaml", []byte(vaultFull), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	for r, want := range map[string]string{
		"https://vault.example.org:8200::secret/db/a":  "allowed",
		"https://vault.example.org:8200::secret/DB/a":  "denied",
		"https://vault.example.org:8200::secret/other": "denied",
		"https://vault.example.org::secret/db/a":       "denied",
	} {
		if d := got.Integration.Policy.Decide("dns:a.example.org", ref(t, r)); d.Effect.String() != want {
			t.Errorf("%s: %s, want %s", r, d.Effect, want)
		}
	}
}

const systemMount = "vault.mounts[0].path: sys, auth, identity and cubbyhole are parts of the server itself, also behind a namespace; secrets are never read there"

func TestParseVaultFaults(t *testing.T) {
	for name, tt := range map[string]struct{ data, want string }{
		"nothing":            {"id: x\nkind: HASHICORP_VAULT\nvault: {}\n", "3: vault.address: missing; it is required, such as https://vault.example.org:8200\n/d/f:3: vault.mounts: at least one mount is required, such as {path: secret, engine: kv2}\n/d/f:3: vault.auth.type: missing; it is required: approle, cert, jwt, kubernetes or token"},
		"no section":         {"id: x\nkind: HASHICORP_VAULT\n", "1: vault: missing; the kind HASHICORP_VAULT requires it"},
		"another's section":  {vaultFull + "azure:\n  vaults: []\n", "12: azure: does not belong to the kind HASHICORP_VAULT; remove it or change the kind"},
		"http":               {"id: x\nkind: HASHICORP_VAULT\nvault:\n  address: http://v:8200\n" + vaultRest + vaultAuthLine, "4: vault.address: not a Vault server: the server's URL does not begin with https://; expected https://HOST:PORT"},
		"system mount":       {vaultHead + "  mounts: [{path: sys, engine: kv2}]\n" + vaultAuthLine, "5: " + systemMount},
		"in a namespace":     {vaultHead + "  mounts: [{path: ns1/auth/token, engine: kv1}]\n" + vaultAuthLine, "5: " + systemMount},
		"in two namespaces":  {vaultHead + "  mounts: [{path: /ns1/ns2/sys/, engine: dynamic}]\n" + vaultAuthLine, "5: " + systemMount},
		"cubbyhole":          {vaultHead + "  mounts: [{path: ns1/cubbyhole, engine: kv1}]\n" + vaultAuthLine, "5: " + systemMount},
		"identity":           {vaultHead + "  mounts: [{path: ns1/identity/oidc, engine: dynamic}]\n" + vaultAuthLine, "5: " + systemMount},
		"mount that climbs":  {vaultHead + "  mounts: [{path: a/../sys, engine: kv2}]\n" + vaultAuthLine, "5: vault.mounts[0].path: expected the path of a mount, such as secret or team/kv"},
		"mount in a mount":   {vaultHead + "  mounts: [{path: a, engine: kv2}, {path: a/b, engine: kv2}]\n" + vaultAuthLine, "5: vault.mounts[1].path: the same mount as another, or within it; Vault has no such mounts"},
		"unknown engine":     {vaultHead + "  mounts: [{path: a, engine: kv}]\n" + vaultAuthLine, "5: vault.mounts[0].engine: expected kv1, kv2 or dynamic"},
		"secret in the file": {vaultHead + vaultRest + "  auth: {type: approle, role_id: r, secret_id: s}\n", `7: vault.auth: unknown setting "secret_id"; did you mean "secret_id_file"?` + "\n/d/f:7: vault.auth.secret_id_file: missing; the auth type approle requires it"},
		"token and role":     {vaultHead + vaultRest + "  auth: {type: token, token_file: t, role: r, mount: m}\n", "7: vault.auth.mount: does not belong to the auth type token; remove it or change the type\n/d/f:7: vault.auth.role: does not belong to the auth type token; remove it or change the type"},
		"auth mount":         {vaultHead + vaultRest + "  auth: {type: cert, certificate_file: c, mount: ../sys}\n", "7: vault.auth.mount: expected where the auth method is mounted, without auth/, such as cert"},
		"dial":               {vaultHead + vaultRest + vaultAuthLine + "  dial: 10.0.0.5\n", "8: vault.dial: expected the address to connect to, host:port, such as 10.0.0.5:8200"},
		"poll without unit":  {vaultHead + vaultRest + vaultAuthLine + "  events: {poll: 10}\n", `8: vault.events.poll: expected a duration with its unit, such as "30s", "5m" or "90d"`},
		"poll too often":     {vaultHead + vaultRest + vaultAuthLine + "  events: {poll: 999ms}\n", "8: vault.events.poll: expected how often to ask for the version of a watched secret, 1s to 1h, such as 10s"},
		"events, no poll":    {vaultHead + vaultRest + vaultAuthLine + "  events: {}\n", "8: vault.events.poll: expected how often to ask for the version of a watched secret, 1s to 1h, such as 10s"},
		"poll without kv2":   {vaultHead + "  mounts: [{path: a, engine: kv1}]\n" + vaultAuthLine + "  events: {poll: 10s}\n", "7: vault.events: only secrets in mounts of kv2 have metadata; remove it, or add such a mount"},
		"grant with vaults":  {vaultFull + "    vaults: [https://vault.example.org:8200]\n", `12: grants[0]: unknown setting "vaults"; known here: id, principals, stores, secrets, keys`},
		"foreign store":      {strings.Replace(vaultFull, "stores: [https://vault.example.org:8200]", "stores: [https://other.example.org]", 1), "10: grants[0].stores[0]: not a store of the integration; add it to the integration first"},
	} {
		t.Run(name, func(t *testing.T) {
			got := All().ParseFile("/d/f", []byte(tt.data), sound)
			if diff := cmp.Diff("/d/f:"+tt.want, got.Faults.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseLocal(t *testing.T) {
	got := All().ParseFile("/d/f.yaml", []byte(localFull), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := &localfile.Settings{Directories: []string{"/run/secrets", "/d/data"}, Environment: []string{"DB"}}
	if diff := cmp.Diff(want, got.Integration.Settings.(*localfile.Settings)); diff != "" {
		t.Error(diff)
	}
	for r, want := range map[string]string{
		"env::DB": "allowed", "env::OTHER": "denied", "file:///run/secrets::DB": "allowed", "file:///d/data::DB": "denied",
	} {
		if d := got.Integration.Policy.Decide("dns:a.example.org", ref(t, r)); d.Effect.String() != want {
			t.Errorf("%s: %s, want %s", r, d.Effect, want)
		}
	}
	for section, want := range map[string]string{
		"{}":                             "3: local: nothing to read; list local.directories, local.environment or both",
		"{directories: [/]}":             "3: local.directories[0]: /, /proc, /sys and /dev are never read; name the directory that holds the secrets and nothing else",
		"{directories: [/proc/self/fd]}": "3: local.directories[0]: /, /proc, /sys and /dev are never read; name the directory that holds the secrets and nothing else",
		"{directories: [../../proc]}":    "3: local.directories[0]: /, /proc, /sys and /dev are never read; name the directory that holds the secrets and nothing else",
		"{directories: [/a, /a/]}":       "3: local.directories[1]: the same directory is listed twice",
		"{environment: [A-B]}":           "3: local.environment[0]: expected an environment variable's name: letters, digits and underscores, not a digit first",
		"{environment: [A, A]}":          "3: local.environment[1]: the same variable is listed twice",
		"{directories: [/a*b]}":          "3: local.directories[0]: not a local store: the directory's path must be letters, digits and \"-_.~@+=, \", without \"//\" and without \".\" or \"..\" segments; expected file:///DIRECTORY or env",
	} {
		got := All().ParseFile("/d/f", []byte("id: x\nkind: LOCAL_FILE\nlocal: "+section+"\n"), sound)
		if diff := cmp.Diff("/d/f:"+want, got.Faults.Error()); diff != "" {
			t.Errorf("%s: %s", section, diff)
		}
	}
}
