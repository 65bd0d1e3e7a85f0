package resolve_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestResolve(t *testing.T) {
	refs := func(kv ...string) map[string]string {
		m := make(map[string]string)
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	type test struct {
		name    string
		who     authz.Principal
		req     resolve.Request
		want    map[string]string        // name -> value
		reasons map[string]secret.Reason // name -> reason; "" names the call as a whole
		audit   string                   // "config outcome reason source" per event
	}
	tests := []test{
		{
			name:  "JSON key and whole secret",
			req:   resolve.Request{Configs: refs("p", vault+"::db-secret::password", "port", vault+"::DB-secret::port", "w", vault+"::plain")},
			want:  map[string]string{"p": "canary-password", "port": "1433", "w": "canary-plain"},
			audit: "p served  miss, port served  miss, w served  miss",
		},
		{
			name: "every failing config is reported and none is served",
			req: resolve.Request{Configs: refs(
				"a", "pasted-password", "b", vault+"::db-missing", "c", vault+"::db-secret::nope", "d", vault+"::db-secret::user",
				"e", vault+"::plain::key", "f", vault+"::db-throttled", "g", vault+"::db-broken")},
			reasons: map[string]secret.Reason{
				"a": secret.ReasonInvalidReference, "b": secret.ReasonSecretNotFound, "c": secret.ReasonJSONKeyNotFound,
				"e": secret.ReasonSecretNotJSON, "f": secret.ReasonStoreThrottled, "g": secret.ReasonInternal,
			},
			audit: "a rejected INVALID_REFERENCE , b failed SECRET_NOT_FOUND , c failed JSON_KEY_NOT_FOUND miss, d withheld  miss, " +
				"e failed SECRET_NOT_JSON miss, f failed STORE_THROTTLED , g failed INTERNAL ",
		},
		{
			name:    "partial answers",
			req:     resolve.Request{AllowPartial: true, Configs: refs("b", vault+"::db-missing", "d", vault+"::db-secret::user")},
			want:    map[string]string{"d": "dbadmin"},
			reasons: map[string]secret.Reason{"b": secret.ReasonSecretNotFound},
			audit:   "b failed SECRET_NOT_FOUND , d served  miss",
		},
		{
			name:    "a grant of one key allows neither another key nor the whole secret",
			who:     "spiffe://example.org/narrow",
			req:     resolve.Request{AllowPartial: true, Configs: refs("k", vault+"::db-secret::user", "o", vault+"::db-secret::password", "w", vault+"::db-secret")},
			want:    map[string]string{"k": "dbadmin"},
			reasons: map[string]secret.Reason{"o": secret.ReasonAccessDenied, "w": secret.ReasonAccessDenied},
			audit:   "k served  miss, o denied ACCESS_DENIED , w denied ACCESS_DENIED ",
		},
	}
	for name, req := range map[string]resolve.Request{
		"no configs":                {},
		"an invalid integration id": {IntegrationID: "a:b", Configs: refs("p", vault+"::plain")},
		"a negative max_age":        {MaxAge: ptr(-time.Second), Configs: refs("p", vault+"::plain")},
		"too many references":       {Configs: many(129)},
		"too many entries":          {Configs: many(1001)},
		"a long connector name":     {Connector: strings.Repeat("x", resolve.MaxNameLen+1), Configs: refs("p", vault+"::plain")},
	} {
		reasons := map[string]secret.Reason{"": secret.ReasonInvalidRequest}
		tests = append(tests, test{name: name, req: req, reasons: reasons, audit: " rejected INVALID_REQUEST "})
	}
	for _, denied := range []struct {
		name             string
		who              authz.Principal
		integration, ref string
		reason           secret.Reason
	}{
		{"a caller without a grant", nobody, "", vault + "::db-secret::password", secret.ReasonAccessDenied},
		{"an integration that does not exist", "", "unknown", vault + "::db-secret::password", secret.ReasonAccessDenied},
		{"a secret outside the grant", "", "", vault + "::other-secret", secret.ReasonAccessDenied},
		{"a vault that the integration does not list", "", "", other + "::db-secret::password", secret.ReasonStoreNotAllowed},
		{"a vault that the integration does not list, for a caller without a grant", nobody, "", other + "::db-secret::password", secret.ReasonAccessDenied},
	} {
		tests = append(tests, test{
			name: denied.name, who: denied.who, req: resolve.Request{IntegrationID: denied.integration, Configs: one("p", denied.ref)},
			reasons: map[string]secret.Reason{"p": denied.reason}, audit: "p denied " + string(denied.reason) + " ",
		})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			who := tt.who
			if who == "" {
				who = worker
			}
			res, err := b.call(who, tt.req)
			got, reasons := make(map[string]string), make(map[string]secret.Reason)
			var failure *resolve.Failure
			switch {
			case errors.As(err, &failure):
				for _, c := range failure.Configs {
					reasons[c.Config] = c.Err.Reason
				}
			case err != nil:
				reasons[""] = secret.AsError(err).Reason
			default:
				for _, c := range res.Configs {
					got[c.Config] = c.Value.Reveal()
					if c.Version != version || c.FetchedAt.IsZero() || !c.ExpiresAt.After(c.FetchedAt) {
						t.Errorf("%s: version %q, fetched %v, expires %v", c.Config, c.Version, c.FetchedAt, c.ExpiresAt)
					}
				}
				for _, c := range res.Errors {
					reasons[c.Config] = c.Err.Reason
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) && len(got)+len(tt.want) > 0 {
				t.Errorf("values %v, want %v", got, tt.want)
			}
			if fmt.Sprint(reasons) != fmt.Sprint(tt.reasons) && len(reasons)+len(tt.reasons) > 0 {
				t.Errorf("reasons %v, want %v", reasons, tt.reasons)
			}
			if text := b.audit.String(); strings.Contains(text, "canary") || strings.Contains(text, "pasted") {
				t.Errorf("the audit log contains a value: %s", text)
			}
			var lines []string
			for _, e := range b.events(t) {
				source := e.Source
				if source == "shared" {
					source = "miss" // it does not matter which read of a call was first
				}
				lines = append(lines, fmt.Sprintf("%s %s %s %s", e.Config, e.Outcome, e.Reason, source))
				if e.RequestID != "request-1" || e.Principal != who || e.PeerAddress != "192.0.2.1:1" || e.CertificateSerial != "ab" || e.Method != "Resolve" || e.Time.IsZero() {
					t.Errorf("audit event %+v", e)
				}
			}
			if got := strings.Join(lines, ", "); got != tt.audit {
				t.Errorf("audit:\n got %s\nwant %s", got, tt.audit)
			}
		})
	}
}

func TestDecidedBeforeAnythingElse(t *testing.T) {
	b := newBench(t)
	if _, err := b.call(worker, resolve.Request{Configs: map[string]string{"p": vault + "::plain"}}); err != nil {
		t.Fatal(err)
	}
	before := b.store.reads.Load()
	for range 3 {
		if _, err := b.call(nobody, resolve.Request{Configs: map[string]string{"p": vault + "::plain", "q": vault + "::db-missing"}}); err == nil {
			t.Fatal("a caller without a grant got a cached value")
		}
	}
	if n := b.store.reads.Load(); n != before {
		t.Errorf("a denied caller caused %d reads", n-before)
	}
}

func TestOneReadPerSecret(t *testing.T) {
	b := newBench(t)
	configs := map[string]string{"a": vault + "::db-secret::user", "b": vault + "::db-secret::password", "c": vault + "::DB-SECRET"}
	for range 3 {
		if _, err := b.call(worker, resolve.Request{Configs: configs}); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.store.reads.Load(); n != 1 {
		t.Errorf("%d reads, want 1", n)
	}
	events := b.events(t)
	if got := events[len(events)-1].Source; got != "hit" {
		t.Errorf("source %q, want hit", got)
	}
}

func TestNothingLeavesUnaudited(t *testing.T) {
	b := newBench(t)
	b.broken.err = errors.New("disk full")
	res, err := b.call(worker, resolve.Request{AllowPartial: true, Configs: map[string]string{"p": vault + "::plain"}})
	if res != nil || err == nil {
		t.Fatalf("got %v, %v", res, err)
	}
	if e := secret.AsError(err); e.Reason != secret.ReasonAuditUnavailable || !errors.Is(err, b.broken.err) {
		t.Errorf("got %v", err)
	}
	if _, err := b.call(worker, resolve.Request{}); secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
		t.Errorf("a rejected request that could not be recorded: %v", err)
	}
}

func many(n int) map[string]string {
	m := make(map[string]string, n)
	for i := range n {
		m[fmt.Sprint("c", i)] = vault + "::plain"
	}
	return m
}

func ptr[T any](v T) *T { return &v }
