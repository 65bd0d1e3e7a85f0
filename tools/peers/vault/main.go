// Command vault is a HashiCorp Vault server for tests: the vendor's own core and HTTP
// handler, with storage in memory, initialised and unsealed. When it is ready, it prints
// one line of JSON, {"address": ..., "root_token": ...}. It exits when its standard input
// is closed. Its certificate, its key and the authority of client certificates are PEM
// files. Without an authority, it accepts any client certificate, or none.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	log "github.com/hashicorp/go-hclog"
	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	kubeauth "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/helper/testhelpers/corehelpers"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	certFile := flag.String("cert", "", "the certificate, PEM")
	keyFile := flag.String("key", "", "its key, PEM")
	clientCAFile := flag.String("client-ca", "", "the authority of client certificates, PEM")
	flag.Parse()
	if err := run(*certFile, *keyFile, *clientCAFile); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run(certFile, keyFile, clientCAFile string) error {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	// The auth method cert verifies client certificates.
	clientAuth, clientCAs := tls.RequestClientCert, x509.NewCertPool()
	if clientCAFile != "" {
		data, err := os.ReadFile(clientCAFile)
		if err != nil {
			return err
		}
		if !clientCAs.AppendCertsFromPEM(data) {
			return fmt.Errorf("%s: no certificates", clientCAFile)
		}
		clientAuth = tls.RequireAndVerifyClientCert
	}
	core, root, err := newCore(context.Background())
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{certificate},
		MinVersion:   tls.VersionTLS12,
		ClientAuth:   clientAuth,
		ClientCAs:    clientCAs,
		NextProtos:   []string{"h2", "http/1.1"},
	})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:           core,
		ListenerConfig: &configutil.Listener{},
	})}
	core.SetClusterHandler(server.Handler)
	go func() { // standard input is closed when the parent process exits
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{
		"address": listener.Addr().(*net.TCPAddr).String(), "root_token": root,
	}); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return core.Shutdown()
}

func newCore(ctx context.Context) (core *vault.Core, root string, err error) {
	logger := log.New(&log.LoggerOptions{Level: log.Warn, Output: os.Stderr})
	storage, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, "", err
	}
	core, err = vault.NewCore(&vault.CoreConfig{
		Physical:      storage,
		AuditBackends: map[string]audit.Factory{"file": audit.NewFileBackend},
		LogicalBackends: map[string]logical.Factory{
			"kv": kv.Factory, "credentials": newEngine,
		},
		CredentialBackends: map[string]logical.Factory{
			"approle": approle.Factory, "cert": cert.Factory, "jwt": jwtauth.Factory, "kubernetes": kubeauth.Factory,
		},
		BuiltinRegistry: corehelpers.NewMockBuiltinRegistry(),
		DisableMlock:    true,
		Logger:          logger,
	})
	if err != nil {
		return nil, "", err
	}
	result, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig:    &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig:   &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		LegacyShamirSeal: true,
	})
	if err != nil {
		return nil, "", err
	}
	if ok, err := core.Unseal(vault.TestKeyCopy(result.SecretShares[0])); err != nil || !ok {
		return nil, "", fmt.Errorf("unsealing: %v, %w", ok, err)
	}
	return core, result.RootToken, nil
}
