package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/client/clienttest"
	"github.com/secretbroker/secretbroker/internal/asynctest"
)

func TestMistakesAreExplained(t *testing.T) {
	for want, args := range map[string][]string{
		"name=reference": {"https://v.vault.azure.net::n"},
		"ca.pem":         {"-dir", t.TempDir(), "p=https://v.vault.azure.net::n"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want one with %q", args, err, want)
		}
	}
}

// With -follow, the program prints a rotation and a lost access, but never a value.
func TestFollow(t *testing.T) {
	const reference = "https://my-vault.vault.azure.net::db"
	b := clienttest.NewBroker(t)
	b.Set("prod", reference, "hunter2")
	dir, cfg := t.TempDir(), b.Config()
	for name, file := range map[string]string{"ca.pem": cfg.CAFile, "worker.pem": cfg.CertFile, "worker-key.pem": cfg.KeyFile} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out asynctest.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-follow", "-addr", cfg.Addrs[0], "-dir", dir, "-integration", "prod", "p=" + reference}, &out)
	}()
	wait := func(want string) {
		t.Helper()
		asynctest.Eventually(t, want, func() bool { return strings.Contains(out.String(), want) })
	}
	wait("p: [REDACTED], version 1\n")
	b.Set("prod", reference, "hunter3")
	wait("p: changed: [REDACTED], version 2\n")
	b.Deny("prod")
	wait("p: no value any more: secretbroker: ACCESS_DENIED")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if strings.Contains(out.String(), "hunter") {
		t.Error("a value is printed")
	}
}
