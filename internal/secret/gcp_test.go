package secret

import (
	"strings"
	"testing"
)

func gcpRef(store, name, version, key string) Ref {
	return Ref{Kind: KindGCPSecretManager, Store: store, Name: name, Version: version, Key: key}
}

var acceptedGCP = []struct {
	name, in string
	want     Ref
}{
	{"whole secret", "projects/my-project/secrets/db", gcpRef("projects/my-project", "db", "", "")},
	{"JSON key", "projects/my-project/secrets/db::password", gcpRef("projects/my-project", "db", "", "password")},
	{"version", "projects/my-project/secrets/db#12", gcpRef("projects/my-project", "db", "12", "")},
	{"version and key", "projects/my-project/secrets/db#12::k", gcpRef("projects/my-project", "db", "12", "k")},
	{"alias", "projects/my-project/secrets/db#prod_Blue-2", gcpRef("projects/my-project", "db", "prod_Blue-2", "")},
	{"latest is no version", "projects/my-project/secrets/db#latest", gcpRef("projects/my-project", "db", "", "")},
	{"Latest is an alias", "projects/my-project/secrets/db#Latest", gcpRef("projects/my-project", "db", "Latest", "")},
	{"resource name of a version", "projects/my-project/secrets/db/versions/3::k", gcpRef("projects/my-project", "db", "3", "k")},
	{"resource name of latest", "projects/my-project/secrets/db/versions/latest", gcpRef("projects/my-project", "db", "", "")},
	{"project number", "projects/123456789012/secrets/db", gcpRef("projects/123456789012", "db", "", "")},
	{"regional", "projects/my-project/locations/europe-west3/secrets/db#1::k", gcpRef("projects/my-project/locations/europe-west3", "db", "1", "k")},
	{"multi-region", "projects/my-project/locations/eu/secrets/db", gcpRef("projects/my-project/locations/eu", "db", "", "")},
	{"names keep their case", "projects/my-project/secrets/DB_Secret-1", gcpRef("projects/my-project", "DB_Secret-1", "", "")},
	{"decoding", "projects/my-project/secrets/db#2?decode=base64::k", decoded(gcpRef("projects/my-project", "db", "2", "k"))},
	{"key with everything", "projects/my-project/secrets/db::a::b/secrets/c#1?d", gcpRef("projects/my-project", "db", "", "a::b/secrets/c#1?d")},
	{"longest names", "projects/a" + strings.Repeat("9", 29) + "/secrets/" + strings.Repeat("n", 255) + "#a" + strings.Repeat("9", 62),
		gcpRef("projects/a"+strings.Repeat("9", 29), strings.Repeat("n", 255), "a"+strings.Repeat("9", 62), "")},
}

const (
	gcpProjectFault  = "the project must be a project ID (6 to 30 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen) or a project number"
	gcpLocationFault = "the location must be a region such as europe-west3, or a multi-region such as eu"
	gcpNameFault     = "the secret's name must be 1 to 255 letters, digits, hyphens and underscores"
	gcpVersionFault  = "the version must be a number, or an alias of 1 to 63 letters, digits, hyphens and underscores that begins with a letter"
	gcpNoSecretFault = "/secrets/ and the secret's name must follow the project"
)

var rejectedGCP = []struct{ name, in, fault string }{
	{"no secret", "projects/my-project", gcpNoSecretFault},
	{"short of a secret", "projects/my-project/secrets", gcpNoSecretFault},
	{"empty secret", "projects/my-project/secrets/", gcpNameFault},
	{"too long a name", "projects/my-project/secrets/" + strings.Repeat("n", 256), gcpNameFault},
	{"name with a dot", "projects/my-project/secrets/a.b", gcpNameFault},
	{"name climbs", "projects/my-project/secrets/..", gcpNameFault},
	{"name with a slash", "projects/my-project/secrets/a/b", gcpNameFault},
	{"name with a custom method", "projects/my-project/secrets/db:setIamPolicy", gcpNameFault},
	{"name escaped", "projects/my-project/secrets/a%2Fb", gcpNameFault},
	{"name beyond ASCII", "projects/my-project/secrets/pässword", gcpNameFault},
	{"secrets twice", "projects/my-project/secrets/a/secrets/b", gcpNameFault},
	{"no project", "projects/secrets/db", "it does not begin with projects/"},
	{"empty project", "projects//secrets/db", gcpProjectFault},
	{"project in upper case", "projects/My-Project/secrets/db", gcpProjectFault},
	{"project too short", "projects/abcde/secrets/db", gcpProjectFault},
	{"project too long", "projects/a" + strings.Repeat("9", 30) + "/secrets/db", gcpProjectFault},
	{"project ends with a hyphen", "projects/my-project-/secrets/db", gcpProjectFault},
	{"project begins with a digit", "projects/1my-project/secrets/db", gcpProjectFault},
	{"project climbs", "projects/../secrets/db", gcpProjectFault},
	{"project of a domain", "projects/example.com:my-project/secrets/db", gcpProjectFault},
	{"project number zero", "projects/0/secrets/db", gcpProjectFault},
	{"project number with zeros in front", "projects/0123456789/secrets/db", gcpProjectFault},
	{"project number too long", "projects/1234567890123456789/secrets/db", gcpProjectFault},
	{"wildcard project", "projects/-/secrets/db", gcpProjectFault},
	{"empty location", "projects/my-project/locations//secrets/db", gcpLocationFault},
	{"location with a dot", "projects/my-project/locations/evil.example/secrets/db", gcpLocationFault},
	{"location in upper case", "projects/my-project/locations/Europe-West3/secrets/db", gcpLocationFault},
	{"location global", "projects/my-project/locations/global/secrets/db", gcpLocationFault},
	{"locations twice", "projects/my-project/locations/europe-west3/locations/us-east1/secrets/db", gcpLocationFault},
	{"version zero", "projects/my-project/secrets/db#0", gcpVersionFault},
	{"version with zeros in front", "projects/my-project/secrets/db#01", gcpVersionFault},
	{"version negative", "projects/my-project/secrets/db#-1", gcpVersionFault},
	{"version too long", "projects/my-project/secrets/db#1234567890123456789", gcpVersionFault},
	{"alias too long", "projects/my-project/secrets/db#a" + strings.Repeat("b", 63), gcpVersionFault},
	{"alias begins with an underscore", "projects/my-project/secrets/db#_a", gcpVersionFault},
	{"version with a custom method", "projects/my-project/secrets/db/versions/1:destroy", gcpVersionFault},
	{"version climbs", "projects/my-project/secrets/db/versions/..", gcpVersionFault},
	{"version with a path", "projects/my-project/secrets/db/versions/1/x", gcpVersionFault},
	{"version empty in the name", "projects/my-project/secrets/db/versions/", `the version after "/versions/" is empty; leave it out to select the newest version`},
	{"version twice", "projects/my-project/secrets/db/versions/1#1", `the version is given twice, after "/versions/" and after "#"`},
}

func TestParseGCPStore(t *testing.T) {
	for in, fault := range map[string]string{
		"projects/my-project":                        "",
		"projects/123456789012":                      "",
		"projects/my-project/locations/europe-west3": "",
		"":                                     "it does not begin with projects/",
		"my-project":                           "it does not begin with projects/",
		"projects/":                            gcpProjectFault,
		"projects/my-project/":                 gcpProjectFault,
		"projects/my-project/secrets/db":       gcpProjectFault,
		"projects/my-project/locations/":       gcpLocationFault,
		"projects/my-project/locations/a-b/c":  gcpLocationFault,
		"projects/my-project\n":                gcpProjectFault,
		"PROJECTS/my-project":                  "it does not begin with projects/",
		"projects/my-project/locations/global": gcpLocationFault,
	} {
		store, err := KindGCPSecretManager.ParseStore(in)
		switch {
		case fault == "" && (err != nil || store != in):
			t.Errorf("ParseStore(%q) = %q, %v", in, store, err)
		case fault != "" && (err == nil || store != "" || !strings.Contains(err.Error(), "not a project: "+fault+"; expected")):
			t.Errorf("ParseStore(%q) = %q, %v, want %q", in, store, err, fault)
		}
	}
}

func TestGCPEndpoint(t *testing.T) {
	for store, want := range map[string]string{
		"projects/my-project":                    "secretmanager.googleapis.com",
		"projects/my-project/locations/us-east1": "secretmanager.us-east1.rep.googleapis.com",
	} {
		if got := GCPEndpoint(store); got != want {
			t.Errorf("GCPEndpoint(%q) = %q, want %q", store, got, want)
		}
	}
}

// Every accepted reference yields a path of the API that names this secret only.
func FuzzParseGCP(f *testing.F) {
	for _, tt := range acceptedGCP {
		f.Add(strings.TrimPrefix(tt.in, "projects/"))
	}
	faults := make(map[string]bool)
	for _, tt := range rejectedGCP {
		f.Add(strings.TrimPrefix(tt.in, "projects/"))
		faults[tt.fault] = true
	}
	f.Fuzz(func(t *testing.T, in string) {
		r := Ref{Kind: KindGCPSecretManager, Name: "projects/" + in}
		fault := parseGCP(&r)
		if fault != "" {
			if !faults[fault] {
				t.Fatalf("parseGCP of %q: %q, a text that the table does not know", in, fault)
			}
			return
		}
		checkCanonical(t, r)
		path := strings.Split(strings.TrimPrefix(r.Store, "projects/")+"/"+r.Name+"/"+r.Version, "/")
		want := 3
		if GCPEndpoint(r.Store) != GCPEndpoint("") {
			want = 5
		}
		if len(path) != want || r.Kind != KindGCPSecretManager {
			t.Errorf("%q became %+v", in, r)
		}
		for i, segment := range path {
			if strings.Trim(segment, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != "" || segment == "" && i < want-1 {
				t.Errorf("%q became %+v has the segment %q", in, r, segment)
			}
		}
	})
}
