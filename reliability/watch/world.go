package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
	"github.com/secretbroker/secretbroker/internal/netfault"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgserver"
)

const (
	integrations = 4
	secretsEach  = 10
	workers      = 6
	replicas     = 2
	clients      = 28
	// ttl is the time after which a watched secret is read again.
	ttl = 2 * time.Second
	// canary is the prefix of every value, to find values where they must not be.
	canary = "canary-3d91"
)

// The principals that are not workers: one that watches everything because of its role, and
// one that never has a grant.
const (
	rotator  = "/ops/rotator"
	stranger = "/connect/stranger"
)

func worker(i int) string { return fmt.Sprint("/connect/worker-", i) }

// principals returns all principals.
func principals() []string {
	all := []string{rotator, stranger}
	for i := range workers {
		all = append(all, worker(i))
	}
	return all
}

func integrationName(i int) string { return fmt.Sprint("watched-", i) }
func secretName(i int) string      { return fmt.Sprintf("secret-%02d", i) }
func vaultName(integration string) string {
	return integration + "-vault"
}

func referenceOf(it item) string {
	return "https://" + vaultName(it.integration) + ".vault.azure.net::" + it.secret
}

// world is the environment of the clients: the vault, the database, the replicas, and what is
// true.
type world struct {
	*testbed.World
	truth    *truth
	postgres *pgserver.Server
	// vault and database are the ways of the replicas to the vault and the database.
	vault, database *netfault.Proxy
	// store is this program's own way to the integrations.
	store    *sqlstore.Store
	replicas []*replica
	conns    map[string][]*grpc.ClientConn // of a principal, to each replica
	identity string                        // settings with which replicas log in to the vault

	// What is true now; only the goroutine of change uses it.
	values  map[item]string
	granted map[access]bool
	exists  map[string]bool
}

func newWorld(ctx context.Context, o *options) (w *world, err error) {
	w = &world{truth: newTruth(), conns: make(map[string][]*grpc.ClientConn), values: make(map[item]string), granted: make(map[access]bool), exists: make(map[string]bool)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close(o.keep))
		}
	}()
	if w.World, err = testbed.NewWorld(ctx); err != nil {
		return w, err
	}
	if err := w.readSample(); err != nil {
		return w, err
	}
	if w.vault, err = netfault.Listen("127.0.0.1:0", w.Env.VaultListen); err != nil {
		return w, err
	}
	if w.postgres, err = pgserver.New(); err != nil {
		return w, err
	}
	if w.database, err = netfault.Listen("127.0.0.1:0", w.postgres.Addr()); err != nil {
		return w, err
	}
	keyFile := filepath.Join(w.Env.Dir, "registry.key")
	if err := seal.Create(keyFile); err != nil {
		return w, err
	}
	keys, err := seal.Open(keyFile)
	if err != nil {
		return w, err
	}
	w.store, err = sqlstore.OpenPostgres(ctx, sqlstore.Postgres{URL: w.postgres.URL("postgres")}, sqlstore.Config{Kinds: kinds.All(), Sealer: keys, Files: []string{w.Env.Dir}})
	if err != nil {
		return w, err
	}
	if err := w.begin(ctx); err != nil {
		return w, err
	}
	for i := range replicas {
		r, err := newReplica(w, o.broker, i)
		if err != nil {
			return w, err
		}
		w.replicas = append(w.replicas, r)
		if err := r.start(ctx); err != nil {
			return w, err
		}
	}
	return w, w.connect()
}

// readSample takes the identity of the vault from the sample integration, and removes that.
func (w *world) readSample() error {
	text, err := os.ReadFile(w.Env.IntegrationFile)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && (name == "tenant_id" || name == "client_id") {
			w.identity += fmt.Sprintf("  %s: %s\n", name, value)
		}
	}
	return os.Remove(w.Env.IntegrationFile)
}

// begin makes the first values and integrations. Every worker may use every integration.
func (w *world) begin(ctx context.Context) error {
	var all []item
	for i := range integrations {
		for k := range secretsEach {
			all = append(all, item{integrationName(i), secretName(k)})
		}
		for k := range workers {
			w.granted[access{worker(k), integrationName(i)}] = true
		}
	}
	if err := w.rotate(all); err != nil {
		return err
	}
	for i := range integrations {
		if err := w.create(ctx, integrationName(i)); err != nil {
			return err
		}
	}
	return nil
}

// rotate gives secrets new values.
func (w *world) rotate(which []item) error {
	versions := make(map[item]string)
	for _, it := range which {
		w.values[it] = fmt.Sprintf("%s-%s-%d", canary, it.secret, time.Now().UnixNano())
		versions[it] = keyvault.VersionID(vaultName(it.integration), it.secret, w.values[it])
	}
	var text strings.Builder
	text.WriteString("vaults:\n")
	for i := range integrations {
		fmt.Fprintf(&text, "  %s:\n    secrets:\n", vaultName(integrationName(i)))
		for k := range secretsEach {
			fmt.Fprintf(&text, "      %s: {value: %s}\n", secretName(k), w.values[item{integrationName(i), secretName(k)}])
		}
	}
	began := time.Now()
	temporary := w.Env.SecretsFile + ".new"
	if err := errors.Join(os.WriteFile(temporary, []byte(text.String()), 0o600), os.Rename(temporary, w.Env.SecretsFile)); err != nil {
		return err
	}
	w.truth.rotated(span{began, time.Now()}, versions)
	return nil
}

// document returns an integration with its present grants.
func (w *world) document(integration string) []byte {
	var grants strings.Builder
	for i := range workers {
		if w.granted[access{worker(i), integration}] {
			fmt.Fprintf(&grants, "  - {principals: [\"spiffe://example.org%s\"]}\n", worker(i))
		}
	}
	if grants.Len() == 0 {
		grants.WriteString("  []\n")
	}
	return fmt.Appendf(nil, `id: %s
kind: AZURE_KEY_VAULT
azure:
%s  credential: {type: client_secret}
  vaults: [https://%s.vault.azure.net]
  ca_file: %s
  authority_host: https://%s
  disable_instance_discovery: true
  dial: {%s.vault.azure.net: %q}
cache: {ttl: %s}
grants:
%s`, integration, w.identity, vaultName(integration), w.Env.KeyVaultCAFile, w.Env.VaultListen, vaultName(integration), w.vault.Addr(), ttl, grants.String())
}

// allow records who may watch an integration now.
func (w *world) allow(during span, integration string) {
	all := make(map[access]bool)
	for _, who := range principals() {
		a := access{who, integration}
		all[a] = w.exists[integration] && (w.granted[a] || who == rotator)
	}
	w.truth.allows(during, all)
}

// connect makes the connections of every principal to every replica.
func (w *world) connect() error {
	for _, who := range principals() {
		cert, err := w.Clients.Issue(who)
		if err != nil {
			return err
		}
		for _, r := range w.replicas {
			conn, err := dial(w.Env.CAFile, r.addr, cert)
			if err != nil {
				return err
			}
			w.conns[who] = append(w.conns[who], conn)
		}
	}
	return nil
}

func dial(caFile, addr string, cert tls.Certificate) (*grpc.ClientConn, error) {
	config, err := testbed.ClientTLS(caFile, cert)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 3 * time.Second,
		}))
}

// services returns the WatchService of every replica for a principal.
func (w *world) services(who string) (all []secretbrokerv1.WatchServiceClient) {
	for _, conn := range w.conns[who] {
		all = append(all, secretbrokerv1.NewWatchServiceClient(conn))
	}
	return all
}

func (w *world) close(keep bool) error {
	var err error
	for conns := range maps.Values(w.conns) {
		for _, conn := range conns {
			_ = conn.Close() // it has no streams any more
		}
	}
	for _, r := range w.replicas {
		r.stop(os.Kill)
	}
	if w.store != nil {
		err = errors.Join(err, w.store.Close())
	}
	for _, p := range []*netfault.Proxy{w.database, w.vault} {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	if w.postgres != nil {
		err = errors.Join(err, w.postgres.Close())
	}
	switch {
	case w.World == nil:
	case keep:
		fmt.Fprintln(os.Stderr, "kept:", w.Dir())
	default:
		err = errors.Join(err, w.World.Close())
	}
	return err
}
