package vaultkv

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// TestValidate: each step reports what it found. Nothing is read if the server
// reports capabilities, and no credential is generated.
func TestValidate(t *testing.T) {
	const mounts = "secret, legacy, team/deep/kv, database"
	all := func(result string) string {
		var steps []string
		for m := range strings.SplitSeq(mounts, ", ") {
			steps = append(steps, "read "+m+" "+result)
		}
		return strings.Join(steps, ", ")
	}
	for _, tt := range []struct {
		name      string
		id        string
		policies  map[string][]string // by path prefix; nil for a server that does not report capabilities
		forbidden bool
		want      string
		reads     int
	}{
		{"a wrong secret ID", "wrong", nil, false, "login STORE_AUTHENTICATION_FAILED, " + all("skipped"), 0},
		{"all may be read", secretID, map[string][]string{"": {"create", "read"}}, false, "login ok, " + all("ok"), 0},
		{"root", secretID, map[string][]string{"": {"root"}}, false, "login ok, " + all("ok"), 0},
		{"one mount is denied", secretID, map[string][]string{
			"secret/data/team/": {"read"}, "legacy/": {"read"}, "team/deep/kv/data/": {"deny"}, "database/": {"read"},
		}, false, "login ok, read secret ok, read legacy ok, read team/deep/kv unchecked, read database ok", 0},
		{"a policy that is narrower than the grants", secretID, map[string][]string{
			"secret/data/team/a/": {"read"}, "legacy/": {"read"}, "team/deep/kv/data/": {"read"}, "database/": {"read"},
		}, false, "login ok, read secret unchecked, read legacy ok, read team/deep/kv ok, read database ok", 0},
		{"what a grant names is denied", secretID, map[string][]string{"": {"read"}, "legacy/one": {"deny"}, "database/": {"deny"}}, false,
			"login ok, read secret ok, read legacy STORE_ACCESS_DENIED, read team/deep/kv ok, read database STORE_ACCESS_DENIED", 0},
		{"capabilities are not told", secretID, nil, false, "login ok, read secret ok, read legacy unchecked, read team/deep/kv ok, read database unchecked", 2},
		{"nothing is told or given", secretID, nil, true,
			"login ok, " + all("unchecked"), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newFake()
			reads := 0
			f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				path := strings.TrimPrefix(r.URL.Path, "/v1/")
				switch {
				case path == "sys/capabilities-self" && tt.policies != nil:
					answerCapabilities(t, w, r, tt.policies)
				case path == "sys/capabilities-self", tt.forbidden && r.Method == http.MethodGet && !strings.HasPrefix(path, "auth/"):
					if r.Method == http.MethodGet {
						reads++
					}
					providertest.WriteJSON(w, http.StatusForbidden, `{"errors":["permission denied"]}`)
				default:
					if strings.HasPrefix(path, "database/") {
						t.Error("a credential was made")
					}
					if r.Method == http.MethodGet && !strings.HasPrefix(path, "auth/") {
						reads++
					}
					v.ServeHTTP(w, r)
				}
			}))
			in := f.integration(t, roleID, tt.id)
			providertest.Grant(t, Spec(), in, `vault: {address: "`+address+`", mounts: [{path: secret, engine: kv2}], auth: {type: token}}`, []string{"secret/team/*", "legacy/one", "database/creds/connect"})
			if got := providertest.Steps(f.open(t, f.Config(), in).Validate(t.Context())); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if reads != tt.reads {
				t.Errorf("%d reads, want %d", reads, tt.reads)
			}
		})
	}
}

// TestValidatePoll: the metadata of a mount of kv2 needs a capability of its own if it is
// polled.
func TestValidatePoll(t *testing.T) {
	for _, tt := range []struct {
		grant    string
		policies map[string][]string
		id, want string
	}{
		{"secret/db", map[string][]string{"": {"read"}}, secretID, "login ok, read secret ok, events of secret/metadata ok"},
		{"secret/db", map[string][]string{"secret/data/db": {"read"}}, secretID, "login ok, read secret ok, events of secret/metadata STORE_ACCESS_DENIED"},
		{"secret/team/*", map[string][]string{"secret/data/": {"read"}, "secret/metadata/team/": {"read"}}, secretID, "login ok, read secret ok, events of secret/metadata ok"},
		{"secret/team/*", map[string][]string{"secret/data/": {"read"}}, secretID, "login ok, read secret ok, events of secret/metadata unchecked"},
		{"secret/team/*", nil, secretID, "login ok, read secret ok, events of secret/metadata unchecked"},
		{"secret/db", nil, "wrong", "login STORE_AUTHENTICATION_FAILED, read secret skipped, events of secret/metadata skipped"},
	} {
		v := newFake()
		f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
			case path == "sys/capabilities-self" && tt.policies != nil:
				answerCapabilities(t, w, r, tt.policies)
			case strings.HasPrefix(path, "secret/metadata/"):
				t.Error("metadata were read")
			default:
				v.ServeHTTP(w, r)
			}
		}))
		in := f.integration(t, roleID, tt.id)
		settingsOf(in).Mounts, settingsOf(in).Poll = settingsOf(in).Mounts[:1], time.Second
		providertest.Grant(t, Spec(), in, `vault: {address: "`+address+`", mounts: [{path: secret, engine: kv2}], auth: {type: token}}`, []string{tt.grant})
		if got := providertest.Steps(f.open(t, f.Config(), in).Validate(t.Context())); got != tt.want {
			t.Errorf("%s, %v:\n got %s\nwant %s", tt.grant, tt.policies, got, tt.want)
		}
	}
}

// TestPeerValidate uses the capabilities that a real server reports.
func TestPeerValidate(t *testing.T) {
	p := startPeer(t)
	role := p.prepare("1h")
	f := p.newFront(t)
	validate := func() string {
		in := f.integration(t, role, p.secretID())
		providertest.Grant(t, Spec(), in, `vault: {address: "`+address+`", mounts: [{path: secret, engine: kv2}], auth: {type: token}}`, []string{"secret/*", "legacy/one", "database/creds/connect"})
		return providertest.Steps(f.open(t, f.Config(), in).Validate(t.Context()))
	}
	if got, want := validate(), "login ok, read secret ok, read legacy ok, read team/deep/kv ok, read database ok"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	p.permit(`path "legacy/*" { capabilities = ["deny"] }`)
	if got, want := validate(), "login ok, read secret ok, read legacy STORE_ACCESS_DENIED, read team/deep/kv ok, read database ok"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

// answerCapabilities responds as the API documentation describes.
func answerCapabilities(t *testing.T, w http.ResponseWriter, r *http.Request, policies map[string][]string) {
	var in struct{ Paths []string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Paths) != 1 {
		t.Errorf("asked for %v, %v", in.Paths, err)
		return
	}
	given, longest := []string{"deny"}, -1
	for beginning, capabilities := range policies {
		if strings.HasPrefix(in.Paths[0], beginning) && len(beginning) > longest {
			given, longest = capabilities, len(beginning)
		}
	}
	b, err := json.Marshal(map[string]any{"request_id": "r", "data": map[string]any{in.Paths[0]: given, "capabilities": given}})
	if err != nil {
		t.Error(err)
	}
	providertest.WriteJSON(w, http.StatusOK, string(b))
}

// TestValidateExactNames: a policy on the one secret that a grant names is enough, also
// beside a wider grant, and without capabilities.
func TestValidateExactNames(t *testing.T) {
	for _, capabilities := range []bool{true, false} {
		v := newFake()
		f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path := strings.TrimPrefix(r.URL.Path, "/v1/")
			switch {
			case path == "sys/capabilities-self" && capabilities:
				answerCapabilities(t, w, r, map[string][]string{"secret/data/team/db": {"read"}, "secret/data/team/db-": {"deny"}})
			case path == "sys/capabilities-self", strings.HasPrefix(path, "secret/") && path != "secret/data/team/db":
				providertest.WriteJSON(w, http.StatusForbidden, `{"errors":["permission denied"]}`)
			default:
				if path == "secret/data/team/db" && r.URL.RawQuery == "" {
					t.Error("the value was requested")
				}
				v.ServeHTTP(w, r)
			}
		}))
		v.put("secret/team/db", `{"k":"v"}`)
		in := f.integration(t, roleID, secretID)
		settingsOf(in).Mounts = settingsOf(in).Mounts[:1]
		providertest.Grant(t, Spec(), in, `vault: {address: "`+address+`", mounts: [{path: secret, engine: kv2}], auth: {type: token}}`, []string{"secret/*", "secret/team/db"})
		if got, want := providertest.Steps(f.open(t, f.Config(), in).Validate(t.Context())), "login ok, read secret ok"; got != want {
			t.Errorf("capabilities %t:\n got %s\nwant %s", capabilities, got, want)
		}
	}
}
