package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

// unescape decodes an escaped text like GitHub's runner.
var unescapeCommand = strings.NewReplacer("%0D", "\r", "%0A", "\n", "%3A", ":", "%2C", ",", "%25", "%")

func TestAnnotation(t *testing.T) {
	tests := []struct {
		name string
		a    annotation
		want string
	}{
		{"all", annotation{"error", "connectors/a.json", 12, "SECRET_NOT_FOUND", "database.password: no such secret"},
			"::error file=connectors/a.json,line=12,title=SECRET_NOT_FOUND::database.password: no such secret"},
		{"no position", annotation{level: "warning", title: "EMPTY_VALUE", message: "m"}, "::warning title=EMPTY_VALUE::m"},
		{"no line", annotation{level: "error", file: "a.json", title: "T", message: "m"}, "::error file=a.json,title=T::m"},
		{"escapes in the message", annotation{level: "error", title: "T", message: "100%: a,b\r\n::error::forged %0A"},
			"::error title=T::100%25: a,b%0D%0A::error::forged %250A"},
		{"escapes in the file", annotation{"error", "50%,a:b\n::error.json", 1, "T", "m"},
			"::error file=50%25%2Ca%3Ab%0A%3A%3Aerror.json,line=1,title=T::m"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.a.String()
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if strings.ContainsAny(got, "\r\n") {
				t.Error("it is more than one line")
			}
		})
	}
}

func FuzzAnnotation(f *testing.F) {
	f.Add("a.json", "T", "100% %25 %0A")
	f.Fuzz(func(t *testing.T, file, title, message string) {
		got := annotation{level: "error", file: file, title: title, message: message}.String()
		if strings.ContainsAny(got, "\r\n") {
			t.Errorf("more than one line: %q", got)
		}
		// The message begins behind the second "::", as properties have no colon.
		_, rest, _ := strings.Cut(got[2:], "::")
		if unescapeCommand.Replace(rest) != message {
			t.Errorf("%q is read as %q", message, unescapeCommand.Replace(rest))
		}
	})
}

// sampleChecked has a file of every kind.
func sampleChecked() []checkedFile {
	at := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	return []checkedFile{
		{
			file: "a.json", connector: "orders", integration: "prod", requestID: "req-1",
			configs: []checkedConfig{
				{
					Report: client.Report{
						Config: "password", Store: "https://v.vault.azure.net", Secret: "s", Version: "v7", JSONKey: "k", JSONKeyFound: true,
						FetchTime: at, SecretExpireTime: at.Add(72 * time.Hour), TimeLeft: 72*time.Hour + time.Millisecond, HasTimeLeft: true, Length: client.LengthEmpty,
					},
					line:     3,
					warnings: []checkWarning{{warnExpiresSoon, "soon"}, {WarnEmptyValue, "empty"}},
				},
				{Report: client.Report{Config: "user", Err: &client.ConfigError{Config: "user", Reason: "STORE_THROTTLED", Message: "wait\x1b[2J", RetryAfter: 2 * time.Second}}},
			},
		},
		{file: "b.json", fault: &checkFault{line: 7, reason: FaultInvalidFile, message: "not valid JSON", code: exit.Usage}},
		{file: "c.json", requestID: "req-2", fault: &checkFault{reason: "OVERLOADED", message: "later", retryAfter: time.Second, code: exit.TryLater}},
		{file: "d.json"},
	}
}

// The names in the JSON output are a stable interface: see docs/check.md.
func TestCheckJSON(t *testing.T) {
	var b bytes.Buffer
	if err := terminal.PrintJSON(&b, newJSONCheck(sampleChecked())); err != nil {
		t.Fatal(err)
	}
	type m = map[string]any
	var got any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := m{
		"ok": false,
		"files": []any{
			m{
				"file": "a.json", "connector": "orders", "integration_id": "prod", "ok": false, "request_id": "req-1",
				"configs": m{
					"password": m{
						"ok": true, "line": 3.0, "store": "https://v.vault.azure.net", "secret": "s", "version": "v7",
						"json_key": "k", "json_key_found": true, "fetch_time": "2027-01-02T03:04:05Z",
						"secret_expire_time": "2027-01-05T03:04:05Z", "time_left_seconds": 259200.0, "length_class": "EMPTY",
						"warnings": []any{m{"warning": "EXPIRES_SOON", "message": "soon"}, m{"warning": "EMPTY_VALUE", "message": "empty"}},
					},
					"user": m{
						"ok": false, "json_key_found": false,
						"error": m{"reason": "STORE_THROTTLED", "message": "wait\x1b[2J", "retry_delay_seconds": 2.0},
					},
				},
			},
			m{"file": "b.json", "ok": false, "error": m{"reason": "INVALID_FILE", "message": "not valid JSON", "line": 7.0}},
			m{"file": "c.json", "ok": false, "request_id": "req-2", "error": m{"reason": "OVERLOADED", "message": "later", "retry_delay_seconds": 1.0}},
			m{"file": "d.json", "ok": true},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCheckTables(t *testing.T) {
	var out, errs bytes.Buffer
	if err := printCheckTables(&out, &errs, sampleChecked()); err != nil {
		t.Fatal(err)
	}
	const wantOut = `a.json: connector orders, integration prod
CONFIG     STATUS            STORE                       SECRET   VERSION   KEY   EXPIRES     LENGTH
password   ok                https://v.vault.azure.net   s        v7        k     in 3 days   empty
user       STORE_THROTTLED   -                           -        -         -     -           -
  a.json:3: password: warning: EXPIRES_SOON: soon
  a.json:3: password: warning: EMPTY_VALUE: empty
  a.json: user: STORE_THROTTLED: "wait\x1b[2J"
request id req-1

d.json
no references to check
`
	if diff := cmp.Diff(wantOut, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const wantErrs = `Error: b.json:7: INVALID_FILE: not valid JSON
Error: c.json: OVERLOADED: later
request id req-2
`
	if diff := cmp.Diff(wantErrs, errs.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExitCodeOfCheck(t *testing.T) {
	ok := checkedConfig{Report: client.Report{Config: "a"}}
	warned := checkedConfig{Report: client.Report{Config: "b"}, warnings: []checkWarning{{WarnEmptyValue, ""}}}
	failed := func(reason client.Reason) checkedConfig {
		return checkedConfig{Report: client.Report{Config: "c", Err: &client.ConfigError{Reason: reason}}}
	}
	file := func(configs ...checkedConfig) checkedFile { return checkedFile{configs: configs} }
	invalid := checkedFile{fault: &checkFault{code: exit.Usage}}
	tests := []struct {
		name    string
		checked []checkedFile
		strict  bool
		want    int
	}{
		{"nothing", nil, true, exit.OK},
		{"all resolve", []checkedFile{file(ok), file(ok, ok)}, true, exit.OK},
		{"warning", []checkedFile{file(ok, warned)}, false, exit.OK},
		{"warning, strict", []checkedFile{file(warned), file(ok)}, true, exit.Findings},
		{"the worst config decides", []checkedFile{file(ok, failed("SECRET_NOT_FOUND"), failed("ACCESS_DENIED"))}, false, exit.Denied},
		{"a file that cannot be read decides", []checkedFile{file(ok), file(failed("ACCESS_DENIED")), invalid}, false, exit.Usage},
		{"file that cannot be read", []checkedFile{invalid, file(failed("ACCESS_DENIED"))}, false, exit.Usage},
		{"a failure goes before warnings", []checkedFile{file(warned), file(failed("STORE_THROTTLED"))}, true, exit.TryLater},
		{"reason of a newer broker", []checkedFile{file(failed("SOMETHING_NEW"))}, false, exit.Failure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitCodeOfCheck(tt.checked, tt.strict); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	const week = 7 * 24 * time.Hour
	expires := func(in time.Duration) client.Report {
		return client.Report{HasTimeLeft: true, TimeLeft: in, SecretExpireTime: time.Unix(0, 0).UTC()}
	}
	tests := []struct {
		name string
		r    client.Report
		warn time.Duration
		want string
	}{
		{"no expiry", client.Report{}, week, ""},
		{"far away", expires(week + 1), week, ""},
		{"just within", expires(week), week, warnExpiresSoon},
		{"expired", expires(-time.Second), week, warnExpiresSoon},
		{"disabled", expires(0), 0, ""},
		{"failed already", client.Report{HasTimeLeft: true, Length: client.LengthEmpty, Err: &client.ConfigError{}}, week, ""},
		{"empty", client.Report{Length: client.LengthEmpty}, week, WarnEmptyValue},
		{"tiny", client.Report{Length: client.LengthTiny}, week, ""},
		{"the broker's", client.Report{Length: client.LengthShort, Warnings: []client.Warning{{Warning: "NOT_UTF8"}, {Warning: "NEW"}}}, week, "NOT_UTF8,NEW"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := check{warnExpiry: tt.warn}
			var got []string
			for _, w := range c.warningsOf(tt.r) {
				got = append(got, w.code)
			}
			if strings.Join(got, ",") != tt.want {
				t.Errorf("warnings %v, want %q", got, tt.want)
			}
		})
	}
}
