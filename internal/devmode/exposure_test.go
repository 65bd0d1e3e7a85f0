package devmode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStartRefusesExposure(t *testing.T) {
	open := func(t *testing.T, path string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		listen, admin string
		insecure      bool
		prepare       func(t *testing.T, dir string)
		refused       string // "" if it starts
	}{
		"every IPv4 address":         {listen: "0.0.0.0:0", refused: "--insecure-listen"},
		"every address":              {listen: ":0", refused: "--insecure-listen"},
		"every IPv6 address":         {listen: "[::]:0", refused: "--insecure-listen"},
		"a name":                     {listen: "broker.example.org:0", refused: "--insecure-listen"},
		"the admin endpoint":         {admin: "0.0.0.0:0", refused: "--admin-listen 0.0.0.0:0"},
		"with the flag":              {listen: "0.0.0.0:0", admin: "0.0.0.0:0", insecure: true},
		"loopback":                   {listen: "[::1]:0", admin: "localhost:0"},
		"writable by all":            {prepare: func(t *testing.T, dir string) { open(t, dir, 0o777) }, refused: "chmod o-w"},
		"writable by all and sticky": {prepare: func(t *testing.T, dir string) { open(t, dir, 0o777|os.ModeSticky) }, refused: "chmod o-w"},
		"its integrations": {prepare: func(t *testing.T, dir string) { open(t, filepath.Join(dir, "integrations"), 0o777) },
			refused: filepath.Join("dev", "integrations")},
		"a directory that all may read": {prepare: func(t *testing.T, dir string) { open(t, dir, 0o755) }},
		"owned by another user": {prepare: func(t *testing.T, dir string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a directory away")
			}
			open(t, dir, 0o755)
			if err := os.Chown(dir, 12345, 12345); err != nil {
				t.Fatal(err)
			}
		}, refused: "belongs to user 12345"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dev")
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			env, err := Start(t.Context(), Options{Dir: dir, Listen: c.listen, AdminListen: c.admin, VaultListen: "127.0.0.1:0", InsecureListen: c.insecure})
			if err == nil {
				defer env.Close()
			}
			switch {
			case c.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("got %v, want an error with %q", err, c.refused)
			}
			if _, e := os.Stat(filepath.Join(dir, "ca.pem")); err != nil && e == nil {
				t.Error("files were written although the start was refused")
			}
		})
	}
}
