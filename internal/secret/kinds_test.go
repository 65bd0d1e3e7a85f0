package secret

import (
	"strings"
	"testing"
)

// acceptedOthers are references to Vault servers and local stores, in canonical
// form.
var acceptedOthers = []string{
	"https://vault.example.org:8200::secret/db::password",
	"https://vault.example.org::team/deep/kv/a/b#12?decode=base64::k::l",
	"https://vault::secret/db",
	"https://conjur.example.org::team/db", // no host selects another kind
	"https://x.azconfig.io::a/b",
	"https://vault.westeurope.cloudapp.azure.com:8200::secret/db",
	"https://internal-1.eu-central-1.elb.amazonaws.com::secret/db",
	"https://vault.azure.example.org::secret/a.b_c-d~e@f+g=h,i",
	"file:///etc/connect/secrets::db.properties::password",
	"file:///run/secrets::sub/db password?decode=base64",
	"env::DB_PASSWORD",
	"env::_x::key",
}

// rejectedOthers maps invalid references to a part of the error text.
var rejectedOthers = map[string]string{
	"https://vault.example.org:8200::secret":                             "<mount>/<path>",
	"https://vault.example.org:8200::secret/../sys/mounts":               "segments",
	"https://vault.example.org:8200::secret/./db":                        "segments",
	"https://vault.example.org:8200::secret//db":                         "segments",
	"https://vault.example.org:8200::/secret/db":                         "segments",
	"https://vault.example.org:8200::secret/db/":                         "segments",
	"https://vault.example.org:8200::secret/a b":                         "segments",
	"https://vault.example.org:8200::secret/%2e%2e":                      "segments",
	"https://vault.example.org:8200::secret/a*":                          "segments",
	"https://vault.example.org:8200::secret/a:b":                         "segments",
	"https://vault.example.org:8200::secret/é":                           "segments",
	"https://vault.example.org:8200::secret/" + strings.Repeat("n", 512): "segments",
	"https://vault.example.org:8200::secret/db#0":                        "a number",
	"https://vault.example.org:8200::secret/db#01":                       "a number",
	"https://vault.example.org:8200::secret/db#abc":                      "a number",
	"https://vault.example.org:0::secret/db":                             "port",
	"https://vault.example.org:08200::secret/db":                         "port",
	"https://vault.example.org:65536::secret/db":                         "port",
	"https://vault_1.example.org::secret/db":                             "host name",
	"https://-vault.example.org::secret/db":                              "host name",
	"https://vault.example.org.::secret/db":                              "host name",
	"https://vault.example.org/v1::secret/db":                            "continues after",
	"https://u:p@vault.example.org::secret/db":                           "user name or password",
	"https://10.0.0.5:8200::secret/db":                                   "IP address",
	"https://my-vault.vault.azure.com::secret/db":                        "known cloud",
	"https://my-vault.vaults.azure.net::secret/db":                       "known cloud",
	"https://my-vault.vault.azure.us::secret/db":                         "known cloud",
	"https://secretmanager.googleapis.com::a/b":                          "projects/<project>",
	"http://vault.example.org:8200::secret/db":                           "only https:// is supported",
	"file://etc/secrets::db":                                             "third slash",
	"file:///etc/../root::db":                                            "segments",
	"file:///etc//x::db":                                                 "segments",
	"file:///etc/*::db":                                                  "segments",
	"file:///etc::../shadow":                                             "below the directory",
	"file:///etc::/shadow":                                               "below the directory",
	"file:///etc::a//b":                                                  "below the directory",
	"file:///etc::..data/x":                                              "below the directory",
	"file:///etc::a/../b":                                                "below the directory",
	"file:///etc::a\\b":                                                  "below the directory",
	"file:///etc::db#1":                                                  "no versions",
	"env::1X":                                                            "environment variable",
	"env::A-B":                                                           "environment variable",
	"env::A#1":                                                           "no versions",
	"env:::A":                                                            "environment variable",
	"environment::A":                                                     "must begin with",
	"FILE:///etc::db":                                                    "must begin with",
}

func TestOtherKinds(t *testing.T) {
	for _, in := range acceptedOthers {
		r, err := ParseRef(in)
		if err != nil {
			t.Errorf("ParseRef(%q): %v", in, err)
			continue
		}
		if r.String() != in {
			t.Errorf("%q became %q", in, r.String())
		}
		checkCanonical(t, r)
	}
	for in, want := range rejectedOthers {
		r, err := ParseRef(in)
		if err == nil {
			t.Errorf("ParseRef(%q) = %+v", in, r)
			continue
		}
		if text := rejection(t, err); !strings.Contains(text, want) {
			t.Errorf("ParseRef(%q): %s", in, text)
		}
	}
}

func TestParseRefRejectsOtherKinds(t *testing.T) {
	check := func(name, in, fault, form string) {
		t.Run(name, func(t *testing.T) {
			ref, err := ParseRef(in)
			if err == nil {
				t.Fatalf("ParseRef(%q) = %+v", in, ref)
			}
			if e := AsError(err); e.Reason != ReasonInvalidReference || !strings.HasPrefix(e.Message, "not a reference: "+fault+"; expected "+form) {
				t.Errorf("ParseRef(%q): %v, want %q", in, err, fault)
			}
		})
	}
	for _, tt := range rejectedAWS {
		check(tt.name, tt.in, tt.fault, "<ARN>")
	}
	for _, tt := range rejectedGCP {
		check(tt.name, tt.in, tt.fault, "projects/")
	}
}

// foldedOthers are references to them in another form.
var foldedOthers = []struct {
	name, in string
	want     Ref
}{
	{"server, version after options", "https://vault.example.org::secret/db?decode=base64#7::k", Ref{Kind: KindHashiCorpVault, Store: "https://vault.example.org", Name: "secret/db", Version: "7", Decoding: DecodeBase64, Key: "k"}},
	{"project, version after options", "projects/my-project/secrets/db?decode=base64#7", Ref{Kind: KindGCPSecretManager, Store: "projects/my-project", Name: "db", Version: "7", Decoding: DecodeBase64}},
	{"server written otherwise", "HTTPS://Vault.Example.ORG:443/::Secret/DB", Ref{Kind: KindHashiCorpVault, Store: "https://vault.example.org", Name: "Secret/DB"}},
	{"server without a domain", "https://Vault:8200/::a/B#7::K", Ref{Kind: KindHashiCorpVault, Store: "https://vault:8200", Name: "a/B", Version: "7", Key: "K"}},
	{"directory with a slash", "file:///Run/Secrets/::Db", Ref{Kind: KindLocalFile, Store: "file:///Run/Secrets", Name: "Db"}},
}

func TestKinds(t *testing.T) {
	for _, k := range Kinds() {
		sp := k.spelling()
		if r, err := ParseRef(sp.example); err != nil || r.Kind != k {
			t.Errorf("%s: the example %q is %v, %v", k, sp.example, r, err)
		}
		if !k.Known() || k.ValidNamePart("") != true || k.ValidNamePart("a*b") || k.ValidNamePart("\x00") {
			t.Errorf("%s: patterns", k)
		}
		if _, err := k.ParseStore(""); err == nil {
			t.Errorf("%s: nothing is taken for a store", k)
		}
	}
	unknown := Kind("X")
	if _, err := unknown.ParseStore("https://abc.vault.azure.net"); err == nil || unknown.Known() || unknown.ValidNamePart("a") ||
		unknown.parse(&Ref{Kind: unknown, Store: "https://abc.vault.azure.net", Name: "db"}) == "" {
		t.Error("an unknown kind has stores")
	}
}
