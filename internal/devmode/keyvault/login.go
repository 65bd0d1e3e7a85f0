package keyvault

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	// maxTokenRequest limits the body of a token request, in bytes; a client assertion
	// with a certificate chain has a few thousand.
	maxTokenRequest = 64 << 10
	// jwtBearer is the type of a client assertion (RFC 7523 section 2.2).
	jwtBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// serveLogin serves the login authority of one tenant with one application.
func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	tenant, operation, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var serve func(http.ResponseWriter, *http.Request)
	switch r.Method + " " + operation {
	case "GET v2.0/.well-known/openid-configuration":
		serve = s.serveDiscovery
	case "POST oauth2/v2.0/token":
		serve = s.serveToken
	default:
		http.Error(w, "neither a token endpoint nor a vault", http.StatusNotFound)
		return
	}
	if !strings.EqualFold(tenant, s.cfg.TenantID) {
		s.refuse(w, r, loginError{http.StatusBadRequest, 90002, "invalid_tenant", fmt.Sprintf(
			"Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.", tenant)})
		return
	}
	serve(w, r)
}

// serveDiscovery returns the requested host as the issuer, because a client refuses an
// issuer that differs from its authority.
func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	base := "https://" + r.Host + "/" + s.cfg.TenantID
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                base + "/v2.0",
		"authorization_endpoint":                base + "/oauth2/v2.0/authorize",
		"token_endpoint":                        base + "/oauth2/v2.0/token",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"pairwise"},
	})
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxTokenRequest)
	if err := r.ParseForm(); err != nil {
		s.refuse(w, r, loginError{http.StatusBadRequest, 900144, "invalid_request", "The request body is not a form that can be read."})
		return
	}
	if refusal := s.checkTokenRequest(r); refusal != nil {
		s.refuse(w, r, *refusal)
		return
	}
	lifetime := int(tokenLifetime / time.Second)
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type":     "Bearer",
		"expires_in":     lifetime,
		"ext_expires_in": lifetime,
		"access_token":   s.tokens.issue(requestedResource(r)),
	})
}

func (s *Server) checkTokenRequest(r *http.Request) *loginError {
	form := r.PostForm
	if grant := form.Get("grant_type"); grant != "client_credentials" {
		return &loginError{http.StatusBadRequest, 70003, "unsupported_grant_type", "The app requested an unsupported grant type."}
	}
	if !strings.EqualFold(form.Get("client_id"), s.cfg.ClientID) {
		return &loginError{http.StatusBadRequest, 700016, "unauthorized_client", fmt.Sprintf(
			"Application with identifier '%s' was not found in the directory '%s'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.", form.Get("client_id"), s.cfg.TenantID)}
	}
	if refusal := s.checkClient(form.Get("client_secret"), form.Get("client_assertion_type"), form.Get("client_assertion")); refusal != nil {
		return refusal
	}
	if requestedResource(r) == "" {
		return &loginError{http.StatusBadRequest, 500011, "invalid_resource", "The scope does not name a resource principal of this tenant; it has " + resource + " and " + storageResource + "."}
	}
	return nil
}

// requestedResource returns the resource that the scope names, or "".
func requestedResource(r *http.Request) string {
	for _, known := range []string{resource, storageResource} {
		if slices.Contains(strings.Fields(r.PostForm.Get("scope")), known+"/.default") {
			return known
		}
	}
	return ""
}

// checkClient checks the client's proof that it is the application.
func (s *Server) checkClient(clientSecret, assertionType, assertion string) *loginError {
	switch {
	case clientSecret != "":
		if s.cfg.ClientSecret == "" || subtle.ConstantTimeCompare([]byte(clientSecret), []byte(s.cfg.ClientSecret)) != 1 {
			return &loginError{http.StatusUnauthorized, 7000215, "invalid_client", fmt.Sprintf(
				"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", s.cfg.ClientID)}
		}
		return nil
	case assertion != "" && assertionType == jwtBearer:
		return s.checkAssertion(assertion)
	default:
		return &loginError{http.StatusUnauthorized, 7000216, "invalid_client", "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type."}
	}
}

// checkAssertion accepts every unexpired JWT whose issuer or subject is the application. It
// does not verify the signature.
func (s *Server) checkAssertion(assertion string) *loginError {
	malformed := &loginError{http.StatusUnauthorized, 50027, "invalid_client", "JWT token is invalid or malformed."}
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return malformed
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return malformed
	}
	var claims struct {
		Issuer  string  `json:"iss"`
		Subject string  `json:"sub"`
		Expires float64 `json:"exp"` // seconds since 1970, RFC 7519 section 4.1.4
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return malformed
	}
	if !strings.EqualFold(claims.Issuer, s.cfg.ClientID) && !strings.EqualFold(claims.Subject, s.cfg.ClientID) {
		return &loginError{http.StatusUnauthorized, 700213, "invalid_client", "No matching federated identity record found for presented assertion: neither its issuer nor its subject is the application."}
	}
	if claims.Expires <= float64(s.cfg.Now().Unix()) {
		return &loginError{http.StatusUnauthorized, 700024, "invalid_client", "Client assertion is not within its valid time range."}
	}
	return nil
}

// loginError is an error of the login authority. Its number is in the AADSTS code (Microsoft
// Entra authentication and authorization error codes).
type loginError struct {
	status int
	number int
	code   string // the OAuth error, RFC 6749 section 5.2
	text   string
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, e loginError) {
	now := s.cfg.Now().UTC().Format("2006-01-02 15:04:05Z")
	trace, correlation := newUUID(), r.Header.Get("client-request-id")
	if correlation == "" {
		correlation = newUUID()
	}
	writeJSON(w, e.status, map[string]any{
		"error":             e.code,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s", e.number, e.text, trace, correlation, now),
		"error_codes":       []int{e.number},
		"timestamp":         now,
		"trace_id":          trace,
		"correlation_id":    correlation,
		"error_uri":         fmt.Sprintf("https://%s/error?code=%d", r.Host, e.number),
	})
}
