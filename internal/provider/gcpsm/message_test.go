package gcpsm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var parserStores = []string{"projects/parser-project", "projects/parser-project/locations/europe-west3", "projects/777777777777"}

func TestParseMessage(t *testing.T) {
	learnProject("parser-project", "666666666666")
	const byID = "projects/parser-project/secrets/db"
	at := time.Date(2026, 1, 20, 19, 17, 45, 81104000, time.UTC)
	event := func(store, label, version, kind string) provider.Event {
		return provider.Event{Store: store, Name: "db", Label: label, Version: version, At: at, Type: kind}
	}
	one := func(label, version, kind string) []provider.Event {
		return []provider.Event{event("projects/parser-project", label, version, kind)}
	}
	for _, tt := range []struct {
		name       string
		attributes string // "name=value", separated by commas; the timestamp is added
		want       []provider.Event
		problem    string
	}{
		{"a version added", "eventType=SECRET_VERSION_ADD,dataFormat=JSON_API_V1,secretId=" + byID + ",versionId=" + byID + "/versions/7", one("", "7", "SECRET_VERSION_ADD"), ""},
		{"a version as a number", "eventType=SECRET_VERSION_ADD,secretId=" + byID + ",versionId=7", one("", "7", "SECRET_VERSION_ADD"), ""},
		{"no version", "eventType=SECRET_VERSION_ADD,secretId=" + byID, one("", "", "SECRET_VERSION_ADD"), ""},
		{"the version's project as a number", "eventType=SECRET_VERSION_ADD,secretId=" + byID + ",versionId=projects/1/secrets/db/versions/12", one("", "12", "SECRET_VERSION_ADD"), ""},
		{"a version of another secret", "eventType=SECRET_VERSION_ADD,secretId=" + byID + ",versionId=projects/parser-project/secrets/other/versions/7", one("", "", "SECRET_VERSION_ADD"), ""},
		{"an alias as a version", "eventType=SECRET_VERSION_ADD,secretId=" + byID + ",versionId=latest", one("", "", "SECRET_VERSION_ADD"), ""},
		{"a version that is none", "eventType=SECRET_VERSION_ADD,secretId=" + byID + ",versionId=7::x", one("", "", "SECRET_VERSION_ADD"), ""},
		{"spaces and other case", "EventType= SECRET_VERSION_ADD,SECRETID= " + byID + " , versionid= 7", one("", "7", "SECRET_VERSION_ADD"), ""},
		{"a full resource name", "eventType=SECRET_VERSION_ADD,secretId=//secretmanager.googleapis.com/" + byID + ",versionId=7", one("", "7", "SECRET_VERSION_ADD"), ""},
		{"a version disabled", "eventType=SECRET_VERSION_DISABLE,secretId=" + byID + ",versionId=" + byID + "/versions/7", one("*", "", "SECRET_VERSION_DISABLE"), ""},
		{"a version enabled", "eventType=SECRET_VERSION_ENABLE,secretId=" + byID, one("*", "", "SECRET_VERSION_ENABLE"), ""},
		{"a version destroyed", "eventType=SECRET_VERSION_DESTROY,secretId=" + byID, one("*", "", "SECRET_VERSION_DESTROY"), ""},
		{"a destruction scheduled", "eventType=SECRET_VERSION_DESTROY_SCHEDULED,secretId=" + byID, one("*", "", "SECRET_VERSION_DESTROY_SCHEDULED"), ""},
		{"a secret updated", "eventType=SECRET_UPDATE,secretId=" + byID, one("*", "", "SECRET_UPDATE"), ""},
		{"a secret deleted", "eventType=SECRET_DELETE,deleteType=REQUESTED,secretId=" + byID, one("*", "", "SECRET_DELETE"), ""},
		{"a later type", "eventType=SECRET_VERSION_FROB,secretId=" + byID, one("*", "", otherType), ""},
		{"regional", "eventType=SECRET_UPDATE,secretId=projects/parser-project/locations/europe-west3/secrets/db",
			[]provider.Event{event("projects/parser-project/locations/europe-west3", "*", "", "SECRET_UPDATE")}, ""},
		{"another region", "eventType=SECRET_UPDATE,secretId=projects/parser-project/locations/us-east1/secrets/db",
			[]provider.Event{event("projects/parser-project/locations/us-east1", "*", "", "SECRET_UPDATE")}, ""},
		{"another project", "eventType=SECRET_UPDATE,secretId=projects/other-project/secrets/db", []provider.Event{
			event("projects/777777777777", "*", "", "SECRET_UPDATE"), // its ID is not known
		}, ""},
		{"a number that is listed", "eventType=SECRET_UPDATE,secretId=projects/777777777777/secrets/db", []provider.Event{
			event("projects/777777777777", "*", "", "SECRET_UPDATE"),
		}, ""},
		{"the number of a listed ID", "eventType=SECRET_UPDATE,secretId=projects/666666666666/secrets/db", one("*", "", "SECRET_UPDATE"), ""},
		{"time to rotate", "eventType=SECRET_ROTATE,secretId=" + byID, nil, ""},
		{"a secret created", "eventType=SECRET_CREATE,secretId=" + byID, nil, ""},
		{"a topic configured", "eventType=TOPIC_CONFIGURED", nil, ""},
		{"no attributes", "", nil, "the message has no attribute eventType"},
		{"another service", "eventType=OBJECT_FINALIZE,bucketId=b", nil, "the attribute eventType is not one of Secret Manager"},
		{"no secret", "eventType=SECRET_UPDATE", nil, "the attribute secretId is not the name of a secret"},
		{"a version as the secret", "eventType=SECRET_UPDATE,secretId=" + byID + "/versions/1", nil, "the attribute secretId is not the name of a secret"},
		{"a reference as the secret", "eventType=SECRET_UPDATE,secretId=" + byID + "::key", nil, "the attribute secretId is not the name of a secret"},
		{"a secret of another kind", "eventType=SECRET_UPDATE,secretId=https://v.vault.azure.net::db", nil, "the attribute secretId is not the name of a secret"},
		{"a path", "eventType=SECRET_UPDATE,secretId=projects/parser-project/secrets/../db", nil, "the attribute secretId is not the name of a secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			attributes := map[string]string{"timestamp": "2026-01-20T11:17:45.081104-08:00"}
			for pair := range strings.SplitSeq(tt.attributes, ",") {
				if name, value, ok := strings.Cut(pair, "="); ok {
					attributes[name] = value
				}
			}
			got, problem := messageParser{parserStores}.parse(attributes)
			for i := range got {
				got[i].At = got[i].At.UTC()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || problem != tt.problem {
				t.Errorf("problem %q, want %q\n%s", problem, tt.problem, diff)
			}
		})
	}
	got, problem := messageParser{parserStores}.parse(map[string]string{"eventType": "SECRET_UPDATE", "secretId": byID, "timestamp": "today"})
	if len(got) != 1 || problem != "" || !got[0].At.IsZero() {
		t.Errorf("a timestamp that is none: %+v, %q", got, problem)
	}
}

// A message has the number of a project. The broker learns from reads which ID it belongs to,
// and until then assumes each that it can belong to.
func TestParseMessageProjects(t *testing.T) {
	p := messageParser{[]string{"projects/learned-one", "projects/learned-two", "projects/learned-one/locations/eu"}}
	stores := func(project string) []string {
		events, _ := p.parse(map[string]string{"eventType": "SECRET_UPDATE", "secretId": "projects/" + project + "/secrets/db"})
		var stores []string
		for _, e := range events {
			stores = append(stores, e.Store)
		}
		return stores
	}
	check := func(when, project string, want ...string) {
		t.Helper()
		if got := stores(project); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	check("nothing known", "4711", "projects/learned-one", "projects/learned-two")
	check("nothing known, an ID", "learned-two", "projects/learned-two")
	learnProject("learned-one", "4711")
	check("one known", "4711", "projects/learned-one")
	check("one known", "4712", "projects/learned-two")
	learnProject("learned-two", "4712")
	check("both known", "4711", "projects/learned-one")
	check("both known", "4712", "projects/learned-two")
	check("both known", "4713", "projects/4713")
	learnProject("learned-two", "4713")
	check("another number", "4713", "projects/learned-two")
	p.stores = nil
	for i := range 2 * maxNamed {
		p.stores = append(p.stores, fmt.Sprint("projects/never-learned-", i))
	}
	if got := stores("4714"); len(got) != maxNamed {
		t.Errorf("%d stores", len(got))
	}
}

// Whatever a message contains, an event names a secret that a reference could name, in the
// spelling of references, and text of the message is nowhere else.
func FuzzParseMessage(f *testing.F) {
	f.Add("SECRET_VERSION_ADD", "projects/parser-project/secrets/db", "projects/1/secrets/db/versions/3", "2026-01-20T11:17:45.081104-08:00", "eventType")
	f.Add("SECRET_X", "//secretmanager.googleapis.com/projects/777777777777/locations/eu/secrets/db", "9", "", "EVENTTYPE ")
	f.Add("TOPIC_CONFIGURED", "", "", "", "secretid")
	types := append(slices.Clone(changing), otherType)
	problems := []string{"", "the message has no attribute eventType", "the attribute eventType is not one of Secret Manager", "the attribute secretId is not the name of a secret"}
	f.Fuzz(func(t *testing.T, kind, id, version, at, key string) {
		attributes := map[string]string{"secretId": id, "versionId": version, "timestamp": at, key: kind}
		before := maps.Clone(attributes)
		events, problem := messageParser{parserStores}.parse(attributes)
		if !slices.Contains(problems, problem) || problem != "" && events != nil {
			t.Errorf("problem %q with %d events", problem, len(events))
		}
		for _, e := range events {
			ref := secret.Ref{Kind: secret.KindGCPSecretManager, Store: e.Store, Name: e.Name, Version: e.Version}
			if provider.CheckRef(ref, secret.KindGCPSecretManager) != nil || e.Suffix != "" || !slices.Contains(types, e.Type) {
				t.Errorf("event %+v", e)
			}
			if e.Version != "" && (!isNumber(e.Version) || e.Label != "") {
				t.Errorf("version %q, label %q", e.Version, e.Label)
			}
		}
		if !maps.Equal(before, attributes) {
			t.Error("the attributes have changed")
		}
	})
}
