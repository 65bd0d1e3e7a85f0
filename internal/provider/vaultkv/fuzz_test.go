package vaultkv

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// FuzzAnswer checks that no response causes a panic, that errors quote nothing from
// the response, and that each secret is a JSON object of the requested version.
func FuzzAnswer(f *testing.F) {
	f.Add(200, `{"request_id":"r","data":{"data":{"a":"b"},"metadata":{"version":3,"deletion_time":"","destroyed":false}}}`)
	f.Add(200, `{"request_id":"r","lease_id":"l","lease_duration":9223372036854775807,"renewable":true,"data":{"ttl":-1}}`)
	f.Add(200, `{"data":{"ttl":"1h"},"lease_duration":-5,"auth":{"client_token":"t","lease_duration":-1}}`)
	f.Add(404, `{"data":{"data":null,"metadata":{"version":1,"deletion_time":"2020-01-01T00:00:00Z"}},"warnings":["Invalid path for a versioned K/V secrets engine"]}`)
	f.Add(404, `{"data":{"data":{"a":"b"},"metadata":{"version":1,"deletion_time":"2999-01-01T00:00:00Z"}}}`)
	f.Add(503, `{"errors":["sealed"]}`)
	f.Add(204, ``)
	now := time.Now()
	ses := &session{began: now, ttl: time.Hour}
	f.Fuzz(func(t *testing.T, status int, body string) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {body[:min(4, len(body))]}}, Body: io.NopCloser(strings.NewReader(""))}
		a, err := parse(resp, []byte(body), now)
		if err != nil {
			e := explainRead(t.Context(), "vault.example.org", err)
			if len(body) > 12 && strings.Contains(e.Error(), body) || e.Message == "" || e.RetryAfter < 0 || e.RetryAfter > storeerror.MaxRetryAfter {
				t.Errorf("%+v", e)
			}
			return
		}
		for _, version := range []string{"", "3"} {
			check(t, version, func() (*secret.Secret, error) { return a.kv2("h", version, now) })
		}
		check(t, "", func() (*secret.Secret, error) { return a.kv1("h") })
		check(t, "", func() (*secret.Secret, error) { return a.dynamic("h", ses) })
	})
}

func check(t *testing.T, version string, do func() (*secret.Secret, error)) {
	t.Helper()
	s, err := do()
	if err != nil {
		if secret.AsError(err).Reason == secret.ReasonInternal {
			t.Error(err)
		}
		return
	}
	if s.Version == "" || version != "" && s.Version != version {
		t.Errorf("version %q, want %q", s.Version, version)
	}
	if _, err := s.Select("no such member"); secret.AsError(err).Reason == secret.ReasonInternal {
		t.Error(err)
	}
}
