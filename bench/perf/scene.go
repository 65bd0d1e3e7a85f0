package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

const (
	stored = 500 // secrets in the Key Vault
	staff  = 40  // callers with permanent connections
	// names is the integration whose secrets are files, of which the events create new
	// ones.
	names = "names"
)

// scene is the environment of churn: a broker, its stores and integrations, and its callers.
type scene struct {
	world  *testbed.World
	broker *testbed.Process
	conns  []*grpc.ClientConn // of callers with permanent connections
	other  *grpc.ClientConn   // of a caller without grants
	made   atomic.Int64       // names so far

	mu       sync.Mutex // guards the files
	versions [stored]int
	changes  int
}

func newScene(ctx context.Context, binary, cpus string, ttl time.Duration) (_ *scene, err error) {
	s := &scene{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.world, err = testbed.NewWorld(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Mkdir(s.path(names), 0o700), s.writeSecrets(), s.writeIntegrations()); err != nil {
		return nil, err
	}
	if binary == "" {
		if binary, err = testbed.Build(ctx, s.world.Dir(), "cmd/secretbroker", "-trimpath"); err != nil {
			return nil, err
		}
	}
	// A cache that is too small for the new names.
	config, err := s.world.Config("churn.yaml", fmt.Sprintf("cache: {ttl: %v, max_bytes: 4MiB}\nlimits: {max_calls_per_second_per_principal: 100000}", ttl))
	if err != nil {
		return nil, err
	}
	if s.broker, err = testbed.Start(cpus, nil, binary, "serve", "--config", config, "--log-format", "json"); err != nil {
		return nil, err
	}
	for i := range staff {
		conn, err := s.caller(fmt.Sprint("/connect/staff-", i))
		if err != nil {
			return nil, err
		}
		s.conns = append(s.conns, conn)
	}
	s.other, err = s.caller("/other/nobody")
	return s, err
}

func (s *scene) path(name ...string) string {
	return filepath.Join(append([]string{s.world.Env.Dir}, name...)...)
}

// replace replaces a file atomically.
func replace(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil { //nolint:gosec // in a directory of ours
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *scene) value(secret int) string {
	return fmt.Sprintf("correct-horse-battery-staple-%d-%d", secret, s.versions[secret])
}

// writeSecrets writes the Key Vault's content. It requires s.mu, except during setup.
func (s *scene) writeSecrets() error {
	name := func(url string) string {
		return strings.TrimSuffix(strings.TrimPrefix(url, "https://"), ".vault.azure.net")
	}
	var content strings.Builder
	fmt.Fprintf(&content, "vaults:\n  no-role-key-vault: {fault: forbidden}\n  %s:\n    delay: 5ms\n    secrets:\n", name(devmode.VaultURL))
	for i := range stored {
		fmt.Fprintf(&content, "      s%d: {value: '{\"user\":\"dbadmin\",\"password\":\"%s\"}'}\n", i, s.value(i))
	}
	return replace(s.path("secrets.yaml"), content.String())
}

// writeIntegrations writes both integrations with a difference to the previous version. It
// requires s.mu, except during setup.
func (s *scene) writeIntegrations() error {
	s.changes++
	file := s.path("integrations", s.world.Env.IntegrationID+".yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	vault, _, _ := strings.Cut(string(data), "cache:")
	grants := fmt.Sprintf("grants:\n  - {principals: [spiffe://example.org/connect/*], secrets: [s*, n*, missing-*]}\n  - {principals: [spiffe://example.org/team-%d/*]}\n", s.changes)
	local := fmt.Sprintf("id: %s\nkind: LOCAL_FILE\nlocal: {directories: [%s]}\n", names, s.path(names))
	if s.changes%2 == 0 { // only one integration at a time has the setting
		return replace(s.path("integrations", names+".yaml"), local+grants)
	}
	return errors.Join(replace(file, vault+"cache: {}\n"+grants), replace(s.path("integrations", names+".yaml"), local+grants))
}

// caller connects as spiffe://example.org/PATH.
func (s *scene) caller(path string) (*grpc.ClientConn, error) {
	cert, err := s.world.Clients.Issue(path)
	if err != nil {
		return nil, err
	}
	return s.dial(cert)
}

func (s *scene) dial(cert tls.Certificate) (*grpc.ClientConn, error) {
	config, err := testbed.ClientTLS(s.world.Env.CAFile, cert)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+s.broker.Addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// resolve resolves one reference and returns its value.
func resolve(ctx context.Context, conn *grpc.ClientConn, req *secretbrokerv1.ResolveRequest, ref string) (string, error) {
	req.Configs = map[string]string{"connection.password": ref}
	resp, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req)
	return resp.GetConfigs()["connection.password"].GetValue(), err
}

// fillUsage makes as many different uses as the broker distinguishes. The broker forgets a use
// after five minutes, which this program cannot shorten; without fillUsage the number of
// entries would grow during the whole run.
func (s *scene) fillUsage(ctx context.Context) error {
	const uses = 66_000
	var workers sync.WaitGroup
	failed := make(chan error, len(s.conns))
	for w, conn := range s.conns {
		workers.Go(func() {
			for i := w; i < uses/4; i += len(s.conns) {
				req := &secretbrokerv1.ResolveRequest{IntegrationId: s.world.Env.IntegrationID, Connector: fmt.Sprint("fill-", i), Configs: make(map[string]string)}
				for c := range 4 {
					req.Configs[configName(c)] = fmt.Sprintf("%s::s%d::password", devmode.VaultURL, c)
				}
				if _, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req); err != nil && status.Code(err) != codes.ResourceExhausted {
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	return <-failed
}

// hangUp closes the permanent connections.
func (s *scene) hangUp() {
	for _, c := range s.conns {
		_ = c.Close() // the connection is no longer needed
	}
	if s.other != nil {
		_ = s.other.Close() // as above
	}
}

func (s *scene) close() error {
	s.hangUp()
	var err error
	if s.broker != nil {
		err = s.broker.Stop()
	}
	if s.world != nil {
		err = errors.Join(err, s.world.Close())
	}
	return err
}
