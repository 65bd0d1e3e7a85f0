package audit

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var update = flag.Bool("update", false, "write the golden files")

// goldenTime is the time of the golden records.
var goldenTime = time.Date(2027, 1, 10, 8, 30, 0, 123456789, time.UTC)

// goldenEvents has events of every type. Together they set every field.
func goldenEvents() map[string]Event {
	access := Event{
		Type: TypeAccess, Time: goldenTime, RequestID: "0123456789abcdef0123456789abcdef", Method: "Resolve",
		Principal: "spiffe://example.org/connect/worker-1", PeerAddress: "192.0.2.1:40000",
		CertificateSHA256: strings.Repeat("c0", 32), CertificateSerial: "5f3a",
		IntegrationID: "cspi-sqlserver", IntegrationRevision: "8d3f6a521c0b4a7e", Connector: "orders-cdc", Config: "database.password",
		Reference: "https://my-vault.vault.azure.net::sqlserver-db-secret::password",
		Store:     "https://my-vault.vault.azure.net", Secret: "sqlserver-db-secret", JSONKey: "password",
	}
	served, denied, rejected := access, access, access
	served.Outcome, served.GrantID, served.Version, served.Source = Served, "team-orders", "0123456789abcdef0123456789abcdef", "hit"
	denied.Outcome, denied.Reason = Denied, secret.ReasonAccessDenied
	rejected.Reference, rejected.Store, rejected.Secret, rejected.JSONKey = "", "", "", ""
	rejected.Outcome, rejected.Reason = Rejected, secret.ReasonInvalidReference
	watched := rejected
	watched.Method, watched.Config, watched.Outcome, watched.Reason = "Watch", "", Watched, ""
	watched.Watched = &WatchedSet{Configs: 2, Secrets: []string{"https://my-vault.vault.azure.net::sqlserver-db-secret"}, Omitted: 1}

	call := Event{
		Type: TypeManagement, Time: goldenTime, RequestID: access.RequestID, Method: "GrantUse", Principal: "spiffe://example.org/ops/owner",
		PeerAddress: access.PeerAddress, CertificateSHA256: access.CertificateSHA256, CertificateSerial: access.CertificateSerial,
		IntegrationID: access.IntegrationID,
	}
	attempted, changed, explained := call, call, call
	attempted.Outcome, attempted.IntegrationRevision = Attempted, access.IntegrationRevision
	attempted.Change = &Change{
		Before: json.RawMessage(`{"id":"cspi-sqlserver"}`), After: json.RawMessage(`{"grants":[{"id":"team-orders","principals":["dns:a.example.org"]}],"id":"cspi-sqlserver"}`),
		Fields: []string{"grants"}, Credentials: []string{"azure.credential.client_secret"}, Forced: true,
	}
	changed.Outcome, changed.IntegrationRevision = Changed, "c2a97b145e6d4f38"
	explained.Method, explained.Outcome, explained.Subject = "Explain", Answered, access.Principal
	explained.Reference, explained.Store, explained.Secret, explained.JSONKey = access.Reference, access.Store, access.Secret, access.JSONKey
	return map[string]Event{
		"access_served": served, "access_denied": denied, "access_rejected": rejected, "access_watched": watched,
		"management_attempted": attempted, "management_changed": changed, "management_explained": explained,
		"refusals": {
			Type: TypeRefusals, Time: goldenTime, Principal: access.Principal, Outcome: Counted,
			Count: &Count{Total: 42, Since: goldenTime, Reasons: map[secret.Reason]uint64{secret.ReasonAccessDenied: 42}},
		},
		"restore": {
			Type: TypeRestore, Time: goldenTime, RequestID: access.RequestID, Method: "RegistryRestored", IntegrationID: access.IntegrationID,
			Outcome: Changed, Note: "the integration came back",
		},
	}
}

// TestGoldenRecords: records of every type are encoded as in testdata. A difference is a change
// of what programs that parse logs rely on.
func TestGoldenRecords(t *testing.T) {
	var u chain.Unchained
	u.Add([]byte("half a line"))
	link := chain.NewLinker(testKey(t, "k"))
	header := chain.NewSegmentHeader(chain.Torn, link, chain.Head{Seq: 41}, &u)
	header.Time = goldenTime
	lines := map[string][]byte{"segment": header.Encode()}
	for name, e := range goldenEvents() {
		line, err := appendEvent(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		lines[name] = line
	}
	for name, line := range lines {
		head := chain.Head{Seq: 41}
		golden(t, name+".golden", string(link.Seal(nil, line, &head)))
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: the format of records has changed\n got: %s\nwant: %s", name, got, want)
	}
}

// TestGoldenRecordsAreComplete: the golden events set every field.
func TestGoldenRecordsAreComplete(t *testing.T) {
	unset := make(map[string]bool)
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			if seen, known := unset[name]; !known || seen {
				unset[name] = v.Field(i).IsZero()
			}
			if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
				look(f.Elem())
			}
		}
	}
	for _, e := range goldenEvents() {
		look(reflect.ValueOf(e))
	}
	for name, is := range unset {
		if is {
			t.Errorf("no golden event sets %s", name)
		}
	}
}

// TestDocumentedMembers: the tables of docs/audit.md name exactly the members of records.
func TestDocumentedMembers(t *testing.T) {
	data, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	tagged := func(types ...reflect.Type) map[string]bool {
		names := make(map[string]bool)
		for _, typ := range types {
			for f := range typ.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				names[name] = true
			}
		}
		return names
	}
	events := tagged(reflect.TypeFor[Event]())
	events["v"], events["run"], events["seq"], events["chain"] = true, true, true, true
	headers := tagged(reflect.TypeFor[chain.SegmentHeader]())
	for name := range events { // documented once
		delete(headers, name)
	}
	for heading, want := range map[string]map[string]bool{"## Records": events, "### Segment headers": headers} {
		_, section, found := strings.Cut(string(data), "\n"+heading+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		got := make(map[string]bool)
		for _, row := range regexp.MustCompile("(?m)^\\| ((?:`[a-z0-9_]+`(?:, )?)+) \\|").FindAllStringSubmatch(section, -1) {
			for _, name := range regexp.MustCompile("[a-z0-9_]+").FindAllString(row[1], -1) {
				got[name] = true
			}
		}
		if !found || !maps.Equal(got, want) {
			t.Errorf("%s documents %q, records have %q", heading, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	for name := range tagged(reflect.TypeFor[Change](), reflect.TypeFor[Count]()) {
		if !strings.Contains(string(data), "`"+name+"`") {
			t.Errorf("docs/audit.md does not mention %s", name)
		}
	}
}
