package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secretbroker/secretbroker/bench/testbed"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore/pgserver"
)

const (
	attackersCount = 8
	operator       = "/ops/admin"
)

// bed is the environment of the attack on one broker: files, certificates, the embedded Key
// Vault, PostgreSQL, and the brokers.
type bed struct {
	world     *testbed.World
	options   *options
	broker    *broker // the attacked broker
	other     *broker // another replica, with PostgreSQL
	postgres  *pgserver.Server
	attackers []identity
	victim    identity
	prober    identity // its grant is revoked periodically
	operator  identity
	mounted   string // a mount, see smallDisk
	audits    string // a directory for audit logs
}

// newBed starts everything that a case needs.
func newBed(ctx context.Context, o *options, c *abuse) (_ *bed, err error) {
	b := &bed{options: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.world, err = testbed.NewWorld(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(b.writeIdentities(), b.writeValues()); err != nil {
		return nil, err
	}
	// In memory if possible: the speed of this machine's disk is not part of the
	// measurement, and varies more than the measured values.
	if b.audits, err = os.MkdirTemp("/dev/shm", "abuse-"); err != nil {
		b.audits, err = os.MkdirTemp("", "abuse-")
	}
	if err != nil {
		return nil, err
	}
	if c.postgres {
		err = b.startReplicas(ctx, c)
	} else {
		err = b.startAlone(ctx, c)
	}
	return b, err
}

func (b *bed) path(name ...string) string {
	return filepath.Join(append([]string{b.world.Env.Dir}, name...)...)
}

// writeIdentities issues all certificates.
func (b *bed) writeIdentities() (err error) {
	issue := func(path string) identity {
		cert, e := b.world.Clients.Issue(path)
		if e != nil {
			err = errors.Join(err, e)
			return identity{}
		}
		key, e := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		name := filepath.Join(b.world.Dir(), strings.ReplaceAll(path[1:], "/", "-"))
		id := identity{name + ".pem", name + "-key.pem"}
		err = errors.Join(err, e,
			os.WriteFile(id.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600),
			os.WriteFile(id.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
		return id
	}
	b.victim, b.prober, b.operator = issue("/connect/victim"), issue("/connect/prober"), issue(operator)
	for i := range attackersCount {
		b.attackers = append(b.attackers, issue(fmt.Sprint("/attack/", i)))
	}
	return err
}

// writeValues writes the secrets: 64 small ones and a large one in files, and as many in the
// embedded Key Vault, which takes 10 ms for each read.
func (b *bed) writeValues() error {
	err := os.Mkdir(b.path("values"), 0o700)
	for i := range 64 {
		err = errors.Join(err, os.WriteFile(b.path("values", fmt.Sprint("v-", i)), fmt.Appendf(nil, "correct-horse-%d", i), 0o600))
	}
	return errors.Join(err,
		os.WriteFile(b.path("values", "big"), []byte(strings.Repeat("x", 200_000)), 0o600),
		os.WriteFile(b.world.Env.SecretsFile, b.vaultSecrets(0), 0o600))
}

// document returns an integration whose secrets are files.
func (b *bed) document(id, rest string) string {
	return fmt.Sprintf("id: %s\nkind: LOCAL_FILE\nlocal: {directories: [%s]}\n%s", id, b.path("values"), rest)
}

func grant(principal string) string {
	return fmt.Sprintf("grants: [{principals: [\"spiffe://example.org%s\"]}]\n", principal)
}

// documents returns the integrations of every case.
func (b *bed) documents() map[string]string {
	return map[string]string{
		"mine":      b.document("mine", grant("/connect/victim")),
		"revocable": b.document("revocable", grant("/connect/prober")),
		"lent":      b.document("lent", grant("/attack/*")),
	}
}

// reference returns a reference to a secret in a file.
func (b *bed) reference(secret string) string { return "file://" + b.path("values") + "::" + secret }

// startAlone starts a broker whose integrations are files.
func (b *bed) startAlone(ctx context.Context, c *abuse) (err error) {
	documents := b.documents()
	sample, err := os.ReadFile(b.world.Env.IntegrationFile)
	if err != nil {
		return err
	}
	if err := os.Remove(b.world.Env.IntegrationFile); err != nil {
		return err
	}
	for id, more := range map[string]string{"vaulted": "", "watched": fmt.Sprintf("cache: {ttl: %s}\n", watchedTTL)} {
		if documents[id], err = b.vaulted(string(sample), id, more); err != nil {
			return err
		}
	}
	for id, text := range documents {
		if err := os.WriteFile(b.path("integrations", id+".yaml"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	audit := filepath.Join(b.audits, "audit.jsonl")
	if c.disk != nil {
		if audit, err = c.disk(b); err != nil {
			return err
		}
	}
	b.broker, err = startBroker(ctx, b, "broker", "registry: {directory: {path: integrations/}}\nroles: {resource_owner: [spiffe://example.org"+operator+"]}\nwatch: {splay: 0s}", audit, b.options.serverCPUs)
	return err
}

// vaulted returns an integration with the embedded Key Vault that allows eight concurrent
// reads, which are 800 per second.
func (b *bed) vaulted(sample, id, more string) (string, error) {
	settings, _, ok := strings.Cut(sample, "cache:")
	if !ok {
		return "", errors.New("the sample integration has another form")
	}
	settings = strings.Replace(settings, "id: "+b.world.Env.IntegrationID, "id: "+id, 1)
	return settings + more + `reads: {max_concurrent: 8}
grants: [{principals: [spiffe://example.org/connect/victim, "spiffe://example.org/attack/*"]}]
`, nil
}

// startReplicas starts two brokers with one PostgreSQL database, 800 additional integrations,
// and a large one.
func (b *bed) startReplicas(ctx context.Context, c *abuse) (err error) {
	if b.postgres, err = pgserver.New(); err != nil {
		return err
	}
	key := b.path("registry.key")
	if err := seal.Create(key); err != nil {
		return err
	}
	keys, err := seal.Open(key)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, c, keys); err != nil {
		return err
	}
	more := fmt.Sprintf("registry: {postgres: {url: '%s'}, seal: {key_file: registry.key}, allowed_files: [.], max_integrations: %d}\nroles: {resource_owner: [spiffe://example.org%s]}",
		b.postgres.URL("postgres"), 2*fillers, operator)
	if b.broker, err = startBroker(ctx, b, "broker", more, filepath.Join(b.audits, "audit.jsonl"), b.options.serverCPUs); err != nil {
		return err
	}
	b.other, err = startBroker(ctx, b, "other", more, filepath.Join(b.audits, "other.jsonl"), b.options.loadCPUs)
	return err
}

// fill writes the integrations of the replicas to the database.
func (b *bed) fill(ctx context.Context, c *abuse, keys seal.Sealer) (err error) {
	store, err := sqlstore.OpenPostgres(ctx, sqlstore.Postgres{URL: b.postgres.URL("postgres")}, sqlstore.Config{Kinds: kinds.All(), Sealer: keys, Files: []string{b.world.Env.Dir}, MaxIntegrations: 2 * fillers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	documents := b.documents()
	for i := range usedIntegrations {
		id := fmt.Sprint("used-", i)
		documents[id] = b.document(id, grant("/connect/victim"))
	}
	for i := range fillers {
		id := fmt.Sprintf(fillerIntegration, i)
		documents[id] = b.document(id, grant(fmt.Sprintf("/team-%d/*", i)))
	}
	grants := "grants:\n"
	for i := range 4000 {
		grants += fmt.Sprintf("  - {principals: [\"spiffe://example.org/team-%05d/*\"], secrets: [s-*]}\n", i)
	}
	if c.assigners {
		grants = "roles: {assigner: [\"spiffe://example.org/attack/*\"]}\n" + grants
	}
	documents[largeIntegration] = b.document(largeIntegration, grants)
	for _, text := range documents {
		if _, err := store.Create(ctx, registry.Change{Document: []byte(text)}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bed) close() error {
	var err error
	for _, broker := range []*broker{b.broker, b.other} {
		if broker != nil {
			broker.stop()
		}
	}
	if b.postgres != nil {
		err = b.postgres.Close()
	}
	if b.mounted != "" {
		err = errors.Join(err, unix.Unmount(b.mounted, 0))
	}
	if b.audits != "" {
		err = errors.Join(err, os.RemoveAll(b.audits))
	}
	if b.world != nil {
		err = errors.Join(err, b.world.Close())
	}
	return err
}
