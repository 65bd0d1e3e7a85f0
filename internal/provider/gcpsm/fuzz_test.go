package gcpsm

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// For every error response, the log contains only codes, and messages only text of
// the broker's own.
func FuzzErrorAnswer(f *testing.F) {
	f.Add(403, apiBody(403, "PERMISSION_DENIED", "no", errorInfo("SERVICE_DISABLED")))
	f.Add(400, apiBody(400, "FAILED_PRECONDITION", "Secret Version [x] is in DISABLED state.", ""))
	f.Add(429, apiBody(429, "RESOURCE_EXHAUSTED", "slow", `{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1e9s"}`))
	f.Add(400, `{"error": "invalid_grant", "error_description": "x"}`)
	f.Add(500, `{"error": {"details": [{"@type": 1}]}}`)
	r := secret.Ref{Kind: secret.KindGCPSecretManager, Store: project, Name: "db"}
	f.Fuzz(func(t *testing.T, status int, body string) {
		a := parseError(status, http.Header{}, []byte(body))
		if a.retryAfter < 0 || a.retryAfter > storeerror.MaxRetryAfter {
			t.Errorf("retry after %v", a.retryAfter)
		}
		for _, code := range []string{a.code, a.reason, a.state} {
			if len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
				t.Errorf("%q is taken for a code", code)
			}
		}
		if e := explainAnswer(apiHost, r, a); e.Message == "" || e.Reason == "" || e.RetryAfter > storeerror.MaxRetryAfter {
			t.Errorf("%+v", e)
		}
	})
}

// Only a response about the requested secret results in a value.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(answer(goodName, `{"data": "aGVsbG8=", "dataCrc32c": "2591144780"}`)))
	f.Add([]byte(answer(project+"/secrets/db/versions/2", `{"data": "/u3+7Q=="}`)))
	f.Add([]byte(answer(regional+"/secrets/db/versions/2", `{}`)))
	f.Add([]byte(`{"name": "projects/1/secrets/db/versions/2", "payload": {"data": null, "dataCrc32c": 0}}`))
	r := secret.Ref{Kind: secret.KindGCPSecretManager, Store: project, Name: "db"}
	f.Fuzz(func(t *testing.T, body []byte) {
		text := string(body)
		got, err := new(store).check(apiHost, r, body, time.Time{})
		if (err == nil) != (got != nil) {
			t.Fatalf("%v, %v", got, err)
		}
		if err != nil {
			if secret.AsError(err).Reason != secret.ReasonStoreUnavailable {
				t.Errorf("%v", err)
			}
			return
		}
		if !isNumber(got.Version) || !strings.Contains(text, "secrets") {
			t.Errorf("version %q of %q", got.Version, text)
		}
	})
}
