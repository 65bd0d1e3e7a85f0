package app

import (
	"errors"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/netfault"
)

// TestWatchOnceEnds: "watch --once" ends after --timeout although a vault does not respond.
func TestWatchOnceEnds(t *testing.T) {
	b := newBroker(t, func(env *devmode.Environment) error {
		proxy, err := netfault.Listen("127.0.0.1:0", env.VaultListen)
		if err != nil {
			return err
		}
		proxy.Hold()
		t.Cleanup(func() { _ = proxy.Close() })
		return errors.Join(edit(env.IntegrationFile, "your-key-vault-name.vault.azure.net: "+env.VaultListen, "your-key-vault-name.vault.azure.net: "+proxy.Addr()))
	})
	code, stdout, stderr := command(t, "watch", "--once", "--timeout", "300ms", "--addr", b.addr, "--ca", b.CAFile, "--cert", b.Worker.CertFile, "--key", b.Worker.KeyFile,
		"--integration", "cspi-sqlserver", "p="+vault+"::postgres-password")
	if code != exit.Unreachable || stdout != "" || !strings.Contains(stderr, "within 300ms") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}
