package awssm

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, conformance())
}

func BenchmarkFetch(b *testing.B) { providertest.Bench(b, conformance()) }

func conformance() providertest.Harness {
	return providertest.Harness{
		Start:   startWorld,
		Biggest: 65536,
		Exceptions: map[string]string{
			"empty":         "Secrets Manager takes no empty secret",
			"destroyed":     "a version cannot be destroyed; it goes when nobody has put a staging label to it for long",
			"expired":       "secrets have no end of their validity",
			"not yet valid": "secrets have no beginning of their validity",
		},
	}
}

func startWorld(t testing.TB) *providertest.World {
	f := newFake(t)
	w := &world{fake: f}
	f.answer = w.answer
	return &providertest.World{
		Integration:    f.integration(),
		Opener:         Opener(f.Config()),
		Ref:            func(name string) string { return storeURL + "::" + name },
		Foreign:        "https://secretsmanager.eu-central-1.amazonaws.com::db",
		UnknownVersion: "11111111-1111-1111-1111-111111111111",
		Put:            w.put,
		Become:         w.become,
		Suffer:         w.suffer,
		Login:          w.login,
		Reads:          func() int { return f.count("GetSecretValue") },
		Private:        []string{baseSecret, "session-secret", "session-token", "AWS4-HMAC"},
		Log:            f.Logs.String,
	}
}

// world is a fake with the suite's troubles. Its fields are guarded by fake.mu.
type world struct {
	*fake
	trouble   providertest.Trouble
	forbidden map[string]bool
	refused   bool
}

func (w *world) put(_ testing.TB, name string, value []byte) (version string) {
	v := secretsmanager.Version{Value: string(value)}
	if !utf8.Valid(value) {
		v = secretsmanager.Version{Value: base64.StdEncoding.EncodeToString(value), Base64: true}
	}
	w.set(region, name, func(s *secretsmanager.Secret) {
		version = secretsmanager.VersionID(name, len(s.Versions), v.Value)
		s.Versions = append(s.Versions, v)
	})
	return version
}

func (w *world) become(t testing.TB, name string, state providertest.State) {
	switch state {
	case providertest.Disabled: // the closest state in AWS
		w.set(region, name, func(s *secretsmanager.Secret) { s.Deleted = true })
	case providertest.Deleted:
		w.change(func(s *secretsmanager.State) { delete(s.Regions[region].Secrets, name) })
	case providertest.Forbidden:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.forbidden = map[string]bool{name: true}
	default:
		t.Fatalf("no secret can be %s", state)
	}
}

func (w *world) suffer(t testing.TB, trouble providertest.Trouble) {
	if trouble == providertest.Unreachable {
		w.Dial[smHost] = providertest.ClosedPort(t)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble = trouble
}

func (w *world) login(_ testing.TB, fate providertest.Fate) {
	if fate == providertest.Revoked {
		w.server.Revoke()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = true
}

// answer is used as fake.answer.
func (w *world) answer(rw http.ResponseWriter, r *http.Request, operation string, body []byte) bool {
	w.mu.Lock()
	trouble, refused, forbidden := w.trouble, w.refused, w.forbidden
	w.mu.Unlock()
	switch {
	case operation == "AssumeRole" && refused:
		writeSTSFault(rw, http.StatusForbidden, "AccessDenied")
		return true
	case operation != "GetSecretValue":
		return false
	}
	for name := range forbidden {
		if strings.Contains(string(body), name) {
			writeFault(rw, http.StatusBadRequest, "AccessDeniedException", "no identity-based policy allows the action, "+canary)
			return true
		}
	}
	switch trouble {
	case providertest.Throttling:
		writeFault(rw, http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	case providertest.Silent:
		<-r.Context().Done()
	case providertest.Failing:
		writeFault(rw, http.StatusInternalServerError, "InternalServiceError", canary)
	case providertest.Redirecting:
		http.Redirect(rw, r, "https://"+otherHost+"/", http.StatusTemporaryRedirect)
	case providertest.Garbling:
		_, _ = io.WriteString(rw, "<html>"+canary)
	case providertest.Confusing:
		fmt.Fprintf(rw, `{"ARN":%q,"Name":"other","VersionId":"v","VersionStages":["AWSCURRENT"],"SecretString":%q}`, storeARN+":secret:other-AbCdEf", canary)
	default:
		return false
	}
	return true
}
