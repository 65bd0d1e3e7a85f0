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

// vaultSuffix is what follows a vault's name in its host, and resource is what
// a token for a vault is issued for: those of Azure's public cloud.
const (
	vaultSuffix = ".vault.azure.net"
	resource    = "https://vault.azure.net"
)

// Config is what a Server is made of.
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
	//	        not_before: 2027-01-01T00:00:00Z  # told to clients, not enforced
	//	        expires: 2028-01-01T00:00:00Z     # told to clients, not enforced
	//	        deleted: false                    # true: soft-deleted
	//	        previous: []                      # older versions, newest first, each
	//	                                          # with the fields value to expires
	//
	// It is looked at on every request and read again when it has changed. While
	// it cannot be read or has a fault, the last good state is served.
	SecretsFile string
	// Logger gets changes and faults of the file, never what is in
	// it. Nil is silent.
	Logger *slog.Logger
	// Now is the clock for the validity of tokens. Nil is time.Now.
	Now func() time.Time
	// TenantID and ClientID name the one tenant and the one application that the
	// login authority knows. Both are required.
	TenantID, ClientID string
	// ClientSecret is the application's secret. Empty means that it has none:
	// then only client assertions are accepted.
	ClientSecret string
}

// Server is the fake: a vault for each NAME.vault.azure.net in a request's Host,
// the login authority for every other. It is safe for concurrent use, starts no
// goroutine and needs no closing.
type Server struct {
	cfg    Config
	tokens *tokens
	file   *secretsfile.File[fileDoc]
	vaults atomic.Pointer[map[string]*vault]
	reads  atomic.Int64
}

var _ http.Handler = (*Server)(nil)

// New reads the secrets file and returns a Server that serves it. A fault in the
// file is an error that gives its position and quotes no value.
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
	s := &Server{cfg: cfg, tokens: newTokens(cfg.Now)}
	s.file = &secretsfile.File[fileDoc]{Path: cfg.SecretsFile, Store: "Key Vault", Logger: cfg.Logger, Use: s.use}
	if err := s.file.Open(); err != nil {
		return nil, fmt.Errorf("keyvault: %w", err)
	}
	return s, nil
}

// use serves the vaults of a document.
func (s *Server) use(doc *fileDoc) error {
	info, err := os.Stat(s.cfg.SecretsFile)
	if err != nil {
		return err
	}
	vaults, err := checkState(doc, info.ModTime())
	if err != nil {
		return err
	}
	s.vaults.Store(&vaults)
	return nil
}

// Reads is the number of requests for a secret that carried a valid token,
// whatever their result: the real store would count them towards its limits.
func (s *Server) Reads() int64 { return s.reads.Load() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if name, ok := strings.CutSuffix(strings.ToLower(host), vaultSuffix); ok {
		s.serveVault(w, r, name)
		return
	}
	s.serveLogin(w, r)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(status)
	// Only the connection can fail here, and there is no one left to tell.
	_ = json.NewEncoder(w).Encode(body)
}

// newUUID returns a random UUID, version 4 (RFC 9562).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
