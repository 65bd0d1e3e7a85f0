package azurekv

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The samples of Microsoft's documentation, "Azure Key Vault as Event Grid source", with
// its odd spaces.
const (
	sampleEventGrid = `[
  {
    "id": "00eccf70-95a7-4e7c-8299-2eb17ee9ad64",
    "topic": "/subscriptions/{subscription-id}/resourceGroups/sample-rg/providers/Microsoft.KeyVault/vaults/sample-kv",
    "subject": "newsecret",
    "eventType": "Microsoft.KeyVault.SecretNewVersionCreated",
    "eventTime": "2019-07-25T01:08:33.1036736Z",
    "data": {
      "Id": "https://sample-kv.vault.azure.net/secrets/newsecret/ee059b2bb5bc48398a53b168c6cdcb10",
      "VaultName": "sample-kv",
      "ObjectType": "Secret",
      "ObjectName ": "newsecret",
      "Version": " ee059b2bb5bc48398a53b168c6cdcb10",
      "NBF": "1559081980",
      "EXP": "1559082102"
    },
    "dataVersion": "1",
    "metadataVersion": "1"
  }
]`
	sampleCloudEvent = `{
    "id": "00eccf70-95a7-4e7c-8299-2eb17ee9ad64",
    "source": "/subscriptions/{subscription-id}/resourceGroups/sample-rg/providers/Microsoft.KeyVault/vaults/sample-kv",
    "subject": "newsecret",
    "type": "Microsoft.KeyVault.SecretNewVersionCreated",
    "time": "2019-07-25T01:08:33.1036736Z",
    "data": {
      "Id": "https://sample-kv.vault.azure.net/secrets/newsecret/ee059b2bb5bc48398a53b168c6cdcb10",
      "VaultName": "sample-kv",
      "ObjectType": "Secret",
      "ObjectName ": "newsecret",
      "Version": " ee059b2bb5bc48398a53b168c6cdcb10",
      "NBF": "1559081980",
      "EXP": "1559082102"
    },
    "specversion": "1.0"
  }`
	sampleVersion    = "ee059b2bb5bc48398a53b168c6cdcb10"
	sampleValidation = `[{"id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66", "topic": "/subscriptions/x", "subject": "",
  "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://rp-eastus2.eventgrid.azure.net:553/eventsubscriptions/myeventsub/validate?id=0000"},
  "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "eventTime": "2023-01-25T22:12:19.4556811Z", "metadataVersion": "1", "dataVersion": "1"}]`
)

// eventWith returns an event in the Event Grid schema.
func eventWith(kind, data string) string {
	return `{"eventType":"Microsoft.KeyVault.` + kind + `","eventTime":"2026-01-02T03:04:05Z","data":` + data + `}`
}

func TestParseMessage(t *testing.T) {
	const (
		newVersion = "Microsoft.KeyVault.SecretNewVersionCreated"
		id         = `{"Id":"https://v-1.vault.azure.net/secrets/db/` + version1 + `"}`
		notJSON    = "the text is neither JSON nor its base64"
		noSecret   = "the event does not name a secret of a vault of a known cloud"
	)
	sample := provider.Event{Store: "https://sample-kv.vault.azure.net", Name: "newsecret", Version: sampleVersion, Type: newVersion, At: time.Date(2019, 7, 25, 1, 8, 33, 103673600, time.UTC)}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	db := provider.Event{Store: "https://v-1.vault.azure.net", Name: "db", Version: version1, Type: newVersion, At: at}
	with := func(change func(*provider.Event)) provider.Event {
		e := db
		change(&e)
		return e
	}
	undated := with(func(e *provider.Event) { e.At = time.Time{} })
	unversioned := with(func(e *provider.Event) { e.Version = "" })
	of := func(kind string) provider.Event {
		return with(func(e *provider.Event) { e.Type, e.Version = kind, "" })
	}
	encoded := base64.StdEncoding.EncodeToString
	for name, tt := range map[string]struct {
		text    string
		want    []provider.Event
		problem string
	}{
		"the documented event":                 {sampleEventGrid, []provider.Event{sample}, ""},
		"the documented cloud event":           {sampleCloudEvent, []provider.Event{sample}, ""},
		"base64":                               {encoded([]byte(sampleEventGrid)), []provider.Event{sample}, ""},
		"base64 of one":                        {encoded([]byte(sampleCloudEvent)), []provider.Event{sample}, ""},
		"base64 without padding":               {strings.TrimRight(encoded([]byte(sampleCloudEvent)), "="), []provider.Event{sample}, ""},
		"base64 for URLs":                      {base64.URLEncoding.EncodeToString([]byte(sampleCloudEvent)), []provider.Event{sample}, ""},
		"base64 in lines":                      {encoded([]byte(sampleCloudEvent))[:76] + "\r\n" + encoded([]byte(sampleCloudEvent))[76:], []provider.Event{sample}, ""},
		"a byte order mark":                    {encoded([]byte("\ufeff" + sampleCloudEvent)), []provider.Event{sample}, ""},
		"two events":                           {"[" + eventWith("SecretNewVersionCreated", id) + "," + sampleCloudEvent + "]", []provider.Event{db, sample}, ""},
		"one of two that is none":              {"[7," + eventWith("SecretNewVersionCreated", id) + "]", []provider.Event{db}, ""},
		"camel case":                           {`{"EventType":"Microsoft.KeyVault.SecretNewVersionCreated","data":{"id":"https://v-1.vault.azure.net/secrets/db/` + version1 + `","objectName":"db"}}`, []provider.Event{undated}, ""},
		"another case":                         {`{"EVENTTYPE":"microsoft.keyvault.SECRETNEWVERSIONCREATED","DATA":{"ID":"HTTPS://V-1.VAULT.AZURE.NET/SECRETS/DB/` + strings.ToUpper(version1) + `"}}`, []provider.Event{undated}, ""},
		"spaces in names":                      {`{" eventType":" Microsoft.KeyVault.SecretNewVersionCreated ","data ":{"Id ":" https://v-1.vault.azure.net/secrets/db/` + version1 + ` "}}`, []provider.Event{undated}, ""},
		"a port":                               {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net:443/secrets/db/`+version1+`"}`), []provider.Event{db}, ""},
		"a version of its own":                 {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/db","Version":" `+version1+`"}`), []provider.Event{db}, ""},
		"no version":                           {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/db/"}`), []provider.Event{unversioned}, ""},
		"a version that is none":               {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/db/abc","Version":"../x"}`), []provider.Event{unversioned}, ""},
		"another version beside":               {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/db/`+version1+`","Version":"`+strings.Repeat("f", 32)+`"}`), []provider.Event{db}, ""},
		"the field renamed":                    {eventWith("SecretNewVersionCreated", `{"objectId":"https://v-1.vault.azure.net/secrets/db/`+version1+`","Id":null,"NBF":5}`), []provider.Event{db}, ""},
		"numbers and nulls":                    {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/db/`+version1+`","NBF":1559081980,"EXP":null,"Version":7,"VaultName":{}}`), []provider.Event{db}, ""},
		"another vault's name":                 {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/db/`+version1+`","VaultName":"v-2"}`), []provider.Event{db}, ""},
		"another cloud":                        {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.cn/secrets/db/`+version1+`"}`), []provider.Event{with(func(e *provider.Event) { e.Store = "https://v-1.vault.azure.cn" })}, ""},
		"data in a text":                       {eventWith("SecretNewVersionCreated", `"{\"Id\":\"https://v-1.vault.azure.net/secrets/db/`+version1+`\"}"`), []provider.Event{db}, ""},
		"data in base64":                       {`{"type":"Microsoft.KeyVault.SecretNewVersionCreated","time":"2026-01-02T03:04:05Z","data_base64":"` + encoded([]byte(id)) + `"}`, []provider.Event{db}, ""},
		"a time that is none":                  {strings.Replace(eventWith("SecretNewVersionCreated", id), "2026-01-02", "02.01.2026", 1), []provider.Event{undated}, ""},
		"near expiry":                          {eventWith("SecretNearExpiry", id), []provider.Event{of("Microsoft.KeyVault.SecretNearExpiry")}, ""},
		"expired":                              {eventWith("SecretExpired", id), []provider.Event{of("Microsoft.KeyVault.SecretExpired")}, ""},
		"a certificate":                        {eventWith("CertificateNewVersionCreated", strings.Replace(id, "secrets", "certificates", 1)), []provider.Event{of("Microsoft.KeyVault.CertificateNewVersionCreated")}, ""},
		"a type that may come":                 {eventWith("SecretDisabled", id), []provider.Event{of("another event of a secret")}, ""},
		"the access policy":                    {eventWith("VaultAccessPolicyChanged", `{"Id":"https://v-1.vault.azure.net","VaultName":"v-1","ObjectType":null,"ObjectName":null}`), nil, ""},
		"a key":                                {eventWith("KeyNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/keys/db/`+version1+`"}`), nil, ""},
		"the validation of a subscription":     {sampleValidation, nil, ""},
		"an event of something else":           {`{"type":"Microsoft.Storage.BlobCreated","data":{"url":"https://v-1.vault.azure.net/secrets/db"}}`, nil, ""},
		"an empty array":                       {"[]", nil, ""},
		"empty":                                {"", nil, notJSON},
		"text":                                 {"hello", nil, notJSON},
		"base64 of text":                       {encoded([]byte("hello world")), nil, notJSON},
		"a text in JSON":                       {`"hello"`, nil, notJSON},
		"half an object":                       {eventWith("SecretNewVersionCreated", id)[:80], nil, "the text is not a JSON object"},
		"half an array":                        {"[" + eventWith("SecretNewVersionCreated", id), nil, "the text is not JSON"},
		"nulls":                                {"[null]", nil, "the text is not a JSON object"},
		"no type":                              {`{"data":` + id + `}`, nil, "the message has no type of event"},
		"a number as type":                     {`{"eventType":7,"data":` + id + `}`, nil, "the message has no type of event"},
		"no data":                              {eventWith("SecretNewVersionCreated", "null"), nil, "the event has no data"},
		"only the vault's name":                {eventWith("SecretNewVersionCreated", `{"VaultName":"v-1","ObjectName":"db","Version":"`+version1+`"}`), nil, noSecret},
		"a server that is no vault":            {eventWith("SecretNewVersionCreated", `{"Id":"https://vault.azure.net.example.org/secrets/db/`+version1+`"}`), nil, noSecret},
		"a user before the vault":              {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net@example.org/secrets/db"}`), nil, noSecret},
		"another port":                         {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net:8443/secrets/db"}`), nil, noSecret},
		"HTTP":                                 {eventWith("SecretNewVersionCreated", `{"Id":"http://v-1.vault.azure.net/secrets/db"}`), nil, noSecret},
		"the URL of the vault":                 {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net"}`), nil, noSecret},
		"a name that is none":                  {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/secrets/..%2fdb/`+version1+`"}`), nil, noSecret},
		"a key in an event of a secret":        {eventWith("SecretNewVersionCreated", `{"Id":"https://v-1.vault.azure.net/keys/db/`+version1+`"}`), nil, noSecret},
		"deep":                                 {strings.Repeat("[", 20_000), nil, "the text is not JSON"},
		"an object that is deep in its fields": {eventWith("SecretNewVersionCreated", strings.Repeat(`{"a":`, 20_000)), nil, "the text is not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			got, problem := parseMessage(tt.text)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if problem != tt.problem {
				t.Errorf("the problem is %q, want %q", problem, tt.problem)
			}
		})
	}
}

// FuzzParseMessage: whatever the text, each event has the form of a reference, and a problem
// quotes nothing.
func FuzzParseMessage(f *testing.F) {
	for _, text := range []string{
		sampleEventGrid, sampleCloudEvent, sampleValidation, "", "[", "{}", "[{}]", "7",
		base64.StdEncoding.EncodeToString([]byte(sampleEventGrid)),
		eventWith("SecretNearExpiry", `{"Id":"https://v-1.vault.azure.net:443/secrets/a/b/c"}`),
		eventWith("Secret", `"{\"Id\":\"https://v-1.vault.azure.net/secrets/a%2f/b\"}"`),
	} {
		f.Add(text)
	}
	problems := map[string]bool{
		"": true, "the text is neither JSON nor its base64": true, "the text is not JSON": true, "the text is not a JSON object": true,
		"the message has no type of event": true, "the event has no data": true, "the event does not name a secret of a vault of a known cloud": true,
	}
	types := map[string]bool{"another event of a secret": true, "another event of a certificate": true}
	for _, k := range eventTypes {
		types[k.name] = true
	}
	f.Fuzz(func(t *testing.T, text string) {
		events, problem := parseMessage(text)
		if !problems[problem] || problem != "" && len(events) > 0 {
			t.Errorf("the problem %q beside %d events", problem, len(events))
		}
		for _, e := range events {
			reference := e.Store + "::" + e.Name
			if e.Version != "" {
				reference += "#" + e.Version
			}
			ref, err := secret.ParseRef(reference)
			if err != nil || ref.String() != reference || ref.Kind != secret.KindAzureKeyVault || e.Suffix != "" || !types[e.Type] {
				t.Errorf("%+v: %v", e, err)
			}
		}
		again, _ := parseMessage(base64.StdEncoding.EncodeToString([]byte(text)))
		if json.Valid([]byte(text)) && len(again) != len(events) {
			t.Errorf("%d events, and %d in base64", len(events), len(again))
		}
	})
}
