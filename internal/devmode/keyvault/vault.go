package keyvault

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// secretName is Key Vault's rule for secret names.
var secretName = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)

// serveVault serves the vault with a name in lower case. It makes its checks in the order of
// the real store: identity, then permission, then existence.
func (s *Server) serveVault(w http.ResponseWriter, r *http.Request, vaultName string) {
	s.file.Look()
	v, ok := (*s.vaults.Load())[vaultName]
	if !ok {
		http.Error(w, "no such vault in the secrets file; the name of a real one would not resolve", http.StatusNotFound)
		return
	}
	if refusal := s.checkToken(w, r); refusal != nil {
		refusal.write(w)
		return
	}
	name, versionID, ok := secretPath(r)
	if !ok {
		(&vaultError{status: http.StatusNotFound, code: "NotFound", message: "only reading a secret is simulated here"}).write(w)
		return
	}
	s.reads.Add(1)
	if !wait(r, v.delay) { // the client disconnected, or the server is stopping
		v.unavailable().write(w)
		return
	}
	if refusal := v.refusal(s.cfg, vaultName, name, r); refusal != nil {
		refusal.write(w)
		return
	}
	e, ver, refusal := v.find(name, versionID)
	if refusal != nil {
		refusal.write(w)
		return
	}
	writeJSON(w, http.StatusOK, newSecretBundle(vaultName, e, ver, v.modified))
}

// checkToken returns the challenge with the address of the login authority, and sets its
// header. It returns nil if the token is valid.
func (s *Server) checkToken(w http.ResponseWriter, r *http.Request) *vaultError {
	const scheme = "bearer "
	header := r.Header.Get("Authorization")
	isBearer := len(header) > len(scheme) && strings.EqualFold(header[:len(scheme)], scheme)
	if isBearer && s.tokens.valid(header[len(scheme):], resource) {
		return nil
	}
	// The host is that of the real authority, as in the real challenge: clients read the
	// tenant from it, and use the authority in their configuration.
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer authorization=\"https://login.microsoftonline.com/%s\", resource=\"%s\"", s.cfg.TenantID, resource))
	e := &vaultError{status: http.StatusUnauthorized, code: "Unauthorized", message: "AKV10000: Request is missing a Bearer or PoP token."}
	if isBearer {
		e.message = "Error validating token: it was not issued here or has expired."
	}
	return e
}

// secretPath parses /secrets/NAME, /secrets/NAME/ and /secrets/NAME/VERSION.
func secretPath(r *http.Request) (name, version string, ok bool) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/secrets/")
	if !ok || r.Method != http.MethodGet {
		return "", "", false
	}
	name, version, _ = strings.Cut(rest, "/")
	return name, version, name != "" && !strings.Contains(version, "/")
}

// wait waits for d. It returns false if the request is canceled first.
func wait(r *http.Request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// refusal returns the error with which the vault refuses a request before it looks up the
// secret, nil if it does not.
func (v *vault) refusal(cfg Config, vaultName, name string, r *http.Request) *vaultError {
	switch {
	case v.fault == faultUnavailable:
		return v.unavailable()
	case v.fault == faultThrottled:
		return &vaultError{status: http.StatusTooManyRequests, code: "Throttled", message: "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached", retryAfter: v.retryAfter}
	case r.URL.Query().Get("api-version") == "":
		return &vaultError{status: http.StatusBadRequest, code: "BadParameter", message: "api-version must be specified"}
	case !secretName.MatchString(name):
		return &vaultError{status: http.StatusBadRequest, code: "BadParameter", message: "The request URI contains an invalid name: " + name}
	case v.fault == faultForbidden:
		return &vaultError{status: http.StatusForbidden, code: "Forbidden", inner: "ForbiddenByRbac", message: fmt.Sprintf(
			"Caller is not authorized to perform action on resource.\r\n"+
				"If role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\n"+
				"Caller: appid=%[1]s;oid=%[1]s;iss=https://sts.windows.net/%[2]s/\r\n"+
				"Action: 'Microsoft.KeyVault/vaults/secrets/getSecret/action'\r\n"+
				"Resource: '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/development/providers/microsoft.keyvault/vaults/%[3]s/secrets/%[4]s'\r\n"+
				"Assignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\n"+
				"Vault: %[3]s;location=westeurope\r\n", cfg.ClientID, cfg.TenantID, vaultName, strings.ToLower(name))}
	default:
		return nil
	}
}

func (v *vault) unavailable() *vaultError {
	return &vaultError{status: http.StatusServiceUnavailable, code: "ServiceUnavailable", message: "The service is temporarily unavailable.", retryAfter: v.retryAfter}
}

// find returns the requested version, or the newest one if id is empty. If the newest version
// is disabled, it returns an error and not an older version.
func (v *vault) find(name, id string) (*entry, *version, *vaultError) {
	e, ok := v.secrets[strings.ToLower(name)]
	if ok && !e.deleted {
		for i := range e.versions {
			ver := &e.versions[i]
			if id != "" && !strings.EqualFold(id, ver.id) {
				continue
			}
			if !ver.enabled {
				return nil, nil, &vaultError{status: http.StatusForbidden, code: "Forbidden", inner: "SecretDisabled", message: "Operation get is not allowed on a disabled secret."}
			}
			return e, ver, nil
		}
	}
	if id != "" {
		name += "/" + id
	}
	return nil, nil, &vaultError{status: http.StatusNotFound, code: "SecretNotFound", message: "A secret with (name/id) " + name + " was not found in this key vault. If you recently deleted this secret you may be able to recover it using the correct recovery command. For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182"}
}

// secretBundle is Key Vault's SecretBundle (REST API, Get Secret).
type secretBundle struct {
	Value       string           `json:"value"`
	ContentType string           `json:"contentType,omitempty"`
	ID          string           `json:"id"`
	Attributes  secretAttributes `json:"attributes"`
}

// secretAttributes has times in seconds since 1970.
type secretAttributes struct {
	Enabled         bool   `json:"enabled"`
	NotBefore       *int64 `json:"nbf,omitempty"`
	Expires         *int64 `json:"exp,omitempty"`
	Created         int64  `json:"created"`
	Updated         int64  `json:"updated"`
	RecoveryLevel   string `json:"recoveryLevel"`
	RecoverableDays int    `json:"recoverableDays"`
}

func newSecretBundle(vaultName string, e *entry, ver *version, modified time.Time) secretBundle {
	unix := func(t time.Time) *int64 {
		if t.IsZero() {
			return nil
		}
		return new(t.Unix())
	}
	return secretBundle{
		Value:       ver.value,
		ContentType: ver.contentType,
		ID:          "https://" + vaultName + vaultSuffix + "/secrets/" + e.name + "/" + ver.id,
		Attributes: secretAttributes{
			Enabled:         true,
			NotBefore:       unix(ver.notBefore),
			Expires:         unix(ver.expires),
			Created:         modified.Unix(),
			Updated:         modified.Unix(),
			RecoveryLevel:   "Recoverable+Purgeable",
			RecoverableDays: 90,
		},
	}
}

// vaultError is an error of the vault (Azure Key Vault REST API error codes).
type vaultError struct {
	status     int
	code       string
	inner      string // inner code; may be empty
	message    string
	retryAfter time.Duration // zero for no header
}

func (e *vaultError) write(w http.ResponseWriter) {
	if e.retryAfter > 0 {
		// Whole seconds (RFC 9110 section 10.2.3), rounded up: a retry after a shorter wait
		// would fail.
		w.Header().Set("Retry-After", strconv.FormatInt(int64((e.retryAfter+time.Second-1)/time.Second), 10))
	}
	body := map[string]any{"code": e.code, "message": e.message}
	if e.inner != "" {
		body["innererror"] = map[string]string{"code": e.inner}
	}
	writeJSON(w, e.status, map[string]any{"error": body})
}
