package resolve_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestCheck(t *testing.T) {
	b := newBench(t)
	b.store.secrets["db-keystore"] = `{"p12":"AP8QgA==","text":"canary"}`
	reports, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{
		"a.key":     vault + "::DB-Secret::password",
		"b.whole":   vault + "::plain",
		"c.nokey":   vault + "::db-secret::nope",
		"d.missing": vault + "::db-missing",
		"e.denied":  vault + "::other",
		"f.bad":     "canary-pasted",
		"g.decoded": vault + "::db-keystore?decode=base64::p12",
		"h.undecod": vault + "::db-keystore?decode=base64::text",
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range reports {
		reason := secret.Reason("")
		if r.Err != nil {
			reason = r.Err.Reason
		}
		got = append(got, fmt.Sprint(r.Config, " ", r.Ref.Name, " ", r.Version == version, " ", r.HasKey, " ", r.Length, " ", reason))
	}
	want := []string{
		"a.key db-secret true true 15 ",
		"b.whole plain true false 12 ",
		"c.nokey db-secret true false -1 JSON_KEY_NOT_FOUND",
		"d.missing db-missing false false -1 SECRET_NOT_FOUND",
		"e.denied other false false -1 ACCESS_DENIED",
		"f.bad  false false -1 INVALID_REFERENCE",
		"g.decoded db-keystore true true 4 ",
		"h.undecod db-keystore true true -1 SECRET_NOT_DECODABLE",
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	if text := fmt.Sprintf("%v %+v", reports, reports); strings.Contains(text, "canary") {
		t.Errorf("a report contains a value: %s", text)
	}
	checked := 0
	for _, e := range b.events(t) {
		if e.Method != "Check" || e.Outcome == "served" {
			t.Errorf("event %+v", e)
		}
		if e.Outcome == "checked" {
			checked++
		}
	}
	if checked != 3 {
		t.Errorf("%d events have the outcome checked, want 3", checked)
	}
}

// TestCheckWarnings: not-utf8 and newline-value. A value that can be resolved, but is
// probably not what its author expects, has a warning.
func TestCheckWarnings(t *testing.T) {
	const pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
	b := newBench(t)
	for i, tt := range []struct{ name, value, after, want string }{
		{"plain", "canary", "", ""},
		{"newline-value", "canary\n", "", "INVISIBLE_CHARACTER ends with a line break (U+000A)"},
		{"a Windows line break", "canary\r\n", "", "INVISIBLE_CHARACTER ends with a line break (U+000A)"},
		{"a trailing blank", "canary ", "", "INVISIBLE_CHARACTER ends with a space (U+0020)"},
		{"a leading byte order mark", "\ufeffcanary", "", "INVISIBLE_CHARACTER begins with a byte order mark (U+FEFF)"},
		{"blanks inside", "can ary", "", ""},
		{"PEM", pem, "", ""},
		{"a document", "{\"k\": \"canary\"}\n", "", ""},
		{"a password like a document", "{canary\n", "", "INVISIBLE_CHARACTER ends with a line break (U+000A)"},
		{"a member", "{\"k\": \"canary\\n\"}", "::k", "INVISIBLE_CHARACTER ends with a line break (U+000A)"},
		{"only a line break", "\n", "", "INVISIBLE_CHARACTER ends with a line break (U+000A)"},
		{"empty", "", "", ""},
		{"not-utf8", "p\xe4ssw\xf6rd-canary", "", "NOT_UTF8 not valid UTF-8"},
		{"not-utf8 decoded", "p\xe4ssw\xf6rd-canary", "?decode=base64", ""},
		{"decoded text with a newline", "Y2FuYXJ5Cg==", "?decode=base64", "INVISIBLE_CHARACTER ends with a line break (U+000A)"},
		{"base64 with a newline", "Y2FuYXJ5\n", "?decode=base64", ""},
	} {
		name := fmt.Sprint("db-", i)
		b.store.secrets[name] = tt.value
		reports, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{
			ID: "r", IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::" + name + tt.after},
		})
		if err != nil || len(reports) != 1 || reports[0].Err != nil {
			t.Fatalf("%s: %v, %v", tt.name, reports, err)
		}
		code, text, _ := strings.Cut(tt.want, " ")
		switch w := reports[0].Warnings; {
		case tt.want == "" && len(w) == 0:
		case len(w) != 1 || string(w[0].Code) != code || !strings.Contains(w[0].Message, text) || strings.Contains(w[0].Message, "canary"):
			t.Errorf("%s: %+v, want %q", tt.name, w, tt.want)
		}
	}
}

// TestCheckBinary: aws-binary-text. A secret that the store declares to be binary has a
// warning that names the option, even if it is text.
func TestCheckBinary(t *testing.T) {
	for after, want := range map[string]string{"": "BINARY_VALUE", "?decode=base64": "", "::k": ""} {
		b := newBench(t, func(c *resolve.Config) { c.Stores = binaryStore{} })
		reports, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{
			ID: "r", IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::db-binary" + after},
		})
		if err != nil || len(reports) != 1 || reports[0].Err != nil {
			t.Fatalf("%s: %v, %v", after, reports, err)
		}
		got := ""
		for _, w := range reports[0].Warnings {
			got += string(w.Code)
			if !strings.Contains(w.Message, "?decode=base64") {
				t.Errorf("%s: %s", after, w.Message)
			}
		}
		if got != want {
			t.Errorf("%q: warnings %q, want %q", after, got, want)
		}
	}
}

// binaryStore has one secret, which is declared to be binary.
type binaryStore struct{}

func (binaryStore) Fetch(context.Context, *integration.Integration, secret.Ref) (*secret.Secret, error) {
	return secret.NewBinary("1", time.Now(), time.Time{}, []byte(`{"k":"plain text pushed as binary"}`)), nil
}

// TestCheckReportsContradictions: a dry run succeeds and reports the contradictions.
func TestCheckReportsContradictions(t *testing.T) {
	b := newBench(t)
	reports, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{
		"secret.manager.enabled": "perhaps", "secret.manager": "AZURE_KEY_VAULT", "secret.manager.nope": "x",
	}})
	if err != nil || len(reports) != 2 || reports[0].Config != "secret.manager.enabled" || reports[1].Err.Reason != secret.ReasonConfigMismatch || reports[1].Length != -1 {
		t.Errorf("got %+v, %v", reports, err)
	}
	if events := b.events(t); len(events) != 2 || events[0].Outcome != "rejected" || events[0].Method != "Check" {
		t.Errorf("events %+v", events)
	}
}

func TestCheckIsAuditedOrFails(t *testing.T) {
	b := newBench(t)
	b.broken.err = fmt.Errorf("disk full")
	req := resolve.Request{ID: "r", IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::plain"}}
	if reports, err := b.Check(t.Context(), resolve.Caller{Principal: worker}, req); reports != nil || secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
		t.Errorf("got %v, %v", reports, err)
	}
}

func TestDecoding(t *testing.T) {
	b := newBench(t)
	b.store.secrets["db-keystore"] = "AP8Q\ngA=="
	res, err := b.call(worker, resolve.Request{Configs: map[string]string{
		"raw": vault + "::db-keystore", "bytes": vault + "::db-keystore?decode=base64",
	}})
	if err != nil {
		t.Fatal(err)
	}
	bytes, raw := res.Configs[0], res.Configs[1]
	if !bytes.Decoded || string(bytes.Value.RevealBytes()) != "\x00\xff\x10\x80" || raw.Decoded || raw.Value.Reveal() != "AP8Q\ngA==" {
		t.Errorf("got %q and %q", bytes.Value.RevealBytes(), raw.Value.Reveal())
	}
	if n := b.store.reads.Load(); n != 1 {
		t.Errorf("%d reads of one secret", n)
	}
}

func TestLimits(t *testing.T) {
	limits := resolve.Limits{MaxConfigs: 5, MaxReferences: 4, MaxSecrets: 2, MaxReferenceBytes: 100, MaxKeyBytes: 10, MaxDocumentBytes: 50}
	const ok = vault + "::db-secret"
	tests := []struct {
		name    string
		configs map[string]string
		reason  secret.Reason
		text    string
	}{
		{"within all", map[string]string{"a": vault + "::db-big", "b": ok, "c": ok, "d": ok}, "", ""},
		{"entries", map[string]string{"a": ok, "b": ok, "c": ok, "d": ok, "e": ok, "f": ok}, secret.ReasonInvalidRequest, "configs has 6 entries, the maximum is 5"},
		{"references", map[string]string{"a": ok, "b": ok, "c": ok, "d": ok, "e": ok}, secret.ReasonInvalidRequest, "5 references, the maximum is 4"},
		{"secrets", map[string]string{"a": ok, "b": vault + "::plain", "c": vault + "::db-other"}, secret.ReasonInvalidRequest, "3 different secrets, the maximum is 2"},
		{"reference length", map[string]string{"a": ok + "::" + strings.Repeat("k", 80)}, secret.ReasonInvalidReference, "bytes long, the maximum is 100"},
		{"key length", map[string]string{"a": ok + "::" + strings.Repeat("k", 11)}, secret.ReasonInvalidReference, "JSON key is 11 bytes long, the maximum is 10"},
		{"document size", map[string]string{"a": vault + "::db-big::user"}, secret.ReasonSecretTooLarge, "parses at most 50 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, func(c *resolve.Config) { c.Limits = limits })
			b.store.secrets["db-big"] = `{"user":"` + strings.Repeat("x", 50) + `"}`
			_, err := b.call(worker, resolve.Request{Configs: tt.configs})
			reason, text := secret.Reason(""), ""
			if err != nil {
				text = err.Error()
				for _, r := range []secret.Reason{secret.ReasonInvalidRequest, secret.ReasonInvalidReference, secret.ReasonSecretTooLarge} {
					if strings.Contains(text, string(r)) {
						reason = r
					}
				}
			}
			if reason != tt.reason || !strings.Contains(text, tt.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}
