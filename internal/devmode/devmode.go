package devmode

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
)

// The names of the samples.
const (
	IntegrationID = "cspi-sqlserver"
	VaultURL      = "https://" + sampleVaultHost

	sampleVaultHost = "your-key-vault-name.vault.azure.net"
	noRoleVaultHost = "no-role-key-vault.vault.azure.net"
	tenantID        = "8d3f6a52-1c0b-4a7e-9f25-6b1e0c9d4a10"
	clientID        = "c2a97b14-5e6d-4f38-8b0a-73d5e1f2a649"
)

// The defaults of Options.
const (
	DefaultDir         = ".secretbroker"
	DefaultListen      = "127.0.0.1:8443"
	DefaultAdminListen = "127.0.0.1:8081"
	DefaultVaultListen = "127.0.0.1:8444"
)

// closeTimeout limits the time that Close waits for active requests.
const closeTimeout = time.Second

// Options configures Start. The zero Options is valid.
type Options struct {
	// Dir is the folder for all files; DefaultDir if empty. Start creates it with access
	// for its owner only (0700). It does not change the mode of an existing folder, and
	// refuses one in which other users can write.
	Dir string
	// Listen and AdminListen are the broker's addresses, which Start writes to
	// secretbroker.yaml; DefaultListen and DefaultAdminListen if empty. Start refuses addresses
	// that other machines can reach, unless InsecureListen is set.
	Listen, AdminListen string
	// InsecureListen allows addresses that other machines can reach.
	InsecureListen bool
	// VaultListen is the loopback address of the embedded Key Vault. If it is empty or has
	// port 0, Start uses the address that an existing integration file dials, or else
	// DefaultVaultListen or a free port.
	VaultListen string
	// GoogleCloud adds an embedded Secret Manager of Google Cloud at the Key Vault's
	// address, with its own integration and sample secrets.
	GoogleCloud bool
	// AWS adds an embedded Secrets Manager of AWS in the same way.
	AWS bool
	// LocalFiles adds an integration with files of the machine, and a sample.
	LocalFiles bool
	// Logger gets the messages of the embedded stores. Nil discards them.
	Logger *slog.Logger
	// Now is the clock for the certificates and the Key Vault's tokens. Nil is
	// time.Now.
	Now func() time.Time
}

// Identity is a client certificate of the throwaway CA, in files.
type Identity struct {
	CertFile, KeyFile string
	// ID is the SPIFFE ID in the certificate.
	ID string
}

// Environment is the result of Start. Its fields are paths below Options.Dir and addresses.
// Callers must not change them.
type Environment struct {
	Dir string
	// ConfigFile is secretbroker.yaml. Every Start overwrites it.
	ConfigFile string
	// IntegrationID is the id of the integration in IntegrationFile. The file is written
	// once; the user may edit it.
	IntegrationID, IntegrationFile string
	// SecretsFile contains the secrets of the embedded Key Vault. It is written once; the
	// user may edit it at any time.
	SecretsFile string
	// ClientSecretFile is the broker's credential for the embedded Key Vault. Every Start
	// replaces it.
	ClientSecretFile string
	// CAFile contains the root of the broker's and its clients' certificates,
	// KeyVaultCAFile that of the embedded Key Vault's.
	CAFile, KeyVaultCAFile string
	// ServerCertFile and ServerKeyFile are the broker's certificate, for localhost and the
	// loopback addresses.
	ServerCertFile, ServerKeyFile string
	// Google is set with Options.GoogleCloud, AWS with Options.AWS.
	Google *Google
	AWS    *AWS
	// Local is set with Options.LocalFiles, if references can name the folder.
	Local *Local
	// Worker may read the samples, OtherWorker has no grant, Auditor may read integrations
	// and request explanations of decisions, and Owner owns all integrations.
	Worker, OtherWorker, Auditor, Owner Identity
	// Listen and AdminListen are the addresses in ConfigFile. VaultListen is the actual
	// address of the embedded Key Vault.
	Listen, AdminListen, VaultListen string
	// KeyVault gives access to the embedded Key Vault's counter of reads.
	KeyVault *keyvault.Server

	http   *http.Server
	cancel context.CancelFunc
	served chan struct{} // closed when the serving goroutine ends
}

// Start writes the folder and serves the embedded stores until Close. ctx limits the
// duration of Start only.
//
// If Start fails, it leaves nothing running. It listens before it writes any file, so that a
// second Start in the folder of a running environment fails without replacing its
// certificates.
func Start(ctx context.Context, opts Options) (*Environment, error) {
	if err := ctx.Err(); err != nil { // listening on an IP address ignores ctx
		return nil, fmt.Errorf("devmode: %w", err)
	}
	opts = opts.withDefaults()
	env := newEnvironment(opts)
	if err := checkReach(opts); err != nil {
		return nil, fmt.Errorf("devmode: %w", err)
	}
	for _, dir := range []string{env.Dir, filepath.Dir(env.IntegrationFile)} {
		if err := checkOwned(dir); err != nil {
			return nil, fmt.Errorf("devmode: %w", err)
		}
	}
	ln, err := env.listen(ctx, opts.VaultListen)
	if err != nil {
		return nil, fmt.Errorf("devmode: %w", err)
	}
	env.VaultListen = ln.Addr().String()
	if err := env.prepare(opts, ln); err != nil {
		return nil, fmt.Errorf("devmode: %w", errors.Join(err, ln.Close()))
	}
	return env, nil
}

// prepare writes the files and then starts to serve. It does not fail after that.
func (env *Environment) prepare(opts Options, ln net.Listener) error {
	if err := os.MkdirAll(filepath.Dir(env.IntegrationFile), 0o700); err != nil {
		return err
	}
	vaultCert, err := env.writeCertificates(opts.Now())
	if err != nil {
		return err
	}
	clientSecret := rand.Text() + rand.Text()
	if err := env.writeSettings(clientSecret); err != nil {
		return err
	}
	env.KeyVault, err = keyvault.New(keyvault.Config{
		SecretsFile:  env.SecretsFile,
		Logger:       opts.Logger,
		Now:          opts.Now,
		TenantID:     tenantID,
		ClientID:     clientID,
		ClientSecret: clientSecret,
	})
	if err != nil {
		return err
	}
	if opts.LocalFiles {
		if err := env.addLocal(opts); err != nil {
			return err
		}
	}
	handler := http.Handler(env.KeyVault)
	if opts.GoogleCloud {
		if handler, err = env.addGoogle(opts); err != nil {
			return err
		}
	}
	if opts.AWS {
		if handler, err = env.addAWS(opts, handler); err != nil {
			return err
		}
	}
	env.serve(ln, vaultCert, opts.Logger, handler)
	return nil
}

func (env *Environment) serve(ln net.Listener, cert tls.Certificate, log *slog.Logger, handler http.Handler) {
	base, cancel := context.WithCancel(context.Background())
	env.cancel = cancel
	env.served = make(chan struct{})
	env.http = &http.Server{
		Handler:           handler,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// These are errors of connections, which the clients report as well. A broker that stops
		// interrupts its requests.
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return base },
	}
	go func() {
		defer close(env.served)
		if err := env.http.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the embedded Key Vault stopped; start again", "error", err)
		}
	}()
}

// Close stops the embedded stores and waits for their end. It leaves the files. It may be
// called more than once.
func (env *Environment) Close() error {
	env.cancel() // ends simulated delays
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := env.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = env.http.Close() // not an error: a client may keep its connection open
	}
	<-env.served
	if err != nil {
		return fmt.Errorf("devmode: stop the embedded Key Vault: %w", err)
	}
	return nil
}

func (o Options) withDefaults() Options {
	orElse := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	orElse(&o.Dir, DefaultDir)
	orElse(&o.Listen, DefaultListen)
	orElse(&o.AdminListen, DefaultAdminListen)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func newEnvironment(opts Options) *Environment {
	in := func(name ...string) string { return filepath.Join(append([]string{opts.Dir}, name...)...) }
	identity := func(name, id string) Identity {
		return Identity{CertFile: in(name + ".pem"), KeyFile: in(name + "-key.pem"), ID: id}
	}
	return &Environment{
		Dir:              opts.Dir,
		ConfigFile:       in("secretbroker.yaml"),
		IntegrationID:    IntegrationID,
		IntegrationFile:  in("integrations", IntegrationID+".yaml"),
		SecretsFile:      in("secrets.yaml"),
		ClientSecretFile: in("client-secret.txt"),
		CAFile:           in("ca.pem"),
		KeyVaultCAFile:   in("keyvault-ca.pem"),
		ServerCertFile:   in("server.pem"),
		ServerKeyFile:    in("server-key.pem"),
		Worker:           identity("worker", "spiffe://example.org/connect/worker-1"),
		OtherWorker:      identity("other-worker", "spiffe://example.org/other/worker-2"),
		Auditor:          identity("auditor", "spiffe://example.org/ops/auditor"),
		Owner:            identity("owner", "spiffe://example.org/admin/owner"),
		Listen:           opts.Listen,
		AdminListen:      opts.AdminListen,
	}
}
