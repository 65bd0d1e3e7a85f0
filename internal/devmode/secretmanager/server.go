package secretmanager

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// The hosts of the fake.
const (
	globalHost = "secretmanager.googleapis.com"
	oauthHost  = "oauth2.googleapis.com"
	stsHost    = "sts.googleapis.com"
	iamHost    = "iamcredentials.googleapis.com"
)

// Server is the fake: Secret Manager, Pub/Sub and the token endpoints by the host of a request,
// and the metadata server for every other host. It is safe for concurrent use and starts no
// goroutine, so there is nothing to close.
type Server struct {
	state  atomic.Pointer[State]
	tokens tokens
	now    func() time.Time
	reads  atomic.Int64
	file   *secretsfile.File[document] // nil if the state is only in memory
	queues queues
}

var _ http.Handler = (*Server)(nil)

// New returns a Server with the given state. now is the clock for the validity of tokens; nil
// is time.Now.
func New(state *State, now func() time.Time) (*Server, error) {
	if now == nil {
		now = time.Now
	}
	s := &Server{now: now}
	s.tokens.now = now
	if err := s.Replace(state); err != nil {
		return nil, err
	}
	return s, nil
}

// Replace replaces the state for future requests, and sends notifications of the changes to the
// subscriptions.
func (s *Server) Replace(state *State) error {
	if err := state.check(); err != nil {
		return fmt.Errorf("secretmanager: %w", err)
	}
	if before := s.state.Swap(state); before != nil {
		s.queues.publish(state.Subscriptions, s.now(), notifications(before, state, s.now()))
	}
	return nil
}

// Reads returns the number of access requests with a valid token, whatever their result: the
// requests that the real store would count towards its quota.
func (s *Server) Reads() int64 { return s.reads.Load() }

// Issued returns the number of access tokens issued so far.
func (s *Server) Issued() int64 { return s.tokens.issued.Load() }

// Revoke invalidates every token issued so far.
func (s *Server) Revoke() { s.tokens.revoke() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(host)
	if s.file != nil {
		s.file.Look()
	}
	state := s.state.Load()
	location, regional := strings.CutPrefix(host, "secretmanager.")
	location, rep := strings.CutSuffix(location, ".rep.googleapis.com")
	switch {
	case host == globalHost:
		s.access(w, r, state, "")
	case regional && rep:
		s.access(w, r, state, location)
	case host == oauthHost:
		s.serveOAuth(w, r, state)
	case host == stsHost:
		s.serveSTS(w, r, state)
	case host == iamHost:
		s.serveIAM(w, r, state)
	case host == pubsubHost:
		s.servePubSub(w, r, state)
	default:
		s.serveMetadata(w, r, state)
	}
}

var accessPath = regexp.MustCompile(`^/v1/projects/([^/]+)(?:/locations/([^/]+))?/secrets/([^/]+)/versions/([^/:]+):access$`)

// access serves secrets.versions.access at the endpoint of a location; "" is the global one.
func (s *Server) access(w http.ResponseWriter, r *http.Request, state *State, endpoint string) {
	m := accessPath.FindStringSubmatch(r.URL.Path)
	if r.Method != http.MethodGet || m == nil {
		writeError(w, apiFault{http.StatusNotFound, "NOT_FOUND", "Method not found.", "", nil})
		return
	}
	who, fault := s.authenticate(r, state)
	if fault != nil {
		writeError(w, *fault)
		return
	}
	s.reads.Add(1)
	project, location, name, version := state.project(m[1]), m[2], m[3], m[4]
	if project != nil && project.Delay > 0 {
		wait := time.NewTimer(project.Delay)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
			return
		}
	}
	if location != endpoint {
		writeError(w, apiFault{http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid resource location for this endpoint.", "", nil})
		return
	}
	resource := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v1/"), ":access")
	denied := apiFault{http.StatusForbidden, "PERMISSION_DENIED",
		"Permission 'secretmanager.versions.access' denied for resource '" + resource + "' (or it may not exist).", "IAM_PERMISSION_DENIED", nil}
	if project == nil {
		writeError(w, denied)
		return
	}
	if fault := project.simulated(); fault != nil {
		writeError(w, *fault)
		return
	}
	secrets := project.Secrets
	parent := "projects/" + project.Number
	if location != "" {
		secrets = project.Locations[location]
		parent += "/locations/" + location
	}
	secret := secrets[name]
	if !slices.Contains(project.Readers, who) && (secret == nil || !slices.Contains(secret.Readers, who)) {
		writeError(w, denied)
		return
	}
	parent += "/secrets/" + name
	if secret == nil || len(secret.Versions) == 0 {
		writeError(w, apiFault{http.StatusNotFound, "NOT_FOUND", "Secret [" + parent + "] not found or has no versions.", "", nil})
		return
	}
	writeVersion(w, parent, secret, version)
}

func writeVersion(w http.ResponseWriter, parent string, secret *Secret, version string) {
	n := secret.number(version)
	full := parent + "/versions/" + strconv.Itoa(n)
	if n == 0 {
		writeError(w, apiFault{http.StatusNotFound, "NOT_FOUND", "Secret Version [" + parent + "/versions/" + version + "] not found.", "", nil})
		return
	}
	v := secret.Versions[n-1]
	if state := v.state(); state != "ENABLED" {
		writeError(w, apiFault{http.StatusBadRequest, "FAILED_PRECONDITION", "Secret Version [" + full + "] is in " + state + " state.", "", nil})
		return
	}
	payload, _ := v.payload() // check has decoded it before
	type data struct {
		Data       []byte `json:"data,omitempty"`
		DataCrc32c string `json:"dataCrc32c"`
	}
	sum := crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))
	writeJSON(w, http.StatusOK, map[string]any{"name": full, "payload": data{payload, strconv.FormatUint(uint64(sum), 10)}})
}

// simulated returns the project's simulated fault with the real service's texts.
func (p *Project) simulated() *apiFault {
	var details []any
	if p.RetryAfter > 0 {
		details = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": strconv.FormatFloat(p.RetryAfter.Seconds(), 'f', -1, 64) + "s"}}
	}
	consumer := "project_number:" + p.Number
	switch p.Fault {
	case "throttled":
		return &apiFault{http.StatusTooManyRequests, "RESOURCE_EXHAUSTED",
			"Quota exceeded for quota metric 'Access requests' and limit 'Access requests per minute' of service 'secretmanager.googleapis.com' for consumer '" + consumer + "'.",
			"RATE_LIMIT_EXCEEDED", details}
	case "unavailable":
		return &apiFault{http.StatusServiceUnavailable, "UNAVAILABLE", "The service is currently unavailable.", "", details}
	case "api_disabled":
		return &apiFault{http.StatusForbidden, "PERMISSION_DENIED",
			"Secret Manager API has not been used in project " + p.Number + " before or it is disabled.", "SERVICE_DISABLED", nil}
	case "perimeter":
		return &apiFault{http.StatusForbidden, "PERMISSION_DENIED",
			"Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: 0123456789", "SECURITY_POLICY_VIOLATED", nil}
	default:
		return nil
	}
}

// apiFault is an error of a Google API (AIP-193).
type apiFault struct {
	http          int
	code, message string
	reason        string // of the ErrorInfo; "" for none
	details       []any
}

func writeError(w http.ResponseWriter, f apiFault) {
	details := f.details
	if f.reason != "" {
		details = append([]any{map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": f.reason, "domain": "googleapis.com"}}, details...)
	}
	body := map[string]any{"code": f.http, "message": f.message, "status": f.code}
	if len(details) > 0 {
		body["details"] = details
	}
	writeJSON(w, f.http, map[string]any{"error": body})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Cache-Control", "private")
	w.WriteHeader(status)
	// Encode fails only if the connection does, so there is no client to report it to.
	_ = json.NewEncoder(w).Encode(body)
}
