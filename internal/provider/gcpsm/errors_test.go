package gcpsm

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// apiBody returns an error response in the form that was recorded from Google's APIs.
func apiBody(status int, code, message, details string) string {
	return fmt.Sprintf(`{"error": {"code": %d, "message": %q, "status": %q, "details": [%s]}}`, status, message+" "+canary, code, details)
}

func errorInfo(reason string) string {
	return `{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "` + reason + `", "domain": "googleapis.com", "metadata": {"service": "secretmanager.googleapis.com", "x": "` + canary + `"}}`
}

func TestErrorAnswers(t *testing.T) {
	const denied = "Permission 'secretmanager.versions.access' denied for resource 'projects/my-project/secrets/db/versions/latest' (or it may not exist)."
	tests := []struct {
		name   string
		status int
		body   string
		header http.Header
		want   secret.Reason
		says   string
		retry  time.Duration
	}{
		{name: "no role or no such secret", status: 403, body: apiBody(403, "PERMISSION_DENIED", denied, errorInfo("IAM_PERMISSION_DENIED")), want: secret.ReasonStoreAccessDenied, says: "Secret Manager Secret Accessor"},
		{name: "no details", status: 403, body: apiBody(403, "PERMISSION_DENIED", denied, ""), want: secret.ReasonStoreAccessDenied, says: "none of that name"},
		{name: "API not enabled", status: 403, body: apiBody(403, "PERMISSION_DENIED", "Secret Manager API has not been used in project 1 before or it is disabled.", errorInfo("SERVICE_DISABLED")), want: secret.ReasonStoreNotFound, says: "gcloud services enable"},
		{name: "no project", status: 403, body: apiBody(403, "PERMISSION_DENIED", "Project is invalid", errorInfo("CONSUMER_INVALID")), want: secret.ReasonStoreNotFound, says: "no project"},
		{name: "no billing", status: 403, body: apiBody(403, "PERMISSION_DENIED", "This API method requires billing to be enabled.", errorInfo("BILLING_DISABLED")), want: secret.ReasonStoreAccessDenied, says: "billing"},
		{name: "perimeter", status: 403, body: apiBody(403, "PERMISSION_DENIED", "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: eYh",
			`{"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": [{"type": "VPC_SERVICE_CONTROLS", "description": "eYh"}]}, `+errorInfo("SECURITY_POLICY_VIOLATED")), want: secret.ReasonStoreAccessDenied, says: "VPC Service Controls"},
		{name: "perimeter of old", status: 403, body: apiBody(403, "PERMISSION_DENIED", "Request is prohibited",
			`{"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": [{"type": "VPC_SERVICE_CONTROLS", "description": "eYh"}]}`), want: secret.ReasonStoreAccessDenied, says: "VPC Service Controls"},
		{name: "access scopes", status: 403, body: apiBody(403, "PERMISSION_DENIED", "Request had insufficient authentication scopes.", errorInfo("ACCESS_TOKEN_SCOPE_INSUFFICIENT")), want: secret.ReasonStoreAccessDenied, says: "access scopes"},
		{name: "no secret", status: 404, body: apiBody(404, "NOT_FOUND", "Secret [projects/1/secrets/db] not found or has no versions.", ""), want: secret.ReasonSecretNotFound, says: "has no version yet"},
		{name: "destroyed", status: 400, body: apiBody(400, "FAILED_PRECONDITION", "Secret Version [projects/1/secrets/db/versions/4] is in DESTROYED state.", ""), want: secret.ReasonSecretDisabled, says: "permanently destroyed"},
		{name: "disabled", status: 400, body: apiBody(400, "FAILED_PRECONDITION", "Secret Version [projects/1/secrets/db/versions/4] is in DISABLED state.", ""), want: secret.ReasonSecretDisabled, says: "is disabled"},
		{name: "its key", status: 400, body: apiBody(400, "FAILED_PRECONDITION", "The key is not enabled.", ""), want: secret.ReasonSecretDisabled, says: "encryption key"},
		{name: "not for this endpoint", status: 400, body: apiBody(400, "INVALID_ARGUMENT", "Resource ID is not in a valid format.", ""), want: secret.ReasonInvalidReference, says: "fix the reference"},
		{name: "quota", status: 429, body: apiBody(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Access requests'", errorInfo("RATE_LIMIT_EXCEEDED")), want: secret.ReasonStoreThrottled, says: "quota", retry: time.Second},
		{name: "quota with RetryInfo", status: 429, body: apiBody(429, "RESOURCE_EXHAUSTED", "slow down", `{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}`), want: secret.ReasonStoreThrottled, retry: 12500 * time.Millisecond},
		{name: "quota with a header", status: 429, body: `{}`, header: http.Header{"Retry-After": {"7"}}, want: secret.ReasonStoreThrottled, retry: 7 * time.Second},
		{name: "quota for a day", status: 429, body: `{}`, header: http.Header{"Retry-After": {"86400"}}, want: secret.ReasonStoreThrottled, retry: time.Minute},
		{name: "unavailable", status: 503, body: apiBody(503, "UNAVAILABLE", "The service is currently unavailable.", ""), want: secret.ReasonStoreUnavailable, says: "is failing"},
		{name: "error page", status: 502, body: `<html>` + canary + `</html>`, want: secret.ReasonStoreUnavailable, says: "is failing"},
		{name: "not found of something else", status: 405, body: `<html>` + canary + `</html>`, want: secret.ReasonStoreUnavailable, says: "something other"},
		{name: "redirect", status: 302, header: http.Header{"Location": {"https://stranger.googleapis.com/"}}, want: secret.ReasonStoreUnavailable, says: "redirect"},
		{name: "error of an odd form", status: 403, body: `{"error": [1, "` + canary + `"]}`, want: secret.ReasonStoreAccessDenied},
		{name: "code that is text", status: 403, body: apiBody(403, "PERMISSION DENIED "+canary, "", errorInfo("A B")), want: secret.ReasonStoreAccessDenied},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			s := f.open(f.Config(), f.integration())
			f.intercept(apiHost, func(w http.ResponseWriter, _ *http.Request) {
				for name, values := range tt.header {
					w.Header()[name] = values
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			e := f.Fails(t.Context(), s, project+"/secrets/db", tt.want)
			if !strings.Contains(e.Message, tt.says) {
				t.Errorf("message %q does not say %q", e.Message, tt.says)
			}
			if e.RetryAfter != tt.retry {
				t.Errorf("RetryAfter %v, want %v", e.RetryAfter, tt.retry)
			}
		})
	}
}

// A refused token is replaced once, and not again with every read.
func TestRefusedForGood(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	f.Gives(s, project+"/secrets/db", canary)
	f.intercept(apiHost, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, apiBody(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", errorInfo("ACCOUNT_STATE_INVALID")))
	})
	before := f.requests(apiHost)
	for range 5 {
		e := f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAuthenticationFailed)
		if !strings.Contains(e.Message, "disabled") {
			t.Errorf("message %q", e.Message)
		}
	}
	if n := f.server.Issued(); n != 4 { // two steps, twice
		t.Errorf("%d tokens issued, want 4", n)
	}
	if n := f.requests(apiHost) - before; n != 6 {
		t.Errorf("%d requests, want 6: one for each read and one with the new token", n)
	}
}

// The client retries at once what a retry may fix, and nothing else.
func TestRetries(t *testing.T) {
	for name, tt := range map[string]struct {
		hook     func(http.ResponseWriter)
		failures int
		retries  int // as configured
		asked    int
		cured    bool
	}{
		"503 once":               {func(w http.ResponseWriter) { w.WriteHeader(503) }, 1, 2, 2, true},
		"502 twice":              {func(w http.ResponseWriter) { w.WriteHeader(502) }, 2, 2, 3, true},
		"500 for good":           {func(w http.ResponseWriter) { w.WriteHeader(500) }, 99, 2, 3, false},
		"none wanted":            {func(w http.ResponseWriter) { w.WriteHeader(503) }, 1, -1, 1, false},
		"501":                    {func(w http.ResponseWriter) { w.WriteHeader(501) }, 1, 2, 1, false},
		"429":                    {func(w http.ResponseWriter) { w.WriteHeader(429) }, 1, 2, 1, false},
		"403":                    {func(w http.ResponseWriter) { w.WriteHeader(403) }, 1, 2, 1, false},
		"an answer that is none": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, "x") }, 1, 2, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			cfg := f.Config()
			cfg.MaxRetries = tt.retries
			s := f.open(cfg, f.integration())
			asked := 0
			f.intercept(apiHost, func(w http.ResponseWriter, r *http.Request) {
				if asked++; asked <= tt.failures {
					tt.hook(w)
					return
				}
				f.server.ServeHTTP(w, r)
			})
			if tt.cured {
				f.Gives(s, project+"/secrets/db", canary)
			} else if _, err := s.Fetch(t.Context(), providertest.Ref(t, project+"/secrets/db")); err == nil {
				t.Error("no error")
			}
			if asked != tt.asked {
				t.Errorf("asked %d times, want %d", asked, tt.asked)
			}
		})
	}
}

func TestTimeoutOfTheIntegration(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	in.Reads.Timeout = 2 * time.Second
	if s := f.open(f.Config(), in); s.cfg.TryTimeout != 2*time.Second {
		t.Errorf("an exchange may take %v", s.cfg.TryTimeout)
	}
}
