package secretsmanager

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// Server is the fake. It serves STS, Secrets Manager or SQS, depending on the host of a
// request. It is safe for concurrent use and starts no goroutine, so there is nothing to
// close.
type Server struct {
	state atomic.Pointer[State]
	now   func() time.Time
	file  *secretsfile.File[document] // nil if the state is only in memory
	reads atomic.Int64

	mu       sync.Mutex
	sessions map[string]key       // by access key ID
	queues   map[string][]*queued // by region
}

var _ http.Handler = (*Server)(nil)

// New returns a Server with the given state. now returns the time for signatures and
// sessions; nil means time.Now.
func New(state *State, now func() time.Time) (*Server, error) {
	if now == nil {
		now = time.Now
	}
	s := &Server{now: now, sessions: make(map[string]key), queues: make(map[string][]*queued)}
	if err := s.Replace(state); err != nil {
		return nil, fmt.Errorf("secretsmanager: %w", err)
	}
	return s, nil
}

// Replace replaces the state for future requests. Sessions remain valid. The queues get the
// events of what has changed.
func (s *Server) Replace(state *State) error {
	if err := check(state.Regions); err != nil {
		return err
	}
	s.notify(s.state.Swap(state), state)
	return nil
}

// Revoke ends all sessions.
func (s *Server) Revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// Reads returns the number of requests for a value that had a valid signature.
func (s *Server) Reads() int64 { return s.reads.Load() }

// maxBody is the maximum size of a request's body, in bytes.
const maxBody = 64 << 10

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	service, rest, _ := strings.Cut(strings.ToLower(host), ".")
	region, _, _ := strings.Cut(rest, ".")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/" {
		http.Error(w, "the fake accepts only POST /", http.StatusBadRequest)
		return
	}
	if s.file != nil {
		s.file.Look()
	}
	state := s.state.Load()
	switch service {
	case "sts":
		s.serveSTS(w, r, state, region, body)
	case "secretsmanager":
		s.serveSecrets(w, r, state, region, body)
	case "sqs":
		s.serveSQS(w, r, state, region, body)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveSecrets(w http.ResponseWriter, r *http.Request, state *State, name string, body []byte) {
	fault := func(status int, code, message string) {
		answer(w, status, map[string]string{"__type": code, "Message": message + state.ErrorNote})
	}
	signer, code := s.authenticate(r, state, "secretsmanager", name, body)
	if code == "" && signer.role == "" && !state.Identity.Reads {
		code = "AccessDeniedException" // the access key may only assume the role
	}
	if code != "" {
		fault(http.StatusBadRequest, code, invalidSignature)
		return
	}
	operation, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	region := state.Regions[name]
	if region == nil {
		region = &Region{}
	}
	if region.Delay > 0 {
		timer := time.NewTimer(region.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	if operation == "GetSecretValue" {
		s.reads.Add(1)
	}
	switch region.Fault {
	case "throttled":
		fault(http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
		return
	case "unavailable":
		fault(http.StatusServiceUnavailable, "ServiceUnavailableException", "The service is unavailable.")
		return
	}
	var in struct{ SecretId, VersionId, VersionStage string }
	if err := json.Unmarshal(body, &in); err != nil || in.SecretId == "" {
		fault(http.StatusBadRequest, "InvalidParameterException", "SecretId is missing.")
		return
	}
	arn, id, secret := region.find("arn:aws:secretsmanager:"+name+":", state.Identity.account(), in.SecretId)
	switch {
	case secret == nil:
		fault(http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	case secret.Denied:
		fault(http.StatusBadRequest, "AccessDeniedException", "User is not authorized to perform: secretsmanager:"+operation+" because no identity-based policy allows the action")
	case operation == "DescribeSecret":
		secret.describe(w, arn, id)
	case operation != "GetSecretValue":
		fault(http.StatusBadRequest, "UnknownOperationException", "")
	case secret.Deleted:
		fault(http.StatusBadRequest, "InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	default:
		if !secret.serve(w, arn, id, in.VersionId, in.VersionStage) {
			fault(http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret value.")
		}
	}
}

const invalidSignature = "The security token or the signature included in the request is invalid."

// authenticate returns the key that signed the request, or the code of AWS's error.
func (s *Server) authenticate(r *http.Request, state *State, service, region string, body []byte) (signer key, code string) {
	sig, ok := parseSignature(r.Header.Get("Authorization"))
	if !ok {
		return key{}, "MissingAuthenticationTokenException"
	}
	s.mu.Lock()
	signer, known := s.sessions[sig.keyID]
	s.mu.Unlock()
	if id := state.Identity; sig.keyID == id.AccessKeyID {
		signer, known = key{secret: id.SecretAccessKey, token: id.SessionToken}, true
	}
	switch {
	case !known || r.Header.Get("X-Amz-Security-Token") != signer.token:
		return key{}, "UnrecognizedClientException"
	case signer.role != "" && !s.now().Before(signer.ends):
		return key{}, "ExpiredTokenException"
	}
	return signer, sig.verify(r, body, signer.secret, service, region, s.now())
}

// find looks up a secret as AWS does: by its name, its ARN, or its ARN without the suffix.
// Secrets of accounts other than own cannot be found by name.
func (r *Region) find(prefix, own, id string) (arn, name string, s *Secret) {
	for n, other := range r.Secrets {
		account := cmp.Or(other.Account, own)
		begin := prefix + account + ":secret:" + n
		switch full := begin + "-" + other.Suffix; id {
		case full:
			return full, n, other
		case n, begin:
			if id == begin || account == own {
				arn, name, s = full, n, other
			}
		}
	}
	return arn, name, s
}

// serve writes the requested version, and reports whether it exists.
func (s *Secret) serve(w http.ResponseWriter, arn, name, version, stage string) bool {
	if version == "" && stage == "" {
		stage = "AWSCURRENT"
	}
	for i, v := range s.Versions {
		id, stages := VersionID(name, i, v.Value), s.stages(i)
		if version != "" && version != id || stage != "" && !slices.Contains(stages, stage) {
			continue
		}
		out := map[string]any{"ARN": arn, "Name": name, "VersionId": id, "VersionStages": stages, "CreatedDate": 1.8e9}
		if v.Base64 {
			out["SecretBinary"], _ = base64.StdEncoding.DecodeString(v.Value) // check has verified that it decodes
		} else {
			out["SecretString"] = v.Value
		}
		answer(w, http.StatusOK, out)
		return true
	}
	return false
}

func (s *Secret) describe(w http.ResponseWriter, arn, name string) {
	out := map[string]any{"ARN": arn, "Name": name}
	if !s.NextRotation.IsZero() {
		out["RotationEnabled"], out["NextRotationDate"] = true, s.NextRotation.Unix()
	}
	answer(w, http.StatusOK, out)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have disconnected
}
