package keyvault_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/google/go-cmp/cmp"
)

const sampleVaults = `
vaults:
  my-vault:
    secrets:
      db-secret:
        value: '{"user":"dbadmin","password":"p"}'
        content_type: application/json
      Mixed-Case: {value: mixed}
      expired: {value: old, expires: 2020-01-01T00:00:00Z}
      not-yet: {value: soon, not_before: 2999-01-01T00:00:00Z}
      disabled:
        value: off
        enabled: false
        previous: [{value: second}, {value: first, enabled: false}]
      gone: {value: gone, deleted: true}
      empty: {value: ''}
  throttled: {fault: throttled, secrets: {s: {value: v}}}
  throttled-with-hint: {fault: throttled, retry_after: 1500ms, secrets: {s: {value: v}}}
  forbidden: {fault: forbidden}
  unavailable: {fault: unavailable, retry_after: 2s}
`

func TestGetSecret(t *testing.T) {
	f := start(t, sampleVaults)
	client := f.vault(t, "my-vault")
	tests := []struct {
		name, value, contentType, idName string
		expires, notBefore               time.Time
	}{
		{name: "db-secret", value: `{"user":"dbadmin","password":"p"}`, contentType: "application/json", idName: "db-secret"},
		{name: "DB-Secret", value: `{"user":"dbadmin","password":"p"}`, contentType: "application/json", idName: "db-secret"},
		{name: "mixed-case", value: "mixed", idName: "Mixed-Case"},
		{name: "expired", value: "old", idName: "expired", expires: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)},
		{name: "not-yet", value: "soon", idName: "not-yet", notBefore: time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)},
		{name: "empty", value: "", idName: "empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := get(t, client, tt.name, "")
			if got := *resp.Value; got != tt.value {
				t.Errorf("value = %q, want %q", got, tt.value)
			}
			if got := deref(resp.ContentType); got != tt.contentType {
				t.Errorf("content type = %q, want %q", got, tt.contentType)
			}
			if got, want := string(*resp.ID), "https://my-vault.vault.azure.net/secrets/"+tt.idName+"/"+resp.ID.Version(); got != want {
				t.Errorf("id = %q, want %q", got, want)
			}
			if len(resp.ID.Version()) != 32 {
				t.Errorf("version %q is not 32 digits", resp.ID.Version())
			}
			a := resp.Attributes
			if !deref(a.Enabled) || !deref(a.Expires).Equal(tt.expires) || !deref(a.NotBefore).Equal(tt.notBefore) {
				t.Errorf("enabled, expires, not before = %v, %v, %v, want true, %v, %v", deref(a.Enabled), a.Expires, a.NotBefore, tt.expires, tt.notBefore)
			}
			if a.Created == nil || a.Updated == nil || deref(a.RecoveryLevel) != "Recoverable+Purgeable" {
				t.Errorf("created, updated, recovery level = %v, %v, %q", a.Created, a.Updated, deref(a.RecoveryLevel))
			}
		})
	}
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// errorBody contains the parts of an error that a client can read.
type errorBody struct {
	Status     int
	Code       string
	Inner      string
	RetryAfter string
}

func TestRefusals(t *testing.T) {
	f := start(t, sampleVaults)
	const unknownVersion = "00000000000000000000000000000000"
	tests := []struct {
		vault, name, version string
		want                 errorBody
		message              string
	}{
		{"my-vault", "disabled", "", errorBody{403, "Forbidden", "SecretDisabled", ""}, "not allowed on a disabled secret"},
		{"my-vault", "gone", "", errorBody{404, "SecretNotFound", "", ""}, "(name/id) gone was not found"},
		{"my-vault", "unknown", "", errorBody{404, "SecretNotFound", "", ""}, "(name/id) unknown was not found"},
		{"my-vault", "db-secret", unknownVersion, errorBody{404, "SecretNotFound", "", ""}, "(name/id) db-secret/" + unknownVersion},
		{"my-vault", "under_score", "", errorBody{400, "BadParameter", "", ""}, "invalid name"},
		{"my-vault", "..", "keys", errorBody{404, "NotFound", "", ""}, "only reading a secret"},
		{"throttled", "s", "", errorBody{429, "Throttled", "", ""}, "Reason: VaultRequestTypeLimitReached"},
		{"throttled-with-hint", "s", "", errorBody{429, "Throttled", "", "2"}, ""},
		{"forbidden", "unknown", "", errorBody{403, "Forbidden", "ForbiddenByRbac", ""}, "vaults/forbidden/secrets/unknown'"},
		{"unavailable", "s", "", errorBody{503, "ServiceUnavailable", "", "2"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.vault+"/"+tt.name+"/"+tt.version, func(t *testing.T) {
			_, err := f.vault(t, tt.vault).GetSecret(t.Context(), tt.name, tt.version, nil)
			got, message := readError(t, err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("refusal (-want +got):\n%s", diff)
			}
			if !strings.Contains(message, tt.message) {
				t.Errorf("message %q does not contain %q", message, tt.message)
			}
		})
	}
}

// readError parses a client's error as the broker does.
func readError(t *testing.T, err error) (errorBody, string) {
	t.Helper()
	re, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		t.Fatalf("error is %v, want a *azcore.ResponseError", err)
	}
	data, err := runtime.Payload(re.RawResponse)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Error struct {
			Message    string
			InnerError struct{ Code string }
		}
	}
	if err := json.Unmarshal(data, &body); err != nil {
		t.Fatalf("body %q: %v", data, err)
	}
	return errorBody{re.StatusCode, re.ErrorCode, body.Error.InnerError.Code, re.RawResponse.Header.Get("Retry-After")}, body.Error.Message
}

func TestVersionPinning(t *testing.T) {
	f := start(t, `{vaults: {my-vault: {secrets: {s: {value: third, previous: [{value: second}, {value: first}]}}}}}`)
	client := f.vault(t, "my-vault")
	third := get(t, client, "s", "").ID.Version()

	// A new version: every older version keeps its identifier.
	f.edit(t, `{vaults: {my-vault: {secrets: {s: {value: fourth, previous: [{value: third}, {value: second, enabled: false}, {value: first}]}}}}}`)
	fourth := get(t, client, "s", "").ID.Version()
	if fourth == third {
		t.Fatal("a new value has the version of the old one")
	}
	if got := *get(t, client, "s", third).Value; got != "third" {
		t.Errorf("pinned to the version of %q, got %q", "third", got)
	}
	if got := *get(t, client, "s", strings.ToUpper(third)).Value; got != "third" {
		t.Errorf("pinned in upper case, got %q", got)
	}

	// If the newest version is disabled, no older one replaces it. An older version can still
	// be pinned.
	f.edit(t, `{vaults: {my-vault: {secrets: {s: {value: fourth, enabled: false, previous: [{value: third}, {value: second, enabled: false}, {value: first}]}}}}}`)
	_, err := client.GetSecret(t.Context(), "s", "", nil)
	if got, _ := readError(t, err); got.Inner != "SecretDisabled" {
		t.Errorf("inner code = %q, want SecretDisabled", got.Inner)
	}
	if got := *get(t, client, "s", third).Value; got != "third" {
		t.Errorf("pinned to the version of %q, got %q", "third", got)
	}
}

// request sends a plain HTTP request to a vault.
func (f *fake) request(t *testing.T, method, url, authorization string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestTokenRequired(t *testing.T) {
	f := start(t, sampleVaults)
	token := f.token(t)
	const url = "https://my-vault.vault.azure.net/secrets/db-secret?api-version=7.4"
	const challenge = `Bearer authorization="https://login.microsoftonline.com/` + tenantID + `", resource="https://vault.azure.net"`
	tests := []struct {
		name, authorization string
		after               time.Duration
		status              int
	}{
		{name: "none", status: 401},
		{name: "of another scheme", authorization: "Basic " + token, status: 401},
		{name: "empty", authorization: "Bearer ", status: 401},
		{name: "not issued here", authorization: "Bearer " + token + "x", status: 401},
		{name: "valid", authorization: "Bearer " + token, status: 200},
		{name: "valid, scheme in lower case", authorization: "bearer " + token, status: 200},
		{name: "almost expired", authorization: "Bearer " + token, after: 59 * time.Minute, status: 200},
		{name: "expired", authorization: "Bearer " + token, after: time.Hour, status: 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			issued := f.clock.Load()
			defer f.clock.Store(issued)
			f.clock.Add(int64(tt.after / time.Second))
			reads := f.Reads()
			resp, body := f.request(t, "GET", url, tt.authorization)
			if resp.StatusCode != tt.status {
				t.Fatalf("status = %d, want %d", resp.StatusCode, tt.status)
			}
			if tt.status == http.StatusOK {
				if f.Reads() != reads+1 {
					t.Error("the read was not counted")
				}
				return
			}
			if got := resp.Header.Get("WWW-Authenticate"); got != challenge {
				t.Errorf("challenge = %q, want %q", got, challenge)
			}
			if !strings.Contains(body, `"code":"Unauthorized"`) || strings.Contains(body, "dbadmin") {
				t.Errorf("body = %q", body)
			}
			if f.Reads() != reads {
				t.Error("a request without a valid token was counted as a read")
			}
		})
	}
}

func TestRawRequests(t *testing.T) {
	f := start(t, sampleVaults)
	authorization := "Bearer " + f.token(t)
	const base = "https://my-vault.vault.azure.net"
	tests := []struct {
		name, method, url string
		status            int
		body              string
		reads             int64
	}{
		{"no api-version", "GET", base + "/secrets/db-secret", 400, "api-version must be specified", 1},
		{"trailing slash", "GET", base + "/secrets/db-secret/?api-version=7.4", 200, "dbadmin", 1},
		{"vault in upper case", "GET", "https://MY-Vault.vault.azure.net/secrets/db-secret?api-version=7.4", 200, "dbadmin", 1},
		{"list", "GET", base + "/secrets?api-version=7.4", 404, "only reading a secret", 0},
		{"empty name", "GET", base + "/secrets/?api-version=7.4", 404, "only reading a secret", 0},
		{"too deep", "GET", base + "/secrets/a/b/c?api-version=7.4", 404, "only reading a secret", 0},
		{"write", "PUT", base + "/secrets/db-secret?api-version=7.4", 404, "only reading a secret", 0},
		{"unknown vault", "GET", "https://other.vault.azure.net/secrets/s?api-version=7.4", 404, "no such vault", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := f.Reads()
			resp, body := f.request(t, tt.method, tt.url, authorization)
			if resp.StatusCode != tt.status || !strings.Contains(body, tt.body) {
				t.Errorf("status %d with %q, want %d with %q", resp.StatusCode, body, tt.status, tt.body)
			}
			if got := f.Reads() - before; got != tt.reads {
				t.Errorf("counted %d reads, want %d", got, tt.reads)
			}
		})
	}
}
