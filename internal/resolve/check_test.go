package resolve_test

import (
	"fmt"
	"strings"
	"testing"

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
