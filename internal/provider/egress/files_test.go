package egress

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestReadCredential(t *testing.T) {
	const setting, name = "vault.auth.secret_id_file", "vault.auth.secret_id"
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("of the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("sealed with another key")
	kept := func(text string, err error) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(text), err }
	}
	for _, tt := range []struct {
		name, path string
		kept       func(context.Context) ([]byte, error)
		want       string
		fault      string
	}{
		{"kept", "", kept("\ufeff kept \n", nil), "kept", ""},
		{"a file comes first", file, kept("kept", nil), "of the file", ""},
		{"only a file", file, nil, "of the file", ""},
		{"neither", "", nil, "", setting + " is missing"},
		{"cannot be opened", "", kept("", broken), "", name + ": the credential stored with the integration cannot be opened"},
		{"empty", "", kept(" \n", nil), "", name + ": the credential stored with the integration is empty"},
	} {
		b, err := ReadCredential(t.Context(), tt.kept, setting, tt.path)
		if string(b) != tt.want || (err == nil) != (tt.fault == "") {
			t.Errorf("%s: %d bytes, %v", tt.name, len(b), err)
		}
		if err == nil {
			continue
		}
		if e := secret.AsError(err); e.Reason != secret.ReasonStoreAuthenticationFailed || !strings.HasPrefix(e.Message, tt.fault) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.name == "cannot be opened" && !errors.Is(err, broken) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
}

func TestReadPrivateKey(t *testing.T) {
	const setting = "vault.auth.certificate_file"
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, []byte("\ufeffkey\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept := func(context.Context) ([]byte, error) { return []byte("kept"), nil }
	if b, err := ReadPrivateKey(t.Context(), kept, setting, file); err != nil || string(b) != "key" {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b, err := ReadPrivateKey(t.Context(), kept, setting, ""); err != nil || string(b) != "kept" {
		t.Errorf("of the kept one %d bytes, %v", len(b), err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, fault := range map[string]string{file: "chmod 600", file + "-missing": "does not exist"} {
		_, err := ReadPrivateKey(t.Context(), kept, setting, path)
		if err == nil {
			t.Errorf("%s was read", path)
			continue
		}
		if e := secret.AsError(err); e.Reason != secret.ReasonStoreAuthenticationFailed || !strings.HasPrefix(e.Message, setting+": "+file) || !strings.Contains(e.Message, fault) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
