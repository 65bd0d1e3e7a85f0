// Package vaultkv reads secrets from HashiCorp Vault and OpenBao: KV secrets of both
// versions, and the credentials that other engines generate on request.
//
// It owns everything that is specific to Vault: logins and the token that they
// return, the paths of requests, leases, and the interpretation of responses.
// Authorization, caching and limits on requests belong to its callers.
//
// Tokens (login.go). A token is renewed while it is in use, and replaced by a new
// login when it cannot be renewed. A token from a file cannot be acquired again after
// it has ended, so it is renewed for as long as the store is open, also without
// reads. Vault answers 403 both to an invalid token and to a missing permission, so
// after a 403 the store asks the server about the token before it logs in again.
//
// Leases (lease.go). Each read from an engine other than KV generates a credential in
// the store behind it. To keep their number small, the store keeps a credential whose
// lease can be renewed, returns it to the next read, and renews it while it is read.
// The package keeps no other value.
//
// The package implements the protocol itself. The vendors' client libraries read the
// server's address, tokens, headers, namespaces and TLS settings from the process's
// environment for every client, and the broker serves many integrations in one
// process. The only environment variables that apply here are those of the operator's
// proxy.
package vaultkv

import (
	"context"
	"crypto/tls"
	"net/url"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// closeTimeout limits how long Close waits for the operations that it has
	// canceled.
	closeTimeout = 5 * time.Second
	// maxBody limits the size of a response, in bytes. Vault has no limit for a
	// secret; its storage backends have limits of about this size.
	maxBody = 1 << 20
	// retryPause is the pause before a request is repeated.
	retryPause = 100 * time.Millisecond
)

// Opener returns the provider.Opener of Vault. Opening reads the integration's files
// and sends no request. Its errors name the setting or file to fix.
func Opener(cfg provider.Config) provider.Opener {
	return func(ctx context.Context, in *integration.Integration) (provider.Provider, error) {
		return open(ctx, cfg, in)
	}
}

// store reads one server with one identity.
type store struct {
	cfg    provider.Config
	vault  *Settings
	in     *integration.Integration
	host   string // for error messages
	now    func() time.Time
	client *client
	logins *logins
	leases *leases
	tasks  *task.Group
	denied pollDenials
}

var (
	_ provider.Provider = (*store)(nil)
	_ provider.Keeper   = (*store)(nil)
	_ provider.Peeker   = (*store)(nil)
)

func open(ctx context.Context, cfg provider.Config, in *integration.Integration) (*store, error) {
	v := settingsOf(in)
	if in.Kind != secret.KindHashiCorpVault || v == nil {
		return nil, storeerror.Setup("the integration has no vault settings")
	}
	u, err := url.Parse(v.Address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, storeerror.Setup("vault.address is not the https:// URL of a server")
	}
	cfg = cfg.For(in)
	out := cfg.Egress(in)
	out.Origins, out.PrivateEndpoint, out.MaxBody = []string{egress.Origin(u)}, v.PrivateEndpoint, maxBody
	if v.Dial != "" {
		out.Dial = map[string]string{strings.ToLower(u.Hostname()): v.Dial}
	}
	if out.Roots, err = egress.LoadRoots("vault.ca_file", v.CAFile); err != nil {
		return nil, err
	}
	if v.Auth.Type == Cert {
		if out.Certificate, err = clientCertificate(ctx, in); err != nil {
			return nil, err
		}
	}
	s := &store{
		cfg:    cfg,
		vault:  v,
		in:     in,
		host:   u.Host,
		now:    cfg.Now,
		client: &client{http: egress.NewClient(out), address: v.Address, namespace: v.Namespace},
		tasks:  task.NewGroup(),
	}
	s.leases = newLeases(s.renewInTime)
	s.logins = newLogins(cfg, in, s.client, u.Host, s.tasks)
	return s, nil
}

func clientCertificate(ctx context.Context, in *integration.Integration) (*tls.Certificate, error) {
	const setting = "vault.auth.certificate_file"
	path := settingsOf(in).Auth.CertificateFile
	pem, err := egress.ReadPrivateKey(ctx, in.Stored(setting), setting, path)
	if err != nil {
		return nil, err
	}
	defer clear(pem)
	cert, err := tls.X509KeyPair(pem, pem)
	if err != nil { // its text might quote the file
		return nil, storeerror.Setup("%s: %s does not contain a certificate and its key, in PEM form", setting, egress.CredentialSource(path))
	}
	return &cert, nil
}

// Fetch implements provider.Provider. The value of a KV secret is the JSON object of
// its fields; the value from any other engine is the JSON object that the engine
// returns. Reading from such an engine generates a new credential, unless the lease
// of the last one can still be renewed.
func (s *store) Fetch(ctx context.Context, ref secret.Ref) (*secret.Secret, error) {
	if err := provider.CheckRef(ref, secret.KindHashiCorpVault); err != nil {
		return nil, err
	}
	if ref.Store != s.vault.Address {
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the reference names a server other than vault.address")
	}
	mount, path, ok := s.mountOf(ref.Name)
	switch {
	case !ok:
		return nil, secret.Errorf(secret.ReasonStoreNotAllowed, "the secret is not in any of the integration's mounts; add its mount to vault.mounts")
	case ref.Version != "" && mount.Engine != KV2:
		return nil, secret.Errorf(secret.ReasonInvalidReference, "secrets in this mount have no versions, because its engine is not kv2; leave out the \"#\"")
	}
	if err := s.checkMount(ctx, mount, path); err != nil {
		return nil, err
	}
	switch mount.Engine {
	case KV2:
		query := ""
		if ref.Version != "" {
			query = "version=" + ref.Version
		}
		return s.read(ctx, mount.Path+"/data/"+path, query, func(a *answer, _ *session) (*secret.Secret, error) {
			return a.kv2(s.host, ref.Version, s.now())
		})
	case KV1:
		return s.read(ctx, ref.Name, "", func(a *answer, _ *session) (*secret.Secret, error) { return a.kv1(s.host) })
	default:
		return s.credential(ctx, ref.Name)
	}
}

// mountOf splits a secret's name into one of the integration's mounts and the path
// below it.
func (s *store) mountOf(name string) (mount Mount, path string, ok bool) {
	for _, m := range s.vault.Mounts {
		if path, ok := strings.CutPrefix(name, m.Path+"/"); ok {
			return m, path, true
		}
	}
	return Mount{}, "", false
}

// read reads a path and converts the response to a secret. If the server refuses the
// token, read replaces it and tries again, once.
func (s *store) read(ctx context.Context, path, query string, make func(*answer, *session) (*secret.Secret, error)) (*secret.Secret, error) {
	a, ses, err := s.get(ctx, path, query)
	if err != nil && ses == nil {
		return nil, err
	}
	if isDenied(err) && ses.unproven {
		return nil, storeerror.Setup("Vault %s refuses the token in vault.auth.token_file, both for the secret and for a token lookup: the token has expired or is not valid; replace it", s.host)
	}
	if err != nil {
		return nil, explainRead(ctx, s.host, err)
	}
	defer a.wipe()
	return make(a, ses)
}

// get requests a path with the session that it returns. If there is none, the error is a
// *secret.Error.
func (s *store) get(ctx context.Context, path, query string) (*answer, *session, error) {
	ses, err := s.logins.session(ctx)
	if err != nil {
		return nil, nil, err
	}
	a, err := s.client.read(ctx, ses.token, path, query)
	if !isDenied(err) || !s.logins.refuses(ctx, ses) {
		return a, ses, err
	}
	if ses, err = s.logins.session(ctx); err != nil {
		return nil, nil, err
	}
	a, err = s.client.read(ctx, ses.token, path, query)
	return a, ses, err
}

// Keeps reports whether the integration uses a Vault token from a file. Such a token
// cannot be acquired again after it has ended. It is a provider.SetConfig.Keeps.
func Keeps(in *integration.Integration) bool {
	return settingsOf(in) != nil && settingsOf(in).Auth.Type == Token
}

// Keep implements provider.Keeper.
func (s *store) Keep() { s.logins.held.Begin() }

// Close implements provider.Provider. It does not revoke leases: the callers that
// have received the credentials may use them until they end.
func (s *store) Close() error {
	s.logins.held.Close()
	err := s.tasks.Stop(closeTimeout)
	s.leases.release()
	s.client.http.CloseIdleConnections()
	return err
}
