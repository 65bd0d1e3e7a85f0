package awssm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// answers makes the fake add fields to a successful response to GetSecretValue, or
// replace them.
func (f *fake) answers(fields map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
		if operation != "GetSecretValue" {
			return false
		}
		out := map[string]any{
			"ARN": storeARN + ":secret:db-AbCdEf", "Name": "db", "VersionId": "v-1", "VersionStages": []string{"AWSCURRENT"}, "SecretString": canary,
		}
		for name, value := range fields {
			if out[name] = value; value == nil {
				delete(out, name)
			}
		}
		writeJSON(w, out)
		return true
	}
}

// A response about another secret or version than the requested one is not served.
func TestAnswerToSomethingElse(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	byName, byARN, byLabel, byID := storeURL+"::db", storeARN+":secret:db-AbCdEf", storeURL+"::db#BLUE", storeURL+"::db#"+strings.Repeat("1", 32)
	f.answers(nil)
	for _, good := range []string{byName, byARN} {
		if sec := f.Fetch(s, good); sec.Version != "v-1" {
			t.Errorf("version %s", sec.Version)
		}
	}
	for _, tt := range []struct {
		name, reference string
		fields          map[string]any
	}{
		{"no ARN", byName, map[string]any{"ARN": nil}},
		{"no name", byName, map[string]any{"Name": nil}},
		{"another name", byName, map[string]any{"Name": "DB"}},
		{"ARN of another name", byName, map[string]any{"ARN": storeARN + ":secret:dc-AbCdEf"}},
		{"ARN of a longer name", byName, map[string]any{"ARN": storeARN + ":secret:db-x-AbCdEf"}},
		{"ARN without a suffix", byName, map[string]any{"ARN": storeARN + ":secret:db"}},
		{"ARN with an odd suffix", byName, map[string]any{"ARN": storeARN + ":secret:db-AbC/Ef"}},
		{"another account", byName, map[string]any{"ARN": strings.Replace(byARN, account, otherOne, 1)}},
		{"another region", byName, map[string]any{"ARN": strings.Replace(byARN, region, "us-east-1", 1)}},
		{"another partition", byName, map[string]any{"ARN": strings.Replace(byARN, "arn:aws:", "arn:aws-cn:", 1)}},
		{"another service", byName, map[string]any{"ARN": strings.Replace(byARN, "secretsmanager", "ssm", 1)}},
		{"another secret of that name", byARN, map[string]any{"ARN": storeARN + ":secret:db-ZZZZZZ"}},
		{"no version", byName, map[string]any{"VersionId": nil}},
		{"an odd version", byName, map[string]any{"VersionId": "a\nb"}},
		{"not the current version", byName, map[string]any{"VersionStages": []string{"AWSPREVIOUS"}}},
		{"no stages", byName, map[string]any{"VersionStages": nil}},
		{"not the label's version", byLabel, nil},
		{"not that version", byID, nil},
		{"no value", byName, map[string]any{"SecretString": nil}},
		{"two values", byName, map[string]any{"SecretBinary": []byte(canary)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.answers(tt.fields)
			f.TB = t
			e := f.Fails(t.Context(), s, tt.reference, secret.ReasonStoreUnavailable)
			if !errors.Is(e, storeerror.ErrAnswered) {
				t.Error("an answer is taken for silence")
			}
		})
	}
	f.TB = t
}

// Each error of AWS maps to a reason and a message that states what to do.
func TestErrors(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for _, tt := range []struct {
		code, message string
		status        int
		want          secret.Reason
		says          string
	}{
		{"ResourceNotFoundException", "", 400, secret.ReasonSecretNotFound, "fix the reference"},
		{"ResourceNotFoundException", "", 404, secret.ReasonSecretNotFound, "fix the reference"}, // the status that moto uses
		{"InvalidRequestException", "marked for deletion", 400, secret.ReasonSecretDisabled, "scheduled for deletion"},
		{ // aws-cross-kms
			"InvalidRequestException", "You can't access a secret from a different AWS account if you encrypt the secret with the default KMS service key.", 400,
			secret.ReasonStoreAccessDenied, "customer-managed KMS key",
		},
		{"InvalidParameterException", "", 400, secret.ReasonInvalidReference, "fix the reference"},
		{"ValidationException", "", 400, secret.ReasonInvalidReference, "fix the reference"},
		{"DecryptionFailure", "", 400, secret.ReasonSecretDisabled, "KMS key"},
		{"AccessDeniedException", "not authorized", 400, secret.ReasonStoreAccessDenied, "secretsmanager:GetSecretValue"},
		{"AccessDeniedException", "Access to KMS is not allowed", 400, secret.ReasonStoreAccessDenied, "kms:Decrypt"},
		{"ThrottlingException", "Rate exceeded", 400, secret.ReasonStoreThrottled, "wait"},
		{"TooManyRequestsException", "", 429, secret.ReasonStoreThrottled, "wait"},
		{"", "", 429, secret.ReasonStoreThrottled, "wait"},
		{"InvalidSignatureException", "Signature expired", 400, secret.ReasonStoreAuthenticationFailed, "clock"},
		{"RequestTimeTooSkewed", "", 403, secret.ReasonStoreAuthenticationFailed, "clock"},
		{"UnrecognizedClientException", "", 400, secret.ReasonStoreAuthenticationFailed, "renew the credential"},
		{"ExpiredTokenException", "", 400, secret.ReasonStoreAuthenticationFailed, "renew the credential"},
		{"InternalServiceError", "", 500, secret.ReasonStoreUnavailable, "HTTP 500"},
		{"ServiceUnavailableException", "", 503, secret.ReasonStoreUnavailable, "HTTP 503"},
		{"", "", 502, secret.ReasonStoreUnavailable, "HTTP 502"},
		{"SomethingNewException", "", 400, secret.ReasonStoreUnavailable, "something other"},
		{"<script>" + canary, "", 400, secret.ReasonStoreUnavailable, "something other"},
	} {
		t.Run(fmt.Sprint(tt.code, tt.status), func(t *testing.T) {
			f.TB = t
			f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
				if operation == "GetSecretValue" {
					writeFault(w, tt.status, tt.code, tt.message+" "+canary)
				}
				return operation == "GetSecretValue"
			}
			e := f.Fails(t.Context(), s, storeURL+"::db", tt.want)
			if !strings.Contains(e.Message, tt.says) {
				t.Errorf("%q does not say %q", e.Message, tt.says)
			}
			if answered, failing := errors.Is(e, storeerror.ErrAnswered), tt.status >= 500; tt.want == secret.ReasonStoreUnavailable && answered == failing {
				t.Errorf("HTTP %d is an answer: %v", tt.status, answered)
			}
		})
	}
	f.TB = t
}

// If the name of an endpoint does not exist, the region does not exist.
func TestNoSuchRegion(t *testing.T) {
	for host, want := range map[string]secret.Reason{smHost: secret.ReasonStoreNotFound, "proxy.example.test": secret.ReasonStoreUnavailable} {
		err := &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: host + ".", IsNotFound: true}}
		e := explainRead(t.Context(), &endpoint{region: region, host: smHost}, providertest.Ref(t, storeURL+"::db"), err)
		if e.Reason != want {
			t.Errorf("%s: %v, want %s", host, e, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for header, want := range map[string]time.Duration{"": time.Second, "7": 7 * time.Second, "86400": time.Minute, "soon": time.Second} {
		f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
			if operation == "GetSecretValue" {
				w.Header().Set("Retry-After", header)
				writeFault(w, 400, "ThrottlingException", "Rate exceeded")
			}
			return operation == "GetSecretValue"
		}
		if e := f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreThrottled); e.RetryAfter != want {
			t.Errorf("Retry-After %q: %s, want %s", header, e.RetryAfter, want)
		}
	}
}

func TestRotationDates(t *testing.T) {
	f := newFake(t)
	arn := f.put(region, "db", canary)
	next := time.Now().Add(time.Hour).Truncate(time.Second)
	in := f.integration()
	settingsOf(in).RotationDates = true
	s := f.open(f.Config(), in)
	for _, tt := range []struct {
		name      string
		next      time.Time // zero means no rotation
		reference string
		want      time.Time
	}{
		{"rotation is off", time.Time{}, storeURL + "::db", time.Time{}},
		{"rotation is due", next, storeURL + "::db", next},
		{"by ARN", next, arn, next},
		{"rotation has failed", time.Now().Add(-time.Hour), storeURL + "::db", time.Time{}},
		{"pinned", next, storeURL + "::db#" + secretsmanager.VersionID("db", 0, canary), time.Time{}},
	} {
		f.set(region, "db", func(s *secretsmanager.Secret) { s.NextRotation = tt.next })
		if got := f.Fetch(s, tt.reference).ExpiresAt; !got.Equal(tt.want) {
			t.Errorf("%s: expires %v, want %v", tt.name, got, tt.want)
		}
	}
	if n := f.count("DescribeSecret"); n != 4 {
		t.Errorf("%d descriptions", n)
	}
	f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
		if operation == "DescribeSecret" {
			writeFault(w, 400, "AccessDeniedException", canary)
		}
		return operation == "DescribeSecret"
	}
	if e := f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAccessDenied); !strings.Contains(e.Message, "secretsmanager:DescribeSecret") {
		t.Errorf("says %q", e.Message)
	}
	body, _ := json.Marshal(map[string]any{"ARN": storeARN + ":secret:other-AbCdEf", "Name": "other"})
	f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
		if operation == "DescribeSecret" {
			_, _ = w.Write(body)
		}
		return operation == "DescribeSecret"
	}
	f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreUnavailable)
}
