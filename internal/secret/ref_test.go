package secret

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const hex32 = "0123456789abcdef0123456789abcdef"

func azureRef(store, name, version, key string) Ref {
	return Ref{Kind: KindAzureKeyVault, Store: store, Name: name, Version: version, Key: key}
}

func decoded(r Ref) Ref {
	r.Decoding = DecodeBase64
	return r
}

var acceptedRefs = []struct {
	name, in string
	want     Ref
}{
	{"whole secret", "https://my-vault.vault.azure.net::db", azureRef("https://my-vault.vault.azure.net", "db", "", "")},
	{"JSON key", "https://my-vault.vault.azure.net::db::password", azureRef("https://my-vault.vault.azure.net", "db", "", "password")},
	{"version", "https://my-vault.vault.azure.net::db#" + hex32, azureRef("https://my-vault.vault.azure.net", "db", hex32, "")},
	{"version and key", "https://my-vault.vault.azure.net::db#" + hex32 + "::k", azureRef("https://my-vault.vault.azure.net", "db", hex32, "k")},
	{"version in upper case", "https://v12.vault.azure.net::db#" + strings.ToUpper(hex32), azureRef("https://v12.vault.azure.net", "db", hex32, "")},
	{"host in upper case", "HTTPS://My-Vault.VAULT.Azure.NET::db", azureRef("https://my-vault.vault.azure.net", "db", "", "")},
	{"name in upper case", "https://abc.vault.azure.net::DB-Secret", azureRef("https://abc.vault.azure.net", "db-secret", "", "")},
	{"trailing slash", "https://abc.vault.azure.net/::db", azureRef("https://abc.vault.azure.net", "db", "", "")},
	{"port 443", "https://abc.vault.azure.net:443::db", azureRef("https://abc.vault.azure.net", "db", "", "")},
	{"port 443 and slash", "https://abc.vault.azure.net:443/::db", azureRef("https://abc.vault.azure.net", "db", "", "")},
	{"China", "https://abc.vault.azure.cn::db", azureRef("https://abc.vault.azure.cn", "db", "", "")},
	{"US government", "https://abc.vault.usgovcloudapi.net::db", azureRef("https://abc.vault.usgovcloudapi.net", "db", "", "")},
	{"shortest names", "https://abc.vault.azure.net::1", azureRef("https://abc.vault.azure.net", "1", "", "")},
	{"longest names", "https://a" + strings.Repeat("9", 23) + ".vault.azure.net::" + strings.Repeat("n", 127),
		azureRef("https://a"+strings.Repeat("9", 23)+".vault.azure.net", strings.Repeat("n", 127), "", "")},
	{"name of hyphens", "https://abc.vault.azure.net::-a-", azureRef("https://abc.vault.azure.net", "-a-", "", "")},
	{"decoding", "https://abc.vault.azure.net::db?decode=base64", decoded(azureRef("https://abc.vault.azure.net", "db", "", ""))},
	{"decoding of a member", "https://abc.vault.azure.net::db?decode=base64::k", decoded(azureRef("https://abc.vault.azure.net", "db", "", "k"))},
	{"decoding of a version's member", "https://abc.vault.azure.net::DB#" + hex32 + "?decode=base64::k",
		decoded(azureRef("https://abc.vault.azure.net", "db", hex32, "k"))},
	{"key that looks like a decoding", "https://abc.vault.azure.net::db::k?decode=base64", azureRef("https://abc.vault.azure.net", "db", "", "k?decode=base64")},
	{"key keeps its case", "https://abc.vault.azure.net::db::PassWord", azureRef("https://abc.vault.azure.net", "db", "", "PassWord")},
	{"key with dots", "https://abc.vault.azure.net::db::a.b.c", azureRef("https://abc.vault.azure.net", "db", "", "a.b.c")},
	{"key with ::", "https://abc.vault.azure.net::db::a::b", azureRef("https://abc.vault.azure.net", "db", "", "a::b")},
	{"key begins with a colon", "https://abc.vault.azure.net::db:::a", azureRef("https://abc.vault.azure.net", "db", "", ":a")},
	{"key ends with ::", "https://abc.vault.azure.net::db::a::", azureRef("https://abc.vault.azure.net", "db", "", "a::")},
	{"key is a colon", "https://abc.vault.azure.net::db:::", azureRef("https://abc.vault.azure.net", "db", "", ":")},
	{"key with #", "https://abc.vault.azure.net::db::a#b", azureRef("https://abc.vault.azure.net", "db", "", "a#b")},
	{"key with spaces", "https://abc.vault.azure.net::db:: a b ", azureRef("https://abc.vault.azure.net", "db", "", " a b ")},
	{"key beyond ASCII", "https://abc.vault.azure.net::db::пароль", azureRef("https://abc.vault.azure.net", "db", "", "пароль")},
	{"key with a genuine U+FFFD", "https://abc.vault.azure.net::db::\uFFFD", azureRef("https://abc.vault.azure.net", "db", "", "\uFFFD")},
	{"key with a slash and an at sign", "https://abc.vault.azure.net::db::a/b@c", azureRef("https://abc.vault.azure.net", "db", "", "a/b@c")},
	{"version after a decoding", "https://abc.vault.azure.net::DB?decode=base64#" + hex32 + "::k?#", decoded(azureRef("https://abc.vault.azure.net", "db", hex32, "k?#"))},
	{"version decoded", "https://abc.vault.azure.net::DB#" + hex32 + "?decode=base64", decoded(azureRef("https://abc.vault.azure.net", "db", hex32, ""))},
	{"longest reference", "https://abc.vault.azure.net::db::" + strings.Repeat("k", MaxRefLen-33),
		azureRef("https://abc.vault.azure.net", "db", "", strings.Repeat("k", MaxRefLen-33))},
}

func TestParseRefAccepts(t *testing.T) {
	for _, tt := range slices.Concat(acceptedRefs, acceptedAWS, acceptedGCP, foldedOthers) {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRef(tt.in)
			if err != nil {
				t.Fatalf("ParseRef(%q): %v", tt.in, err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParseRef(%q) (-want +got):\n%s", tt.in, diff)
			}
			checkCanonical(t, got)
		})
	}
}

// checkCanonical proves that String and ParseRef are inverse on what ParseRef
// returns.
func checkCanonical(t *testing.T, r Ref) {
	t.Helper()
	again, err := ParseRef(r.String())
	if err != nil {
		t.Fatalf("ParseRef of the canonical %q: %v", r.String(), err)
	}
	if again != r {
		t.Errorf("ParseRef(%q) = %+v, want %+v", r.String(), again, r)
	}
	if again.String() != r.String() {
		t.Errorf("canonical form %q became %q", r.String(), again.String())
	}
}

// The faults a vault can have, alone and as the store of a reference.
var rejectedVaults = []struct{ name, in, fault string }{
	{"nothing", "", "the store does not begin with https://"},
	{"no scheme", "abc.vault.azure.net", "the store does not begin with https://"},
	{"scheme cut short", "https:/", "the store does not begin with https://"},
	{"another scheme", "ldaps://abc.vault.azure.net", "the store does not begin with https://"},
	{"long s in the scheme", "http\u017f://abc.vault.azure.net", "the store does not begin with https://"},
	{"leading space", " https://abc.vault.azure.net", "the store does not begin with https://"},
	{"http", "http://abc.vault.azure.net", "the store is an http:// URL; only https:// is supported"},
	{"HTTP", "HTTP://abc.vault.azure.net", "the store is an http:// URL; only https:// is supported"},
	{"user and password", "https://user:pass@abc.vault.azure.net", "the vault's URL contains a user name or password"},
	{"host after an at sign", "https://abc.vault.azure.net@evil.example", "the vault's URL contains a user name or password"},
	{"path", "https://abc.vault.azure.net/secrets", "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"two slashes", "https://abc.vault.azure.net//", "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"query", "https://abc.vault.azure.net?x=1", "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"fragment", "https://evil.example#.vault.azure.net", "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"backslash", `https://evil.example\.vault.azure.net`, "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"percent encoding", "https://evil.example%2f.vault.azure.net", "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"path of another host", "https://evil.example/.vault.azure.net", "the vault's URL continues after the host (byte N); it must have no path, query, fragment or percent-encoding"},
	{"IPv4", "https://10.0.0.4", "the vault's host is an IP address; use its name"},
	{"IPv4 with port 443", "https://10.0.0.4:443", "the vault's host is an IP address; use its name"},
	{"IPv6", "https://[fd00:1:2:3:4:5:6:7]", "the vault's host is an IP address; use its name"},
	{"port", "https://abc.vault.azure.net:8443", "the vault's URL has a port; a vault uses port 443; to connect elsewhere, set the integration's dial"},
	{"empty port", "https://abc.vault.azure.net:/", "the vault's URL has a port; a vault uses port 443; to connect elsewhere, set the integration's dial"},
	{"port twice", "https://abc.vault.azure.net:443:443", "the vault's URL has a port; a vault uses port 443; to connect elsewhere, set the integration's dial"},
	{"port 0443", "https://abc.vault.azure.net:0443", "the vault's URL has a port; a vault uses port 443; to connect elsewhere, set the integration's dial"},
	{"no host", "https://", unknownCloud},
	{"another host", "https://evil.example", unknownCloud},
	{"number for a host", "https://2130706433", unknownCloud},
	{"suffix without a dot", "https://evilvault.azure.net", unknownCloud},
	{"suffix alone", "https://vault.azure.net", unknownCloud},
	{"suffix in the middle", "https://abc.vault.azure.net.evil.example", unknownCloud},
	{"dot at the end", "https://abc.vault.azure.net.", unknownCloud},
	{"full-width dots", "https://abc\uff0evault\uff0eazure\uff0enet", unknownCloud},
	{"private link name", "https://abc.privatelink.vaultcore.azure.net", "the host is the name of a private endpoint; write the vault's public name (NAME.vault.azure.net), and set azure.private_endpoint in the integration"},
	{"managed HSM", "https://abc.managedhsm.azure.net", "a managed HSM stores keys, not secrets; use a vault"},
	{"no vault name", "https://.vault.azure.net", vaultName(".vault.azure.net")},
	{"short vault name", "https://ab.vault.azure.net", vaultName(".vault.azure.net")},
	{"long vault name", "https://" + strings.Repeat("a", 25) + ".vault.azure.net", vaultName(".vault.azure.net")},
	{"vault name with a dot", "https://evil.abc.vault.azure.net", vaultName(".vault.azure.net")},
	{"vault name with an underscore", "https://a_c.vault.azure.net", vaultName(".vault.azure.net")},
	{"vault name with a digit first", "https://1bc.vault.azure.cn", vaultName(".vault.azure.cn")},
	{"vault name with a hyphen last", "https://ab-.vault.azure.cn", vaultName(".vault.azure.cn")},
	{"vault name with two hyphens", "https://a--b.vault.usgovcloudapi.net", vaultName(".vault.usgovcloudapi.net")},
	{"vault name with a Kelvin sign", "https://abc\u212a.vault.azure.net", vaultName(".vault.azure.net")},
	{"vault name with a dotless i", "https://abc\u0131.vault.azure.net", vaultName(".vault.azure.net")},
	{"vault name with a space", "https://abc .vault.azure.net", vaultName(".vault.azure.net")},
	{"line feed", "https://abc.vault.azure.net\n", "there is a control character at byte N"},
	{"NUL", "https://abc\x00.vault.azure.net", "there is a control character at byte N"},
	{"DEL", "https://abc\x7f.vault.azure.net", "there is a control character at byte N"},
	{"C1 control", "https://abc\u009b.vault.azure.net", "there is a control character at byte N"},
	{"not UTF-8", "https://abc\xff.vault.azure.net", "byte N is not valid UTF-8"},
	{"half a surrogate pair", "https://abc\xed\xa0\x80.vault.azure.net", "byte N is not valid UTF-8"},
}

const unknownCloud = "the host is not a vault of a known cloud (NAME.vault.azure.net, NAME.vault.azure.cn, NAME.vault.usgovcloudapi.net)"

func vaultName(suffix string) string {
	return "the vault's name before " + suffix + " must be 3 to 24 letters, digits and single hyphens, and must begin with a letter and not end with a hyphen"
}

// The faults that only a whole reference can have.
var rejectedRefs = []struct{ name, in, fault string }{
	{"empty", "", `it has no "::" between the store and the secret's name`},
	{"a password", "hunter2", `it has no "::" between the store and the secret's name`},
	{"a vault alone", "https://abc.vault.azure.net", `it has no "::" between the store and the secret's name`},
	{"single colons", "https://abc.vault.azure.net:db:key", `it has no "::" between the store and the secret's name`},
	{"no name", "https://abc.vault.azure.net::", `the secret's name after the first "::" is empty`},
	{"no name before a key", "https://abc.vault.azure.net::::key", `the secret's name after the first "::" is empty`},
	{"no name before a version", "https://abc.vault.azure.net::#" + hex32, `the secret's name after the first "::" is empty`},
	{"no key after ::", "https://abc.vault.azure.net::db::", `the JSON key after the second "::" is empty; leave out the "::" to select the whole secret`},
	{"no version after #", "https://abc.vault.azure.net::db#", `the version after "#" is empty; leave out the "#" to select the current version`},
	{"no version before a key", "https://abc.vault.azure.net::db#::k", `the version after "#" is empty; leave out the "#" to select the current version`},
	{"name with a colon", "https://abc.vault.azure.net:::db", badName},
	{"name with a slash", "https://abc.vault.azure.net::db/" + hex32, badName},
	{"name that climbs", "https://abc.vault.azure.net::..", badName},
	{"name with a space", "https://abc.vault.azure.net::db ", badName},
	{"name with an underscore", "https://abc.vault.azure.net::db_1", badName},
	{"name with a percent sign", "https://abc.vault.azure.net::db%2f", badName},
	{"name with a Kelvin sign", "https://abc.vault.azure.net::\u212a", badName},
	{"name with a dotless i", "https://abc.vault.azure.net::\u0131d", badName},
	{"long name", "https://abc.vault.azure.net::" + strings.Repeat("n", 128), badName},
	{"short version", "https://abc.vault.azure.net::db#" + hex32[1:], badVersion},
	{"long version", "https://abc.vault.azure.net::db#" + hex32 + "0", badVersion},
	{"version beyond hexadecimal", "https://abc.vault.azure.net::db#g" + hex32[1:], badVersion},
	{"version of control digits", "https://abc.vault.azure.net::db#@" + hex32[1:], badVersion},
	{"nothing after ?", "https://abc.vault.azure.net::db?", badOption},
	{"nothing after ? before a key", "https://abc.vault.azure.net::db?::k", badOption},
	{"nothing after ? before a version", "https://abc.vault.azure.net::db?#" + hex32, badOption},
	{"option without a value", "https://abc.vault.azure.net::db?decode", badOption},
	{"option with an empty value", "https://abc.vault.azure.net::db?decode=", badOption},
	{"option without a name", "https://abc.vault.azure.net::db?=base64", badOption},
	{"nothing before &", "https://abc.vault.azure.net::db?&decode=base64", badOption},
	{"nothing after &", "https://abc.vault.azure.net::db?decode=base64&", badOption},
	{"options joined by a comma", "https://abc.vault.azure.net::db?decode=base64,label=a", badDecoding},
	{"unknown decoding", "https://abc.vault.azure.net::db?decode=hex", badDecoding},
	{"decoding in capitals", "https://abc.vault.azure.net::db?decode=Base64", badDecoding},
	{"decoding percent-encoded", "https://abc.vault.azure.net::db?decode=base%364", badDecoding},
	{"unknown option", "https://abc.vault.azure.net::db?api-version=7.4", unknownOption},
	{"option in capitals", "https://abc.vault.azure.net::db?Decode=base64", unknownOption},
	{"unknown option first", "https://abc.vault.azure.net::db?x=1&decode=base64", unknownOption},
	{"unknown option last", "https://abc.vault.azure.net::db?decode=base64&x=1", unknownOption},
	{"reserved option", "https://abc.vault.azure.net::db?key=a%7Db", `the option key is reserved for a later version; write the JSON key after "::"`},
	{"option twice", "https://abc.vault.azure.net::db?decode=base64&decode=base64", "the option decode is given twice"},
	{"options twice", "https://abc.vault.azure.net::db?decode=base64?decode=base64", twoQuestionMarks},
	{"options around a version", "https://abc.vault.azure.net::db?decode=base64#" + hex32 + "?decode=base64", twoQuestionMarks},
	{"versions around options", "https://abc.vault.azure.net::db#" + hex32 + "?decode=base64#" + hex32, twoVersions},
	{"no version after options", "https://abc.vault.azure.net::db?decode=base64#", `the version after "#" is empty; leave out the "#" to select the current version`},
	{"short version after options", "https://abc.vault.azure.net::db?decode=base64#" + hex32[1:], badVersion},
	{"kind to come", "conjur+https://conjur.example.org::team/db", kindToCome},
	{"kind to come in capitals", "CONJUR+HTTPS://conjur.example.org::team/db", kindToCome},
	{"kind to come on a cloud's host", "x1-y+https://abc.vault.azure.net::db::key", kindToCome},
	{"plus without a kind", "+https://conjur.example.org::team/db", "it must begin with https://, arn:, projects/, file:/// or env::"},
	{"kind over http", "conjur+http://conjur.example.org::team/db", "it must begin with https://, arn:, projects/, file:/// or env::"},
	{"another scheme for a kind", "awssm://eu-west-1::db", "it must begin with https://, arn:, projects/, file:/// or env::"},
	{"decoding of nothing", "https://abc.vault.azure.net::?decode=base64", `the secret's name after the first "::" is empty`},
	{"two versions", "https://abc.vault.azure.net::db#" + hex32 + "#" + hex32, twoVersions},
	{"IPv6 cut at its ::", "https://[::1]::db", "the vault's host is an IP address; use its name"},
	{"password with ::", "https://user:pa::ss@abc.vault.azure.net::db",
		"the vault's URL has a port; a vault uses port 443; to connect elsewhere, set the integration's dial"},
	{"tab in a key", "https://abc.vault.azure.net::db::a\tb", "there is a control character at byte N"},
	{"key not UTF-8", "https://abc.vault.azure.net::db::a\xc0\xaf", "byte N is not valid UTF-8"},
	{"too long", "https://abc.vault.azure.net::db::" + strings.Repeat("k", MaxRefLen-32), "it is N bytes long; the maximum is N"},
	{"a file pasted whole", strings.Repeat("\x00", 1<<20), "it is N bytes long; the maximum is N"},
}

const (
	badOption        = `an option after "?" is not written as name=value, for example decode=base64`
	unknownOption    = `an option after "?" is unknown; this version knows decode=base64`
	badDecoding      = `the option decode has an unknown value; this version knows decode=base64`
	twoQuestionMarks = `the secret's name is followed by more than one "?"; join options with "&"`
	twoVersions      = `the secret's name is followed by more than one "#"; give one version`
	kindToCome       = "it begins with KIND+https://, which is reserved for kinds of stores that a later version may support; this version does not know the kind"
	badName          = "the secret's name must be 1 to 127 letters, digits and hyphens"
	badVersion       = `the version after "#" must be 32 hexadecimal digits`
)

// variable matches the only parts of a rejection that depend on the input: byte
// positions and lengths.
var variable = regexp.MustCompile(`(byte |it is |maximum is )[0-9]+`)

// rejection returns the text of err, with N for the parts that depend on the input.
func rejection(t *testing.T, err error) string {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != ReasonInvalidReference || e.Cause != nil {
		t.Fatalf("error %#v, want an *Error with %s and without a cause", err, ReasonInvalidReference)
	}
	return variable.ReplaceAllString(e.Message, "${1}N")
}

// asReferences contains ParseRef's rejections of the stores in rejectedVaults that do
// not look like Azure vaults, by their name there.
var asReferences = map[string]string{
	"nothing":               unknownScheme,
	"no scheme":             unknownScheme,
	"scheme cut short":      unknownScheme,
	"another scheme":        unknownScheme,
	"long s in the scheme":  unknownScheme,
	"leading space":         unknownScheme,
	"http":                  refRejection(plainHTTP),
	"HTTP":                  refRejection(plainHTTP),
	"host after an at sign": vaultServerRejection("the server's URL contains a user name or password"),
	"fragment":              vaultServerRejection(goesOn),
	"backslash":             vaultServerRejection(goesOn),
	"percent encoding":      vaultServerRejection(goesOn),
	"path of another host":  vaultServerRejection(goesOn),
	"IPv4":                  vaultServerRejection(serverIP + ", and set the integration's dial to the address"),
	"IPv4 with port 443":    vaultServerRejection(serverIP + ", and set the integration's dial to the address"),
	"IPv6":                  vaultServerRejection(serverIP),
	"IPv6 cut at its ::":    vaultServerRejection(serverIP),
	"no host":               vaultServerRejection("the server's host is not a valid host name"),
	"another host":          vaultServerRejection(noVaultPath),
	"number for a host":     vaultServerRejection(noVaultPath),
	"full-width dots":       vaultServerRejection("the server's host is not a valid host name"),
	"password with ::":      vaultServerRejection("the port must be a number from 1 to 65535"),
}

var googleHost = refRejection("a Google Cloud secret is written as projects/<project>/secrets/<secret>, without a host")

var unknownScheme = refRejection("it must begin with https://, arn:, projects/, file:/// or env::")

const (
	plainHTTP   = "the store is an http:// URL; only https:// is supported"
	goesOn      = "the server's URL continues after the host and port; it must have no path, query, fragment or percent-encoding"
	serverIP    = "the server's host is an IP address; use its name"
	noVaultPath = "the host is not an Azure vault, and a secret on a Vault server is named <mount>/<path>"
)

func vaultServerRejection(fault string) string {
	return "not a reference: " + fault + "; expected " + KindHashiCorpVault.spelling().form + ", for example " + vaultExample
}

func refRejection(fault string) string {
	return "not a reference: " + fault + "; expected <store>::<secret>[#<version>][?decode=base64][::<json key>], for example " + refExample
}

func vaultRejection(fault string) string {
	return "not a vault: " + fault + "; expected https://NAME.vault.azure.net"
}

func TestParseRefRejects(t *testing.T) {
	check := func(t *testing.T, name, in, fault string) {
		want, ok := asReferences[name]
		if !ok || !strings.Contains(in, "::") {
			want = refRejection(fault)
		}
		got, err := ParseRef(in)
		if got != (Ref{}) {
			t.Errorf("ParseRef(%q) = %+v with an error", in, got)
		}
		if diff := cmp.Diff(want, rejection(t, err)); diff != "" {
			t.Errorf("ParseRef(%q) (-want +got):\n%s", in, diff)
		}
	}
	for _, tt := range rejectedRefs {
		t.Run(tt.name, func(t *testing.T) { check(t, tt.name, tt.in, tt.fault) })
	}
	for _, tt := range rejectedVaults {
		t.Run("store/"+tt.name, func(t *testing.T) {
			check(t, tt.name, tt.in+"::db", tt.fault)
			check(t, tt.name, tt.in+"::db#"+hex32+"::key", tt.fault)
		})
	}
}

// knownRejections returns the only texts with which ParseRef and ParseAzureVault may
// reject an input. Apart from numbers, none of them depends on the input.
func knownRejections() map[string]bool {
	known := make(map[string]bool)
	for _, tt := range rejectedVaults {
		known[refRejection(tt.fault)] = true
		known[vaultRejection(tt.fault)] = true
	}
	for _, tt := range rejectedRefs {
		known[refRejection(tt.fault)] = true
	}
	for _, text := range asReferences {
		known[text] = true
	}
	known[googleHost] = true
	for _, c := range azureClouds {
		known[refRejection(vaultName(c.VaultSuffix))] = true
		known[vaultRejection(vaultName(c.VaultSuffix))] = true
	}
	return known
}

// A password that a user pasted in place of a reference, or of any part of one, must
// not appear in the rejection.
func TestRejectionsQuoteNothing(t *testing.T) {
	canaries := []string{
		"qXzJ7wQkVb", "qXz::J7wQkVb", "qXz@J7wQkVb", "qXzJ7#wQkVb", "qXzJ7/wQkVb", "qXz:J7wQkVb", "qXz?J7wQkVb", "qXzJ7%wQkVb",
		"qXz J7wQkVb", "qXzJ7wQkVb\n", "\xffqXzJ7wQkVb", "qXzJ7wQ\u009bkVb",
	}
	var bases []string
	for _, tt := range acceptedRefs {
		bases = append(bases, tt.in)
	}
	for _, tt := range rejectedVaults {
		bases = append(bases, tt.in, tt.in+"::db::key")
	}
	for _, tt := range rejectedRefs {
		bases = append(bases, tt.in)
	}
	planted := 0
	check := func(in string, err error) {
		if err == nil {
			return
		}
		planted++
		shown := err.Error() // all there is: rejections have no cause
		for _, piece := range []string{"qXz", "J7w", "wQk", "kVb"} {
			if strings.Contains(shown, piece) {
				t.Fatalf("the rejection of %q shows %q: %s", in, piece, shown)
			}
		}
	}
	for _, base := range bases {
		if len(base) > 200 {
			continue // thousands of positions in the same name show nothing new
		}
		for i := range len(base) + 1 {
			for _, canary := range canaries {
				in := base[:i] + canary + base[i:]
				_, err := ParseRef(in)
				check(in, err)
				_, err = ParseAzureVault(in)
				check(in, err)
			}
		}
	}
	_, err := ParseRef(strings.Repeat("qXzJ7wQkVb", MaxRefLen))
	check("a long password", err)
	if planted < 10_000 {
		t.Errorf("only %d rejections were looked at", planted)
	}
}
