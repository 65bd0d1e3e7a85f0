package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// The secret that all servers are asked for.
const storedSecret = "sqlserver-db-secret"

// peers measures alternatives in the same rounds as a floor and a broker: Vault with mutual
// TLS, and Dapr without TLS, which its API does not support.
func peers(ctx context.Context, args []string) (err error) {
	var c conditions
	flags := flag.NewFlagSet("perf peers", flag.ExitOnError)
	c.register(flags)
	shape := flags.String("shape", "4x16", "connections x calls under way on each")
	rate := flags.Float64("rate", 300, "then offer so many calls a second")
	only := flags.String("only", "vault,dapr", "the servers to compare with")
	vault := flags.String("vault", "", "Vault's test server; built from tools/peers/vault if empty")
	dapr := flags.String("dapr", "", "daprd; built from bench/peers/dapr if empty")
	out := flags.String("out", "", "a file for the results; empty for none")
	_ = flags.Parse(args) // ends the process

	b, err := newBed(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	res := newResults(c)
	for name := range strings.SplitSeq(*only, ",") {
		var group *contest
		var say string
		switch name {
		case "vault":
			group, err = b.withVault(ctx, *vault)
			say = ", mutual TLS"
		case "dapr":
			group, err = b.withDapr(ctx, *dapr)
			say = ", no TLS"
		default:
			err = errors.New("-only: unknown server")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, offered := range []*float64{nil, rate} {
			if err := group.measureAll(ctx, res, *shape+say, offered); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	res.print(os.Stdout)
	return res.save(*out)
}

// build builds the server of another project in the directory of its module, unless the binary
// exists already.
func (b *bed) build(ctx context.Context, binary, module string, args ...string) (string, error) {
	if binary != "" {
		return binary, nil
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("this needs the checkout: %w", err)
	}
	binary = filepath.Join(b.world.Dir(), filepath.Base(module))
	build := exec.CommandContext(ctx, "go", append([]string{"build", "-o", binary}, args...)...) //nolint:gosec // to a directory of ours
	build.Dir = filepath.Join(strings.TrimSpace(string(root)), module)
	build.Stderr = os.Stderr
	return binary, build.Run()
}

// withVault compares floor and brokers with Vault servers, all of which return the same two
// values.
func (b *bed) withVault(ctx context.Context, binary string) (*contest, error) {
	binary, err := b.build(ctx, binary, "tools/peers/vault", ".")
	if err != nil {
		return nil, err
	}
	broker, err := testbed.Build(ctx, b.world.Dir(), "cmd/secretbroker", "-trimpath")
	if err != nil {
		return nil, err
	}
	config, err := b.world.Config("peers.yaml", unlimited)
	if err != nil {
		return nil, err
	}
	unsynced, err := b.unsynced(config)
	if err != nil {
		return nil, err
	}
	what, err := resolveCalls(&secretbrokerv1.ResolveRequest{
		IntegrationId: b.world.Env.IntegrationID, Connector: "sqlserver-orders-cdc",
		Configs: map[string]string{
			configName(0): devmode.VaultURL + "::" + storedSecret + "::user",
			configName(1): devmode.VaultURL + "::" + storedSecret + "::password",
		},
	})
	if err != nil {
		return nil, err
	}
	calls, err := b.writeCalls("resolve", what)
	return &contest{bed: b, calls: calls, servers: []server{
		{name: "floor", command: b.floor()},
		{name: "broker", command: b.broker(broker, config)},
		{name: "broker, audit.sync none", command: b.broker(broker, unsynced)},
		b.vault(vaultSetup{binary: binary, name: "Vault"}),
		b.vault(vaultSetup{binary: binary, name: "Vault, audit to a file", audit: true}),
		b.vault(vaultSetup{binary: binary, name: "Vault, audit, no default policy", audit: true, onlyPolicy: true}),
	}}, err
}

// unsynced returns the configuration with an audit log that is not synced to the disk, like
// Vault's.
func (b *bed) unsynced(config string) (string, error) {
	data, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(config), "unsynced.yaml")
	content := strings.Replace(string(data), "{file: audit.jsonl}", "{file: audit.jsonl, sync: none}", 1)
	return path, os.WriteFile(path, []byte(content), 0o600) //nolint:gosec // in a directory of ours
}

// withDapr compares a floor without TLS with a Dapr sidecar that has its secrets in a file.
func (b *bed) withDapr(ctx context.Context, binary string) (*contest, error) {
	binary, err := b.build(ctx, binary, "bench/peers/dapr", "-tags", "stablecomponents", "github.com/dapr/dapr/cmd/daprd")
	if err != nil {
		return nil, err
	}
	const store = "local"
	dir := filepath.Join(b.world.Dir(), "dapr")
	secrets := filepath.Join(dir, "secrets.json")
	component := fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: %s}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
  - {name: secretsFile, value: %s}
  - {name: multiValued, value: "true"}
`, store, secrets)
	if err := os.MkdirAll(filepath.Join(dir, "components"), 0o700); err != nil {
		return nil, err
	}
	content, err := json.Marshal(map[string]any{storedSecret: map[string]string{"user": user, "password": password}})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.WriteFile(secrets, content, 0o600), os.WriteFile(filepath.Join(dir, "components", "local.yaml"), []byte(component), 0o600)); err != nil {
		return nil, err
	}
	// GetSecretRequest of Dapr's API: store_name and key.
	message := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), store)
	message = protowire.AppendString(protowire.AppendTag(message, 2, protowire.BytesType), storedSecret)
	get, err := b.writeCalls("dapr", calls{Path: "/dapr.proto.runtime.v1.Dapr/GetSecret", Messages: [][]byte{message}, Plain: true})
	if err != nil {
		return nil, err
	}
	// The request to a floor does not matter; it always answers with the same two values.
	ask, err := resolveCalls(&secretbrokerv1.ResolveRequest{IntegrationId: store, Configs: map[string]string{"key": storedSecret}})
	if err != nil {
		return nil, err
	}
	ask.Plain = true
	askFile, err := b.writeCalls("plain", ask)
	return &contest{bed: b, calls: askFile, servers: []server{
		{name: "floor", command: b.floor("-plain")},
		{name: "Dapr", start: func(context.Context) (*testbed.Process, string, error) {
			p, err := b.startDapr(binary, dir)
			return p, get, err
		}},
	}}, err
}

// startDapr starts a sidecar as in production, but with fewer log lines.
func (b *bed) startDapr(binary, dir string) (*testbed.Process, error) {
	var listeners [4]net.Listener
	for i := range listeners { // all at the same time, so that the ports differ
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners[i] = l
	}
	port := func(i int) string { return strconv.Itoa(listeners[i].Addr().(*net.TCPAddr).Port) }
	for _, l := range listeners {
		_ = l.Close() // Dapr will listen on the port
	}
	return testbed.StartUntil(b.serverCPUs, b.env, func(line string, p *testbed.Process) bool {
		p.Addr, p.AdminAddr = "127.0.0.1:"+port(0), "127.0.0.1:"+port(1)
		return strings.Contains(line, "dapr initialized")
	}, binary, "--app-id", "bench", "--mode", "standalone", "--resources-path", filepath.Join(dir, "components"), "--placement-host-address", "",
		"--dapr-listen-addresses", "127.0.0.1", "--dapr-grpc-port", port(0), "--metrics-port", port(1), "--dapr-http-port", port(2), "--dapr-internal-grpc-port", port(3))
}
