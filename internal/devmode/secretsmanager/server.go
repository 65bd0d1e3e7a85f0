package secretsmanager

import (
	"encoding/base64"
	"encoding/json"
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

// Identity is who may read: an access key that may assume a role.
type Identity struct {
	AccessKeyID, SecretAccessKey string
	// RoleARN is the role whose sessions read, and ExternalID what its trust policy
	// asks for. The secrets are of the role's account.
	RoleARN, ExternalID string
}

func (id Identity) account() string { return strings.Split(id.RoleARN+":::::", ":")[4] }

// Server is the fake: STS and Secrets Manager by the Host of a request. It is safe
// for concurrent use, starts no goroutine and needs no closing.
type Server struct {
	cfg     Config
	now     func() time.Time
	file    *secretsfile.File[document]
	regions atomic.Pointer[map[string]*Region]
	reads   atomic.Int64

	mu       sync.Mutex
	sessions map[string]session // by access key ID
}

var _ http.Handler = (*Server)(nil)

// Reads is the number of requests for a value that carried a good signature.
func (s *Server) Reads() int64 { return s.reads.Load() }

// maxBody is the most that is read of a request, in bytes.
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
		http.Error(w, "the fake takes POST /", http.StatusBadRequest)
		return
	}
	switch service {
	case "sts":
		s.serveSTS(w, r, region, body)
	case "secretsmanager":
		s.serveSecrets(w, r, region, body)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveSecrets(w http.ResponseWriter, r *http.Request, name string, body []byte) {
	s.file.Look()
	if code := s.authenticate(r, name, body); code != "" {
		fault(w, http.StatusBadRequest, code, "The security token or the signature included in the request is invalid.")
		return
	}
	operation, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	region := (*s.regions.Load())[name]
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
		fault(w, http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
		return
	case "unavailable":
		fault(w, http.StatusServiceUnavailable, "ServiceUnavailableException", "The service is unavailable.")
		return
	}
	var in struct{ SecretId, VersionId, VersionStage string }
	if err := json.Unmarshal(body, &in); err != nil || in.SecretId == "" {
		fault(w, http.StatusBadRequest, "InvalidParameterException", "SecretId is missing.")
		return
	}
	prefix := "arn:aws:secretsmanager:" + name + ":" + s.cfg.Identity.account() + ":secret:"
	id, secret := region.find(prefix, in.SecretId)
	switch {
	case secret == nil:
		fault(w, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	case secret.Denied:
		fault(w, http.StatusBadRequest, "AccessDeniedException", "User is not authorized to perform: secretsmanager:"+operation+" because no identity-based policy allows the action")
	case operation == "DescribeSecret":
		secret.describe(w, prefix, id)
	case operation != "GetSecretValue":
		fault(w, http.StatusBadRequest, "UnknownOperationException", "")
	case secret.Deleted:
		fault(w, http.StatusBadRequest, "InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	default:
		secret.serve(w, prefix, id, in.VersionId, in.VersionStage)
	}
}

// authenticate returns the code of AWS's error unless a session of the role has
// signed the request.
func (s *Server) authenticate(r *http.Request, region string, body []byte) (code string) {
	sig, ok := parseSignature(r.Header.Get("Authorization"))
	if !ok {
		return "MissingAuthenticationTokenException"
	}
	s.mu.Lock()
	ses, known := s.sessions[sig.keyID]
	s.mu.Unlock()
	switch {
	case sig.keyID == s.cfg.Identity.AccessKeyID:
		return "AccessDeniedException" // it may assume the role and do nothing else
	case !known || r.Header.Get("X-Amz-Security-Token") != ses.token:
		return "UnrecognizedClientException"
	case !s.now().Before(ses.ends):
		return "ExpiredTokenException"
	}
	return sig.verify(r, body, ses.key, "secretsmanager", region, s.now())
}

// find looks a secret up as AWS does: by its name, its ARN, or its ARN without the
// suffix.
func (r *Region) find(prefix, id string) (name string, s *Secret) {
	for name, s := range r.Secrets {
		if arn := prefix + name; id == name || id == arn+"-"+s.Suffix {
			return name, s
		}
	}
	if name, ok := strings.CutPrefix(id, prefix); ok {
		return name, r.Secrets[name]
	}
	return "", nil
}

func (s *Secret) serve(w http.ResponseWriter, prefix, name, version, stage string) {
	if version == "" && stage == "" {
		stage = "AWSCURRENT"
	}
	for i, v := range s.Versions {
		id, stages := versionID(name, i), s.stages(i)
		if version != "" && version != id || stage != "" && !slices.Contains(stages, stage) {
			continue
		}
		out := map[string]any{"ARN": prefix + name + "-" + s.Suffix, "Name": name, "VersionId": id, "VersionStages": stages, "CreatedDate": 1.8e9}
		if v.Base64 {
			out["SecretBinary"], _ = base64.StdEncoding.DecodeString(v.Value) // checked
		} else {
			out["SecretString"] = v.Value
		}
		answer(w, http.StatusOK, out)
		return
	}
	fault(w, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret value.")
}

func (s *Secret) describe(w http.ResponseWriter, prefix, name string) {
	out := map[string]any{"ARN": prefix + name + "-" + s.Suffix, "Name": name}
	if !s.NextRotation.IsZero() {
		out["RotationEnabled"], out["NextRotationDate"] = true, s.NextRotation.Unix()
	}
	answer(w, http.StatusOK, out)
}

func fault(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]string{"__type": code, "Message": message})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}
