package azurekv

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

func TestConformance(t *testing.T) { providertest.Run(t, conformance()) }

func BenchmarkFetch(b *testing.B) { providertest.Bench(b, conformance()) }

func conformance() providertest.Harness {
	return providertest.Harness{
		Start:   startWorld,
		Biggest: 25_000, // Key Vault service limits
		Exceptions: map[string]string{
			"binary":    "values of Key Vault are text",
			"empty":     "Key Vault refuses to set an empty value",
			"destroyed": "Key Vault has no way to destroy a version alone",
		},
	}
}

// keyVault is the fake with secrets in it.
type keyVault struct {
	*fake
	mu      sync.Mutex
	secrets map[string][]kvSecret
	trouble providertest.Trouble
}

type kvSecret struct {
	version, value string
	state          providertest.State
}

func startWorld(t testing.TB) *providertest.World {
	k := &keyVault{fake: newFake(t), secrets: make(map[string][]kvSecret)}
	k.vault = k.serve
	return &providertest.World{
		Integration:    k.integration(),
		Opener:         Opener(k.Config()),
		Ref:            func(name string) string { return vaultURL + "::" + name },
		Foreign:        "https://" + strangers + "::db",
		UnknownVersion: strings.Repeat("f", 32),
		Put:            k.put,
		Become:         k.become,
		Suffer:         k.suffer,
		Login: func(_ testing.TB, fate providertest.Fate) {
			if fate == providertest.Revoked {
				k.refuse()
				return
			}
			k.token = func(w http.ResponseWriter, _ *http.Request) {
				providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided."}`)
			}
		},
		Reads:   func() int { _, reads := k.counts(); return reads },
		Private: []string{testSecret, "access-token-", "Bearer"},
		Log:     k.Logs.String,
	}
}

func (k *keyVault) put(_ testing.TB, name string, value []byte) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	version := fmt.Sprintf("%032x", len(k.secrets[name])+1)
	k.secrets[name] = append(k.secrets[name], kvSecret{version: version, value: string(value)})
	return version
}

func (k *keyVault) become(_ testing.TB, name string, state providertest.State) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if state == providertest.Deleted {
		delete(k.secrets, name)
		return
	}
	k.secrets[name][len(k.secrets[name])-1].state = state
}

func (k *keyVault) suffer(t testing.TB, trouble providertest.Trouble) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trouble = trouble
	if trouble == providertest.Unreachable {
		k.Dial[vaultHost] = providertest.ClosedPort(t)
	}
}

func (k *keyVault) serve(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	name, version := parts[1], ""
	if len(parts) > 2 {
		version = parts[2]
	}
	switch k.trouble {
	case providertest.Throttling:
		providertest.WriteJSON(w, http.StatusTooManyRequests, `{"error":{"code":"Throttled","message":"slow down"}}`)
		return
	case providertest.Silent:
		k.mu.Unlock()
		<-r.Context().Done()
		k.mu.Lock()
		return
	case providertest.Failing:
		providertest.WriteJSON(w, http.StatusInternalServerError, `{"error":{"code":"InternalServerError","message":"no"}}`)
		return
	case providertest.Redirecting:
		http.Redirect(w, r, "https://"+strangers+r.URL.Path, http.StatusFound)
		return
	case providertest.Garbling:
		_, _ = io.WriteString(w, "<html>"+name+"</html>")
		return
	case providertest.Confusing:
		name, version = "other", ""
	}
	found, ok := k.find(name, version)
	switch {
	case !ok:
		providertest.WriteJSON(w, http.StatusNotFound, `{"error":{"code":"SecretNotFound","message":"none"}}`)
	case found.state == providertest.Disabled:
		providertest.WriteJSON(w, http.StatusForbidden, `{"error":{"code":"Forbidden","message":"no","innererror":{"code":"SecretDisabled"}}}`)
	case found.state == providertest.Forbidden:
		providertest.WriteJSON(w, http.StatusForbidden, `{"error":{"code":"Forbidden","message":"no","innererror":{"code":"ForbiddenByRbac"}}}`)
	default:
		value, err := json.Marshal(found.value)
		if err != nil {
			panic(err)
		}
		attributes := map[providertest.State]string{providertest.Expired: `,"exp":1`, providertest.NotYetValid: `,"nbf":99999999999`}[found.state]
		providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"id":"https://%s/secrets/%s/%s","value":%s,"attributes":{"enabled":true%s}}`,
			r.Host, name, found.version, value, attributes))
	}
}

func (k *keyVault) find(name, version string) (kvSecret, bool) {
	list := k.secrets[name]
	for i := len(list) - 1; i >= 0; i-- {
		if version == "" || list[i].version == version {
			return list[i], true
		}
	}
	return kvSecret{}, false
}
