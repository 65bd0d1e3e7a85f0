package secretmanager

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lifetime is the lifetime of a token.
const lifetime = time.Hour

// tokens are the issued access tokens.
type tokens struct {
	now    func() time.Time
	issued atomic.Int64

	mu   sync.Mutex
	live map[string]issued
}

type issued struct {
	who     string
	expires time.Time
}

func (t *tokens) issue(who string) (text string, expires time.Time) {
	t.issued.Add(1)
	text, expires = "ya29."+rand.Text()+rand.Text(), t.now().Add(lifetime)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live == nil {
		t.live = make(map[string]issued)
	}
	for old, i := range t.live {
		if !t.now().Before(i.expires) {
			delete(t.live, old)
		}
	}
	t.live[text] = issued{who, expires}
	return text, expires
}

func (t *tokens) revoke() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live = nil
}

// holder returns the account that a token was issued for, "" if there is none.
func (t *tokens) holder(text string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.live[text]
	if !ok || !t.now().Before(i.expires) {
		return ""
	}
	return i.who
}

// authenticate returns the account that makes the request.
func (s *Server) authenticate(r *http.Request, state *State) (who string, _ *apiFault) {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", &apiFault{http.StatusUnauthorized, "UNAUTHENTICATED", "Request is missing required authentication credential.", "CREDENTIALS_MISSING", nil}
	}
	who = s.tokens.holder(text)
	if who == "" {
		return "", &apiFault{http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.", "ACCESS_TOKEN_EXPIRED", nil}
	}
	if a := state.ServiceAccounts[who]; a != nil && a.Disabled {
		return "", &apiFault{http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.", "ACCOUNT_STATE_INVALID", nil}
	}
	return who, nil
}

// serveOAuth issues tokens for assertions of service accounts (RFC 7523).
func (s *Server) serveOAuth(w http.ResponseWriter, r *http.Request, state *State) {
	if r.Method != http.MethodPost || r.URL.Path != "/token" || r.ParseForm() != nil {
		http.NotFound(w, r)
		return
	}
	if r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "unsupported_grant_type", "error_description": "Invalid grant_type"})
		return
	}
	who, fault := s.verify(r.PostForm.Get("assertion"), state)
	if fault != "" {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": fault})
		return
	}
	text, _ := s.tokens.issue(who)
	writeJSON(w, http.StatusOK, map[string]any{"access_token": text, "expires_in": int(lifetime.Seconds()), "token_type": "Bearer"})
}

// verify returns the service account that issued the assertion jws, or the error text of the
// real service.
func (s *Server) verify(jws string, state *State) (who, fault string) {
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		return "", "Invalid JWT: Failed audience check."
	}
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	var claims struct {
		Iss, Aud, Scope string
		Iat, Exp        int64
	}
	if json.Unmarshal(raw, &claims) != nil {
		return "", "Invalid JWT."
	}
	a := state.ServiceAccounts[claims.Iss]
	if a == nil || a.Disabled {
		return "", "Invalid grant: account not found"
	}
	block, _ := pem.Decode([]byte(a.PublicKeyPEM))
	if block == nil {
		return "", "Invalid JWT Signature."
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, ok := parsed.(*rsa.PublicKey)
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	switch {
	case err != nil, !ok, rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) != nil:
		return "", "Invalid JWT Signature."
	case claims.Aud != "https://"+oauthHost+"/token":
		return "", "Invalid JWT: Failed audience check."
	case claims.Scope == "":
		return "", "Invalid OAuth scope or ID token audience provided."
	case claims.Exp-claims.Iat > 3610 || s.now().Unix() > claims.Exp:
		return "", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
	}
	return claims.Iss, ""
}

// serveSTS exchanges tokens of other identity providers (RFC 8693).
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, state *State) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/token" || r.ParseForm() != nil {
		http.NotFound(w, r)
		return
	}
	who := state.SubjectTokens[r.PostForm.Get("subject_token")]
	if who == "" || r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" ||
		!strings.HasPrefix(r.PostForm.Get("audience"), "//iam.googleapis.com/projects/") {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "The token is not valid for the configured provider."})
		return
	}
	text, _ := s.tokens.issue(who)
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": text, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"token_type": "Bearer", "expires_in": int(lifetime.Seconds()),
	})
}

// serveIAM serves projects.serviceAccounts.generateAccessToken.
func (s *Server) serveIAM(w http.ResponseWriter, r *http.Request, state *State) {
	account, ok := strings.CutPrefix(r.URL.Path, "/v1/projects/-/serviceAccounts/")
	account, ok2 := strings.CutSuffix(account, ":generateAccessToken")
	var body struct {
		Scope    []string `json:"scope"`
		Lifetime string   `json:"lifetime"`
	}
	if !ok || !ok2 || r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&body) != nil || len(body.Scope) == 0 {
		writeError(w, apiFault{http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.", "", nil})
		return
	}
	who, fault := s.authenticate(r, state)
	if fault != nil {
		writeError(w, *fault)
		return
	}
	a := state.ServiceAccounts[account]
	if a == nil || a.Disabled || !slices.Contains(a.TokenCreators, who) {
		writeError(w, apiFault{http.StatusForbidden, "PERMISSION_DENIED",
			"Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).", "IAM_PERMISSION_DENIED", nil})
		return
	}
	text, expires := s.tokens.issue(account)
	writeJSON(w, http.StatusOK, map[string]string{"accessToken": text, "expireTime": expires.UTC().Format(time.RFC3339)})
}

// serveMetadata serves the token of the machine's service account.
func (s *Server) serveMetadata(w http.ResponseWriter, r *http.Request, state *State) {
	w.Header().Set("Metadata-Flavor", "Google")
	switch {
	case r.Header.Get("Metadata-Flavor") != "Google":
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
	case r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" || state.Machine == "":
		http.NotFound(w, r)
	default:
		text, _ := s.tokens.issue(state.Machine)
		writeJSON(w, http.StatusOK, map[string]any{"access_token": text, "expires_in": int(lifetime.Seconds()), "token_type": "Bearer"})
	}
}
