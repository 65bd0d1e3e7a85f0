package clienttest_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client/clienttest"
)

// grpcVersion is the version of grpcio and grpcio-tools, and part of the name of the cached
// environment.
const grpcVersion = "1.76.0"

// python is an environment with gRPC, which it installs into the user's cache, and the code
// that is generated from proto/. It runs only if TEST_PEERS is set: make test-peers.
type python struct{ command, generated string }

func newPython(t *testing.T) *python {
	t.Helper()
	if os.Getenv("TEST_PEERS") == "" {
		t.Skip("needs gRPC for Python, which make test-peers installs")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "secretbroker-peers", "grpcio-"+grpcVersion)
	p := &python{filepath.Join(dir, "bin", "python"), t.TempDir()}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err != nil {
		p.run(t, "python3", "-m", "venv", "--clear", dir)
		p.run(t, p.command, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "grpcio=="+grpcVersion, "grpcio-tools=="+grpcVersion, "googleapis-common-protos")
		if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.run(t, p.command, "-m", "grpc_tools.protoc", "-I", "../../proto", "--python_out="+p.generated, "--grpc_python_out="+p.generated,
		"secretbroker/v1/resolver.proto", "secretbroker/v1/watch.proto")
	return p
}

func (p *python) run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := p.prepare(t.Context(), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (p *python) prepare(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH="+p.generated+string(os.PathListSeparator)+"../../examples/python")
	return cmd
}

// TestPeerPythonFollow runs the example for Python against a broker.
func TestPeerPythonFollow(t *testing.T) {
	p := newPython(t)
	p.run(t, p.command, "-m", "unittest", "test_follow")
	b := clienttest.NewBroker(t)
	b.Set("prod", db, `{"password":"12345"}`)
	dir := t.TempDir()
	for name, from := range map[string]string{"ca.pem": b.Config().CAFile, "worker.pem": b.Config().CertFile, "worker-key.pem": b.Config().KeyFile} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := p.prepare(ctx, p.command, "../../examples/python/follow.py", b.Config().Addrs[0], dir, "prod", "password="+db+"::password")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it was killed
	}()
	lines := bufio.NewScanner(stdout)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q (%v), want %q", lines.Text(), lines.Err(), want)
		}
	}
	expect("password: 5 characters, version 1")
	b.Set("prod", db, `{"password":"1234567"}`)
	expect("password: 7 characters, version 2")
	b.Deny("prod")
	expect("password: denied: ACCESS_DENIED")
	b.Allow("prod")
	expect("password: 7 characters, version 2")
	b.Stop()
	b.Set("prod", db, `{"password":"123456789"}`)
	b.Start()
	expect("password: 9 characters, version 3")
}
