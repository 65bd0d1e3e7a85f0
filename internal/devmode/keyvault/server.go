package keyvault

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsfile"
)

// vaultSuffix is the suffix of a vault's host, and resource is the audience of a token for
// vaults: those of Azure's public cloud.
const (
	vaultSuffix = ".vault.azure.net"
	resource    = "https://vault.azure.net"
)

// Config configures a Server.
type Config struct {
	// SecretsFile is the YAML file with the vaults and their secrets:
	//
	//	vaults:
	//	  my-vault:
	//	    fault: throttled     # or forbidden, unavailable; none by default
	//	    retry_after: 2s      # sent with throttled and unavailable; not sent by default
	//	    delay: 30ms          # before every answer; none by default
	//	    secrets:
	//	      db-secret:
	//	        value: '{"user":"dbadmin","password":"..."}'
	//	        content_type: application/json
	//	        enabled: true                     # the default
	//	        not_before: 2027-01-01T00:00:00Z  # sent to clients, not enforced
	//	        expires: 2028-01-01T00:00:00Z     # sent to clients, not enforced
	//	        deleted: false                    # true: soft-deleted
	//	        previous: []                      # older versions, newest first, each
	//	                                          # with the fields value to expires
	//
	// The Server checks it on every request and reads it again if it has changed. While
	// it cannot be read or is invalid, the Server uses the last valid content.
	SecretsFile string
	// Logger gets changes of and problems with the file, never its content. Nil discards
	// them.
	Logger *slog.Logger
	// Now is the clock for the validity of tokens. Nil is time.Now.
	Now func() time.Time
	// TenantID and ClientID are the only tenant and application of the login authority.
	// Both are required.
	TenantID, ClientID string
	// ClientSecret is the application's secret. If it is empty, only client assertions are
	// accepted.
	ClientSecret string
}

// Server is the fake: a vault for each host NAME.vault.azure.net, a queue of Azure Storage on
// QueueHost, and the login authority for every other host. It is safe for concurrent use and starts no goroutine, so there is
// nothing to close.
type Server struct {
	cfg    Config
	tokens *tokens
	queue  *queue
	file   *secretsfile.File[fileDoc]
	vaults atomic.Pointer[map[string]*vault]
	reads  atomic.Int64
}

var _ http.Handler = (*Server)(nil)

// New reads the secrets file and returns a Server that serves it. If the file is invalid, the
// error has the position and quotes no value.
func New(cfg Config) (*Server, error) {
	if cfg.TenantID == "" || cfg.ClientID == "" {
		return nil, errors.New("keyvault: TenantID and ClientID are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, tokens: newTokens(cfg.Now), queue: &queue{now: cfg.Now}}
	s.file = &secretsfile.File[fileDoc]{Path: cfg.SecretsFile, Store: "Key Vault", Logger: cfg.Logger, Use: s.use}
	if err := s.file.Open(); err != nil {
		return nil, fmt.Errorf("keyvault: %w", err)
	}
	return s, nil
}

// use replaces the vaults with those of a document.
func (s *Server) use(doc *fileDoc) error {
	info, err := os.Stat(s.cfg.SecretsFile)
	if err != nil {
		return err
	}
	vaults, err := checkState(doc, info.ModTime())
	if err != nil {
		return err
	}
	if before := s.vaults.Swap(&vaults); before != nil {
		s.notify(*before, vaults)
	}
	return nil
}

// Reads returns the number of requests for a secret with a valid token, whatever their
// result: the requests that the real store would count towards its limits.
func (s *Server) Reads() int64 { return s.reads.Load() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(host)
	name, isVault := strings.CutSuffix(host, vaultSuffix)
	switch {
	case isVault:
		s.serveVault(w, r, name)
	case strings.HasSuffix(host, queueSuffix):
		s.serveQueue(w, r, host)
	default:
		s.serveLogin(w, r)
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(status)
	// Encode fails only if the connection does, so there is no client to report it to.
	_ = json.NewEncoder(w).Encode(body)
}

// newUUID returns a random UUID, version 4 (RFC 9562).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // rand.Read never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
