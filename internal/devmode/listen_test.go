package devmode_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/secretbroker/secretbroker/internal/devmode"
)

func TestAddressOfAnExistingIntegration(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	})
	const file = "cspi-sqlserver.yaml"
	tests := []struct {
		name, integration, listen string
		want                      []string // in the error; nil for success
	}{
		{"dials elsewhere", "azure: {dial: {your-key-vault-name.vault.azure.net: '127.0.0.1:1'}}", "127.0.0.1:2",
			[]string{file, "dials 127.0.0.1:1,", "listen on 127.0.0.1:2", "azure.dial", "delete the file"}},
		{"names another vault", "azure: {dial: {b.vault.azure.net: '127.0.0.1:2', a.vault.azure.net: '127.0.0.1:1'}}", "127.0.0.1:3",
			[]string{file, "dials 127.0.0.1:1 and 127.0.0.1:2,"}},
		{"address taken", "azure: {dial: {other-vault.vault.azure.net: '" + taken.Addr().String() + "'}}", "",
			[]string{"taken", taken.Addr().String(), "delete", file}},
		{"port left open, address taken", "azure: {dial: {your-key-vault-name.vault.azure.net: '" + taken.Addr().String() + "', a.vault.azure.net: '127.0.0.1:1'}}", "127.0.0.1:0",
			[]string{"taken", taken.Addr().String()}},
		{"not YAML", "azure: [", "127.0.0.1:0", []string{file, "correct the file"}},
		{"invalid YAML further down", "id: a\nazure:\n  dial: \"hunter2\n", "127.0.0.1:0", []string{file + ", near line 3,", "correct the file"}},
		{"a value instead of the table", "id: a\nazure:\n  dial: hunter2\n", "127.0.0.1:0", []string{file + ", near line 3,", "azure.dial", "correct the file"}},
		{"a list in an address", "azure:\n  dial:\n    a: [hunter2]\n", "127.0.0.1:0", []string{file + ", near line 3,", "correct the file"}},
		{"an undefined alias", "azure:\n  client_secret: *hunter2\n", "127.0.0.1:0", []string{file, "correct the file"}},
		{"not loopback", "", "0.0.0.0:0", []string{"loopback", `"0.0.0.0:0"`}},
		{"no port", "", "127.0.0.1", []string{"loopback", `"127.0.0.1"`}},
		{"dials a real vault", "azure: {dial: {your-key-vault-name.vault.azure.net: '192.0.2.1:443'}}", "127.0.0.1:0", nil},
		{"dials nothing", "azure: {}", "127.0.0.1:0", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.integration != "" {
				if err := os.Mkdir(filepath.Join(dir, "integrations"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "integrations", file), []byte(tt.integration), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			env, err := devmode.Start(t.Context(), devmode.Options{Dir: dir, VaultListen: tt.listen})
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := env.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error", env.Close())
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not contain %q", err, want)
				}
			}
			for _, leak := range []string{"hunter2", "map[", "!!", "string"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("error %q contains %q", err, leak)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "ca.pem")); err == nil {
				t.Error("certificates were written although the address is in use")
			}
		})
	}
}

func TestFailedStartLeavesNothingRunning(t *testing.T) {
	dir := t.TempDir()
	first := start(t, freePort(dir))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(first.SecretsFile, []byte("vaults: {my-vault: {secrets: {s: {value: [hunter2]}}}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := devmode.Start(t.Context(), devmode.Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), first.SecretsFile) || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("error is %v, want one that names the file and quotes no value", err)
	}
	ln, err := net.Listen("tcp", first.VaultListen)
	if err != nil {
		t.Fatalf("the address is still taken: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStartHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if env, err := devmode.Start(ctx, freePort(t.TempDir())); err == nil {
		t.Error("no error", env.Close())
	}
}

// TestClose closes the environment during a request that would last an hour, and with an open
// connection that never sent a request.
func TestClose(t *testing.T) {
	env := start(t, freePort(t.TempDir()))
	if _, err := vault(t, env, devmode.VaultURL).GetSecret(t.Context(), "postgres-password", "", nil); err != nil {
		t.Fatal(err)
	}
	const slow = "vaults: {your-key-vault-name: {delay: 1h, secrets: {s: {value: v}}}}"
	if err := os.WriteFile(env.SecretsFile, []byte(slow), 0o600); err != nil {
		t.Fatal(err)
	}
	reads := env.KeyVault.Reads()
	ended := make(chan error, 1)
	client := vault(t, env, devmode.VaultURL)
	go func() {
		_, err := client.GetSecret(context.Background(), "s", "", nil)
		ended <- err
	}()
	silent, err := tls.Dial("tcp", env.VaultListen, &tls.Config{InsecureSkipVerify: true}) // the test does not use the connection
	if err != nil {
		t.Fatal(err)
	}
	for env.KeyVault.Reads() == reads {
		// Only the counter shows that the request has arrived.
		select {
		case err := <-ended:
			t.Fatalf("the slow request ended before Close: %v", err)
		default:
			runtime.Gosched()
		}
	}
	for range 2 {
		if err := env.Close(); err != nil {
			t.Error(err)
		}
	}
	err = <-ended
	if re, ok := errors.AsType[*azcore.ResponseError](err); !ok || re.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the active request ended with %v, want status 503", err)
	}
	if _, err := bufio.NewReader(silent).ReadByte(); err == nil {
		t.Error("the idle connection is still open")
	}
	_ = silent.Close() // the other end is closed
	if conn, err := net.Dial("tcp", env.VaultListen); err == nil {
		t.Error("the address is still served", conn.Close())
	}
}
