package vaultkv

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

// fake responds as Vault does according to its API documentation and to observations
// of a real server.
type fake struct {
	mu      sync.Mutex
	secrets map[string][]kvVersion // by path, mount included
	denied  map[string]bool
	tokens  map[string]bool
	logins  int
	// login, if not nil, handles logins; made handles reads of other engines; renewed
	// handles renewals of leases, renewedSelf those of tokens.
	login, made, renewed, renewedSelf http.HandlerFunc
	// tokenTTL is in seconds.
	tokenTTL int
	// proofs are the bodies of the login requests, by path.
	proofs map[string]map[string]string
}

type kvVersion struct {
	data               string
	deleted, destroyed bool
	deletionTime       string
}

func newFake() *fake {
	return &fake{
		secrets: make(map[string][]kvVersion), denied: make(map[string]bool), tokens: make(map[string]bool),
		proofs: make(map[string]map[string]string), tokenTTL: 3600,
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	if strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login") {
		f.serveLogin(w, r, path)
		return
	}
	if !f.tokens[r.Header.Get("X-Vault-Token")] || f.denied[path] {
		providertest.WriteJSON(w, http.StatusForbidden, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)
		return
	}
	switch {
	case path == "auth/token/lookup-self":
		providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"request_id":"r","data":{"ttl":%d,"renewable":true}}`, f.tokenTTL))
	case path == "auth/token/renew-self" && f.renewedSelf != nil:
		f.renewedSelf(w, r)
	case strings.HasPrefix(path, "sys/internal/ui/mounts/"):
		f.serveMount(w, strings.TrimPrefix(path, "sys/internal/ui/mounts/"))
	case path == "sys/leases/renew" && f.renewed != nil:
		f.renewed(w, r)
	case strings.HasPrefix(path, "secret/data/"):
		f.serveKV2(w, r, "secret/"+strings.TrimPrefix(path, "secret/data/"))
	case strings.HasPrefix(path, "secret/metadata/"):
		f.serveMetadata(w, "secret/"+strings.TrimPrefix(path, "secret/metadata/"))
	case strings.HasPrefix(path, "team/deep/kv/data/"):
		f.serveKV2(w, r, "team/deep/kv/"+strings.TrimPrefix(path, "team/deep/kv/data/"))
	case strings.HasPrefix(path, "legacy/"):
		f.serveKV1(w, path)
	case strings.HasPrefix(path, "database/") && f.made != nil:
		f.made(w, r)
	default:
		providertest.WriteJSON(w, http.StatusNotFound, `{"errors":[]}`)
	}
}

// serveMount reports the existing mounts. A namespace is not a mount.
func (f *fake) serveMount(w http.ResponseWriter, path string) {
	mounted := map[string]string{"secret": "kv", "legacy": "kv", "team/deep/kv": "kv", "database": "database"}[path]
	if mounted == "" {
		providertest.WriteJSON(w, http.StatusForbidden, `{"errors":["preflight capability check returned 403, please ensure client's policies grant access to path"]}`)
		return
	}
	providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"request_id":"r","data":{"accessor":"a","path":%q,"type":%q,"options":null}}`, path+"/", mounted))
}

func (f *fake) serveLogin(w http.ResponseWriter, r *http.Request, path string) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	proof := make(map[string]string)
	if err := json.Unmarshal(b, &proof); err != nil {
		panic(err)
	}
	f.proofs[path] = proof
	f.logins++
	if f.login != nil {
		f.login(w, r)
		return
	}
	if path == "auth/approle/login" && (proof["role_id"] != roleID || proof["secret_id"] != secretID) {
		providertest.WriteJSON(w, http.StatusBadRequest, `{"errors":["invalid role or secret ID"]}`)
		return
	}
	token := fmt.Sprintf("hvs.token-%d", f.logins)
	f.tokens[token] = true
	providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"request_id":"r","auth":{"client_token":%q,"accessor":"a","lease_duration":%d,"renewable":true,"token_type":"service"}}`, token, f.tokenTTL))
}

func (f *fake) serveKV2(w http.ResponseWriter, r *http.Request, path string) {
	all := f.secrets[path]
	n := len(all)
	if v := r.URL.Query().Get("version"); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			providertest.WriteJSON(w, http.StatusBadRequest, `{"errors":["expected version to be a number"]}`)
			return
		}
	}
	if n < 1 || n > len(all) {
		providertest.WriteJSON(w, http.StatusNotFound, `{"errors":[]}`)
		return
	}
	v := all[n-1]
	data, status := v.data, http.StatusOK
	if v.deleted || v.destroyed {
		data, status = "null", http.StatusNotFound
	}
	providertest.WriteJSON(w, status, fmt.Sprintf(`{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":%s,"metadata":{"created_time":"2026-11-21T00:00:00.1Z","custom_metadata":null,"deletion_time":%q,"destroyed":%v,"version":%d}},"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}`,
		data, v.deletionTime, v.destroyed, n))
}

// serveMetadata responds as "Read secret metadata" of the API documentation.
func (f *fake) serveMetadata(w http.ResponseWriter, path string) {
	all := f.secrets[path]
	if len(all) == 0 {
		providertest.WriteJSON(w, http.StatusNotFound, `{"errors":[]}`)
		return
	}
	var versions []string
	for i, v := range all {
		versions = append(versions, fmt.Sprintf(`"%d":{"created_time":"2026-11-21T00:00:00.1Z","deletion_time":%q,"destroyed":%v}`, i+1, v.deletionTime, v.destroyed))
	}
	providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{"cas_required":false,"created_time":"2026-11-21T00:00:00.1Z","current_version":%d,"custom_metadata":{"owner":"canary-of-custom-metadata"},"delete_version_after":"0s","max_versions":0,"oldest_version":0,"updated_time":"2026-11-21T00:00:00.1Z","versions":{%s}},"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}`,
		len(all), strings.Join(versions, ",")))
}

func (f *fake) serveKV1(w http.ResponseWriter, path string) {
	all := f.secrets[path]
	if len(all) == 0 {
		providertest.WriteJSON(w, http.StatusNotFound, `{"errors":[]}`)
		return
	}
	providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"request_id":"r","lease_id":"","renewable":false,"lease_duration":2764800,"data":%s,"wrap_info":null,"warnings":null,"auth":null}`,
		all[len(all)-1].data))
}

func (f *fake) put(path, data string) (version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secrets[path] = append(f.secrets[path], kvVersion{data: data})
	return fmt.Sprint(len(f.secrets[path]))
}

// newest changes the newest version.
func (f *fake) newest(path string, change func(*kvVersion)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.secrets[path][len(f.secrets[path])-1])
}

// revoke invalidates the tokens issued so far.
func (f *fake) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.tokens)
}

func startFake(t testing.TB) *providertest.World {
	v := newFake()
	f := newFront(t, v)
	in := f.integration(t, roleID, secretID)
	return &providertest.World{
		Integration:    in,
		Opener:         Opener(f.Config()),
		Ref:            func(name string) string { return address + "::secret/" + name },
		Foreign:        "https://other.example.com:8200::secret/db",
		UnknownVersion: "99",
		Put:            func(_ testing.TB, name string, value []byte) string { return v.put("secret/"+name, string(value)) },
		Document:       document,
		Become: func(_ testing.TB, name string, state providertest.State) {
			path := "secret/" + name
			switch state {
			case providertest.Disabled:
				v.newest(path, func(k *kvVersion) { k.deleted, k.deletionTime = true, "2026-11-21T00:00:01Z" })
			case providertest.Destroyed:
				v.newest(path, func(k *kvVersion) { k.destroyed = true })
			case providertest.Deleted:
				v.mu.Lock()
				defer v.mu.Unlock()
				delete(v.secrets, path)
			case providertest.Forbidden:
				v.mu.Lock()
				defer v.mu.Unlock()
				v.denied["secret/data/"+name] = true
			}
		},
		Suffer: f.suffer,
		Login: func(t testing.TB, fate providertest.Fate) {
			if fate == providertest.Revoked {
				v.revoke()
				return
			}
			providertest.Must(t, osWrite(settingsOf(in).Auth.SecretIDFile, "another-secret-id"))
		},
		Reads:   f.count,
		Private: []string{secretID, "another-secret-id", "hvs."},
		Log:     f.Logs.String,
	}
}
